"""The ingest worker: publishes the entries that other services add to the ingest stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice

import structlog
from redis.exceptions import ResponseError
from typing_extensions import override

from roomcast.brokers.interface import Broker, Published, Submission
from roomcast.brokers.map_interface import MapStore, MapSubmission, Written
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespaces
from roomcast.redis_access.client import OUTAGES, Client
from roomcast.redis_access.envelope import MalformedMessage
from roomcast.redis_access.work_queue import Entry, WorkQueue
from roomcast.tasks import TaskSet
from roomcast_workers.ingest_entries import channel_of, submission_of
from roomcast_workers.ingest_order import IngestOrder
from roomcast_workers.lease import Lease
from roomcast_workers.runner import Health, Worker, work_through_outages

log = structlog.get_logger(__name__)

NAME = "ingest"

# Another worker continues at most 2.5 s after the last step of one that was killed.
_LEASE_TTL_S = 2.0
_TICK_S = 0.5
_HEALTH_TTL_S = 3 * _LEASE_TTL_S
# One batch is read, published and removed before the next. Batches of four times this length are only 4 % faster.
_BATCH_LENGTH = 256
_BATCH_BYTES = 16 * 1024 * 1024
# How long the other shards' entries wait for the slowest one.
_PATIENCE_S = 0.1

_Submissions = dict[bytes, Submission | MapSubmission]  # by the ids of the entries
_Result = Published | Written | ClientError | BrokerUnavailable


class IngestWorker(Worker):
    """Publishes the entries of the ingest stream in their order while it holds the lease.

    The fields of entries: see docs/ingest.md.
    Entries that cannot be published are moved to the dead letters, with the reason. Those that Redis refuses for now
    wait, and so do later ones of their channels; all others are published meanwhile.
    Delivery: at least once, in the stream's order for each channel: an entry is removed after it was published. Its
        idempotency key, or one made of its id, makes that once within 5 minutes, even if a worker was killed or stopped
        past its lease.

    Args:
        timeout_s: the client's timeout for a reply; waits for entries are shorter.
    """

    def __init__(
        self,
        client: Client,
        broker: Broker,
        maps: MapStore,
        namespaces: Namespaces,
        *,
        prefix: str,
        name: str,
        max_message_bytes: int,
        timeout_s: float,
    ) -> None:
        self._broker = broker
        self._maps = maps
        self._namespaces = namespaces
        self._max_message_bytes = max_message_bytes
        self._batch_length = max(1, min(_BATCH_LENGTH, _BATCH_BYTES // max_message_bytes))
        self._wait_s = min(_TICK_S, timeout_s / 2)
        self._stream = WorkQueue(client, prefix=prefix)
        self._lease = Lease(client, self._stream.lease_key, ttl_s=_LEASE_TTL_S)
        self._health = Health(client, prefix=prefix, worker=NAME, name=name)
        self._health_due_at_s = 0.0
        self._order = IngestOrder()
        self._flights = TaskSet("ingest.publish")
        self._unburied: dict[bytes, str] = {}  # entries that become dead letters, with the reason
        self._bury_at_s = 0.0
        self._records = TaskSet("ingest.health")
        self._failure: BaseException | None = None  # of a batch; raised by the next step
        self._is_working = False
        self._published_count = 0
        self._dead_count = 0

    @override
    async def run(self) -> None:
        try:
            await work_through_outages(self._step, worker=NAME, pause_s=_TICK_S)
        finally:
            await self._flights.end()
            await self._records.end()

    @override
    async def finish(self) -> None:
        await self._lease.release()

    async def _step(self) -> None:
        holds_lease = await self._lease.acquire()
        self._record_health(is_holder=holds_lease)
        if holds_lease and not self._is_working:
            log.info("ingest.working")
        self._is_working = holds_lease
        if not holds_lease:
            self._order.start_over()
            self._unburied.clear()
            await asyncio.sleep(_TICK_S)
            return
        await self._retry()
        await self._bury()
        after = self._order.cursor
        entries = await self._stream.read(after=after, count=self._batch_length, within_s=self._wait_s)
        # A process that was stopped for longer than idempotency keys are kept would publish the entries again.
        # If the cursor has moved back meanwhile, earlier entries are read first.
        if entries and self._lease.is_held and self._order.cursor == after:
            self._order.cursor = entries[-1].id
            await self._publish(entries)
        self._raise_failure()

    async def _publish(self, entries: Sequence[Entry]) -> None:
        """Publish a batch and remove it; entries that wait for earlier ones are left. Raises: one of OUTAGES."""
        batches: dict[str, _Submissions] = {}
        for entry in entries:
            channel = channel_of(entry.fields)
            shard = self._broker.shard_of(channel)
            if entry.id in self._unburied or not self._order.may_start(entry.id, channel, shard):
                continue
            try:
                batches.setdefault(shard, {})[entry.id] = self._submission(entry)
            except (ClientError, MalformedMessage) as exc:
                self._unburied[entry.id] = exc.detail if isinstance(exc, ClientError) else str(exc)
        await self._start(batches)
        await self._bury()

    async def _retry(self) -> None:
        """Publish the oldest entries of channels that wait, beside those that are read next."""
        ids = self._order.due(time.monotonic(), self._broker.shard_of, limit=self._batch_length)
        if not ids:
            return
        found = {entry.id: entry for entry in await self._stream.find(ids)}
        batches: dict[str, _Submissions] = {}
        for entry_id, channel in ids.items():
            shard = self._broker.shard_of(channel)
            if entry_id not in found:  # an operator has removed it
                self._order.proceed(channel)
            elif not self._order.is_busy(shard):
                batches.setdefault(shard, {})[entry_id] = self._submission(found[entry_id])
        if self._lease.is_held:
            await self._start(batches)

    async def _start(self, batches: Mapping[str, _Submissions]) -> None:
        """Publish one batch on each shard. A shard that takes long, or is away, continues beside the others."""
        tasks = []
        for shard, submissions in batches.items():
            self._order.started(shard, (each.publication.channel for each in submissions.values()))
            tasks.append(self._flights.spawn(self._publish_on(shard, submissions)))
            tasks[-1].add_done_callback(self._note_failure)
        if tasks:
            # Without shards there is nothing else to do meanwhile.
            await asyncio.wait(tasks, timeout=_PATIENCE_S if all(batches) else None)

    async def _publish_on(self, shard: str, submissions: _Submissions) -> None:
        try:
            published, dead = self._settled(submissions, await self._submit(list(submissions.values())))
            self._unburied |= dead
            await self._stream.ack(published, {})
            self._published_count += len(published)
        except (*OUTAGES, BrokerUnavailable):
            self._order.read_again(next(iter(submissions)))
            raise
        finally:
            self._order.ended(shard)

    async def _submit(self, submissions: Sequence[Submission | MapSubmission]) -> list[_Result]:
        """Return the result of each; no channel has publications and writes of a map. Raises: BrokerUnavailable."""
        publications = [each for each in submissions if isinstance(each, Submission)]
        writes = [each for each in submissions if isinstance(each, MapSubmission)]
        published = iter(await self._broker.publish_all(publications) if publications else ())
        written = iter(await self._maps.write_all(writes) if writes else ())
        return [next(published) if isinstance(each, Submission) else next(written) for each in submissions]

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _settled(self, submissions: _Submissions, results: Sequence[_Result]) -> tuple[list[bytes], dict[bytes, str]]:
        """Return the published entries, and those that cannot be published with the reason; let the others wait."""
        now_s = time.monotonic()
        answered = [
            (entry_id, each.publication.channel, result)
            for (entry_id, each), result in zip(submissions.items(), results, strict=True)
        ]
        published = {
            entry_id: channel for entry_id, channel, result in answered if isinstance(result, Published | Written)
        }
        self._order.accepted(published.values(), now_s)
        overtaken, refused = set(), dict[str, tuple[bytes, str]]()
        dead: dict[bytes, str] = {}
        for entry_id, channel, result in reversed(answered):
            if isinstance(result, Published | Written):
                overtaken.add(channel)
                continue
            reason = result.detail if isinstance(result, ClientError) else result.reason
            if self._is_for_good(channel, result, now_s):
                dead[entry_id] = reason
            elif channel in overtaken:
                dead[entry_id] = f"{reason}, and a later entry of the channel was published"
            else:
                refused[channel] = entry_id, reason
        self._wait_for(refused, now_s)
        for _, channel, _ in answered:
            if channel not in refused:
                self._order.proceed(channel)
        return list(published), {entry_id: dead[entry_id] for entry_id in submissions if entry_id in dead}

    def _is_for_good(self, channel: str, result: ClientError | BrokerUnavailable, now_s: float) -> bool:
        if isinstance(result, ClientError) and result.error is ErrorCode.PERMISSION_DENIED:
            return self._order.is_forbidden_for_good(channel, now_s)
        return isinstance(result, ClientError)

    def _wait_for(self, refused: Mapping[str, tuple[bytes, str]], now_s: float) -> None:
        """Let channels wait whose oldest entries were refused; `refused`: the entry and the reason of each."""
        if refused and not self._order.is_waiting:
            channel, (_, reason) = next(iter(refused.items()))
            log.warning("ingest.refused", channel=channel, reason=reason)
        for channel, (entry_id, _) in refused.items():
            self._order.wait(channel, entry_id, retry_at_s=now_s + _TICK_S)

    async def _bury(self) -> None:
        """Move entries to the dead letters. If that is refused they stay in the stream, and stop no other."""
        dead = dict(islice(self._unburied.items(), self._batch_length))
        if not dead or time.monotonic() < self._bury_at_s:
            return
        try:
            await self._stream.ack([], dead)
        except ResponseError as exc:
            self._bury_at_s = time.monotonic() + _TICK_S
            log.debug("ingest.bury_refused", reason=str(exc))
            return
        for entry_id in dead:
            del self._unburied[entry_id]
        self._dead_count += len(dead)
        entry_id, reason = next(iter(dead.items()))
        log.warning("ingest.dead", count=len(dead), entry=entry_id.decode(), reason=reason)

    def _submission(self, entry: Entry) -> Submission | MapSubmission:
        """Return what an entry submits. Raises: ClientError, MalformedMessage."""
        return submission_of(entry, self._namespaces, max_message_bytes=self._max_message_bytes)

    def _record_health(self, *, is_holder: bool) -> None:
        """Record now and then that the worker is alive, beside its work: that key may be on a shard that is away."""
        now_s = time.monotonic()
        if now_s >= self._health_due_at_s and not len(self._records):
            self._health_due_at_s = now_s + _TICK_S
            facts = {"holds_lease": is_holder, "published": self._published_count, "dead": self._dead_count}
            self._records.spawn(self._record(facts))

    async def _record(self, facts: dict[str, int]) -> None:
        with suppress(*OUTAGES):
            await self._health.record(facts, ttl_s=_HEALTH_TTL_S)
