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

from roomcast.brokers.interface import (
    MAX_KEY_LENGTH,
    MAX_VERSION,
    MAX_VERSION_EPOCH_LENGTH,
    Broker,
    Once,
    Published,
    Submission,
)
from roomcast.model import json
from roomcast.model.channels import check_channel
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Kind, Publication
from roomcast.model.tags import check_tags
from roomcast.redis_access.client import OUTAGES, Client
from roomcast.redis_access.envelope import MalformedMessage, check_document
from roomcast.redis_access.work_queue import Entry, WorkQueue
from roomcast.tasks import TaskSet
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


class IngestWorker(Worker):
    """Publishes the entries of the ingest stream in their order while it holds the lease.

    An entry's fields: channel; data, a JSON document; tags, a JSON object, optional; key, version, version_epoch, all
    three optional: see `Once`.
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
        namespaces: Namespaces,
        *,
        prefix: str,
        name: str,
        max_message_bytes: int,
        timeout_s: float,
    ) -> None:
        self._broker = broker
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
        batches: dict[str, dict[bytes, Submission]] = {}
        for entry in entries:
            channel = entry.fields.get(b"channel", b"").decode(errors="replace")
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
        batches: dict[str, dict[bytes, Submission]] = {}
        for entry_id, channel in ids.items():
            shard = self._broker.shard_of(channel)
            if entry_id not in found:  # an operator has removed it
                self._order.proceed(channel)
            elif not self._order.is_busy(shard):
                batches.setdefault(shard, {})[entry_id] = self._submission(found[entry_id])
        if self._lease.is_held:
            await self._start(batches)

    async def _start(self, batches: Mapping[str, dict[bytes, Submission]]) -> None:
        """Publish one batch on each shard. A shard that takes long, or is away, continues beside the others."""
        tasks = []
        for shard, submissions in batches.items():
            self._order.started(shard, (each.publication.channel for each in submissions.values()))
            tasks.append(self._flights.spawn(self._publish_on(shard, submissions)))
            tasks[-1].add_done_callback(self._note_failure)
        if tasks:
            # Without shards there is nothing else to do meanwhile.
            await asyncio.wait(tasks, timeout=_PATIENCE_S if all(batches) else None)

    async def _publish_on(self, shard: str, submissions: dict[bytes, Submission]) -> None:
        try:
            results = await self._broker.publish_all(list(submissions.values()))
            published, dead = self._settled(submissions, results)
            self._unburied |= dead
            await self._stream.ack(published, {})
            self._published_count += len(published)
        except (*OUTAGES, BrokerUnavailable):
            self._order.read_again(next(iter(submissions)))
            raise
        finally:
            self._order.ended(shard)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _settled(
        self, submissions: Mapping[bytes, Submission], results: Sequence[Published | ClientError | BrokerUnavailable]
    ) -> tuple[list[bytes], dict[bytes, str]]:
        """Return the published entries, and those that cannot be published with the reason; let the others wait."""
        now_s = time.monotonic()
        answered = [
            (entry_id, each.publication.channel, result)
            for (entry_id, each), result in zip(submissions.items(), results, strict=True)
        ]
        published = {entry_id: channel for entry_id, channel, result in answered if isinstance(result, Published)}
        self._order.accepted(published.values(), now_s)
        overtaken, refused = set(), dict[str, tuple[bytes, str]]()
        dead: dict[bytes, str] = {}
        for entry_id, channel, result in reversed(answered):
            if isinstance(result, Published):
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

    def _submission(self, entry: Entry) -> Submission:
        """Return the submission in an entry. Raises: ClientError, MalformedMessage."""
        fields = entry.fields
        channel = check_channel(_text("channel", _required("channel", fields)))
        namespace = self._namespaces.of(channel)
        data = _required("data", fields)
        check_document(data, max_message_bytes=self._max_message_bytes)
        once = Once(
            key=_short_text("key", fields, MAX_KEY_LENGTH) or f"ingest:{entry.id.decode()}",
            version=_version(fields),
            version_epoch=_short_text("version_epoch", fields, MAX_VERSION_EPOCH_LENGTH),
        )
        return Submission(Publication(channel, data, Kind.JSON, tags=_tags(fields)), namespace, once)

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


# Readers of an entry's fields. Each raises ClientError 107.


def _required(name: str, fields: Mapping[bytes, bytes]) -> bytes:
    value = fields.get(name.encode())
    if value is None:
        raise ClientError(ErrorCode.BAD_REQUEST, f"no {name}")
    return value


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ClientError(ErrorCode.BAD_REQUEST, f"{name} is not valid UTF-8") from None


def _short_text(name: str, fields: Mapping[bytes, bytes], max_length: int) -> str:
    text = _text(name, fields.get(name.encode(), b""))
    if len(text) > max_length:
        raise ClientError(ErrorCode.BAD_REQUEST, f"{name} has more than {max_length} characters")
    return text


def _tags(fields: Mapping[bytes, bytes]) -> Mapping[str, str] | None:
    value = fields.get(b"tags")
    if value is None:
        return None
    try:
        return check_tags(json.loads(value))
    except json.InvalidJson as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"tags: not JSON: {exc}") from None


def _version(fields: Mapping[bytes, bytes]) -> int | None:
    value = fields.get(b"version")
    if value is None:
        return None
    # The length first, because int() raises for thousands of digits, also zeros.
    if len(value) > len(str(MAX_VERSION)) or not value.isdigit() or int(value) > MAX_VERSION:
        raise ClientError(ErrorCode.BAD_REQUEST, f"version is no whole number from 0 to {MAX_VERSION}")
    return int(value)
