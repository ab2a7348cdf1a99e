"""The ingest worker: publishes the entries that other services add to the ingest stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog
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
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Kind, Publication
from roomcast.model.tags import check_tags
from roomcast.redis_access.client import Client
from roomcast.redis_access.envelope import MalformedMessage, check_document
from roomcast.redis_access.work_queue import Entry, WorkQueue
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


class IngestWorker(Worker):
    """Publishes the entries of the ingest stream in their order while it holds the lease.

    An entry's fields: channel; data, a JSON document; tags, a JSON object, optional; key, version, version_epoch, all
    three optional: see `Once`.
    Entries that cannot be published are moved to the dead letters, with the reason.
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
        self._is_working = False
        self._published_count = 0
        self._dead_count = 0

    @override
    async def run(self) -> None:
        await work_through_outages(self._step, worker=NAME, pause_s=_TICK_S)

    @override
    async def finish(self) -> None:
        await self._lease.release()

    async def _step(self) -> None:
        holds_lease = await self._lease.acquire()
        await self._record_health(is_holder=holds_lease)
        if holds_lease and not self._is_working:
            log.info("ingest.working")
        self._is_working = holds_lease
        if not holds_lease:
            await asyncio.sleep(_TICK_S)
            return
        entries = await self._stream.read(count=self._batch_length, within_s=self._wait_s)
        # A process that was stopped for longer than idempotency keys are kept would publish the entries again.
        if entries and self._lease.is_held:
            await self._publish(entries)

    async def _publish(self, entries: Sequence[Entry]) -> None:
        """Publish a batch and remove it. Raises: BrokerUnavailable if some entries must be retried."""
        reasons: dict[bytes, str] = {}
        submissions: dict[bytes, Submission] = {}
        for entry in entries:
            try:
                submissions[entry.id] = self._submission(entry)
            except (ClientError, MalformedMessage) as exc:
                reasons[entry.id] = exc.detail if isinstance(exc, ClientError) else str(exc)
        results = await self._broker.publish_all(list(submissions.values()))
        published: list[bytes] = []
        overtaken: set[str] = set()
        refusal = None
        for (entry_id, submission), result in reversed(list(zip(submissions.items(), results, strict=True))):
            channel = submission.publication.channel
            if isinstance(result, Published):
                published.append(entry_id)
                overtaken.add(channel)
            elif isinstance(result, ClientError):
                reasons[entry_id] = result.detail
            elif channel in overtaken:
                reasons[entry_id] = f"{result.reason}, and a later entry of the channel was published"
            else:
                refusal = result
        dead = {entry.id: reasons[entry.id] for entry in entries if entry.id in reasons}
        await self._stream.ack(published, dead)
        self._published_count += len(published)
        self._dead_count += len(dead)
        if dead:
            entry_id, reason = next(iter(dead.items()))
            log.warning("ingest.dead", count=len(dead), entry=entry_id.decode(), reason=reason)
        if refusal is not None:
            raise refusal

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

    async def _record_health(self, *, is_holder: bool) -> None:
        now_s = time.monotonic()
        if now_s < self._health_due_at_s:
            return
        self._health_due_at_s = now_s + _TICK_S
        facts = {"holds_lease": is_holder, "published": self._published_count, "dead": self._dead_count}
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
