"""Maps in memory, for unit tests: the contract of `MapStore` without histories, idempotency keys and limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from roomcast.brokers.interface import Once
from roomcast.brokers.map_interface import (
    UNCONDITIONAL,
    Conditions,
    MapPage,
    MapRead,
    MapSubmission,
    Suppressed,
    Written,
)
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.maps import Change, KeyMode
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication


class FakeMap:
    """One map."""

    def __init__(self) -> None:
        self.position = Position(0, "e0")
        self.entries: dict[str, Publication] = {}
        self.versions: dict[str, Once] = {}
        self.deadlines_s: dict[str, float] = {}


class FakeMapStore:
    """Maps in memory; the test turns their clock, `now_s`.

    Args:
        on_change: called with each change, which a test passes to a node or keeps; no node receives it otherwise.
    """

    def __init__(self, on_change: Callable[[Publication], None] = lambda change: None) -> None:
        self.now_s = 1000.0
        self.maps: dict[str, FakeMap] = {}
        self.away: str | None = None
        self.on_change = on_change

    def of(self, channel: str) -> FakeMap:
        if self.away:
            raise BrokerUnavailable(self.away)
        return self.maps.setdefault(channel, FakeMap())

    async def write(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> Written:
        found = self.of(publication.channel)
        change = publication.change
        assert change is not None
        before = found.entries.get(change.key)
        suppressed = _suppressed(found, conditions, change.key)
        if suppressed is None and change.is_removed and before is None:
            suppressed = Suppressed.KEY_NOT_FOUND
        if suppressed is not None:
            return Written(found.position, suppressed)
        if change.is_removed:
            self._remove(found, publication)
            return Written(found.position)
        if conditions.once.version is not None:
            found.versions[change.key] = conditions.once
        if namespace.map is not None and namespace.map.key_ttl_s:
            found.deadlines_s[change.key] = self.now_s + namespace.map.key_ttl_s
        if namespace.tags_filter and before is not None:
            publication = publication._replace(change=change._replace(tags_before=before.tags))
        found.entries[change.key] = self._announce(found, publication)
        return Written(found.position)

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        on_done: Callable[[Written | ClientError | BrokerUnavailable], None],
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> None:
        writing = self.write(publication, namespace, conditions=conditions, seen=seen)
        try:
            writing.send(None)  # nothing in it waits
        except StopIteration as done:
            on_done(done.value)
        except (ClientError, BrokerUnavailable) as exc:
            on_done(exc)

    async def write_all(self, submissions: Sequence[MapSubmission]) -> list[Written | ClientError | BrokerUnavailable]:
        return [
            await self.write(publication, namespace, conditions=conditions)
            for publication, namespace, conditions in submissions
        ]

    async def read(self, read: MapRead) -> MapPage:
        await self.expire(read.channel, read.namespace)
        found = self.of(read.channel)
        if read.key:
            return MapPage(found.position, [found.entries[read.key]] if read.key in found.entries else [])
        keys = [key for key in sorted(found.entries, key=str.encode) if key.encode() > read.after.encode()]
        entries = [found.entries[key] for key in keys[: read.limit]]
        return MapPage(found.position, entries, keys[read.limit - 1] if len(keys) > read.limit else "")

    async def count(self, channel: str, namespace: Namespace) -> int:
        await self.expire(channel, namespace)
        return len(self.of(channel).entries)

    async def expire(self, channel: str, namespace: Namespace) -> float | None:
        found = self.of(channel)
        for key, deadline_s in list(found.deadlines_s.items()):
            if deadline_s <= self.now_s:
                self._remove(found, Publication(channel, b"", change=Change(key, is_removed=True)))
        return min(found.deadlines_s.values()) - self.now_s if found.deadlines_s else None

    async def touch(self, channel: str, namespace: Namespace, keys: Sequence[str]) -> list[str]:
        found = self.of(channel)
        assert namespace.map is not None
        for key in keys:
            if key in found.deadlines_s:
                found.deadlines_s[key] = self.now_s + namespace.map.key_ttl_s
        return [key for key in keys if key not in found.entries]

    async def clear(self, channel: str, namespace: Namespace) -> None:
        position = self.of(channel).position
        self.maps[channel] = FakeMap()
        self.maps[channel].position = Position(position.offset, position.epoch + "x")

    def _remove(self, found: FakeMap, removal: Publication) -> None:
        assert removal.change is not None
        removed = found.entries.pop(removal.change.key)
        found.versions.pop(removal.change.key, None)
        found.deadlines_s.pop(removal.change.key, None)
        self._announce(found, removal._replace(tags=removed.tags))

    def _announce(self, found: FakeMap, publication: Publication) -> Publication:
        found.position = Position(found.position.offset + 1, found.position.epoch)
        publication = publication._replace(position=found.position)
        self.on_change(publication)
        return publication


def _suppressed(found: FakeMap, conditions: Conditions, key: str) -> Suppressed | None:
    once, mode, expected = conditions
    before, known = found.entries.get(key), found.versions.get(key)
    if once.version is not None and known is not None and known.version is not None:  # noqa: SIM102
        if known.version_epoch == once.version_epoch and once.version <= known.version:
            return Suppressed.VERSION
    if mode is KeyMode.IF_NEW and before is not None:
        return Suppressed.KEY_EXISTS
    if mode is KeyMode.IF_EXISTS and before is None:
        return Suppressed.KEY_NOT_FOUND
    if expected is not None:
        position = found.position._replace(offset=0) if before is None else before.position
        if position is None or position != (expected.offset, expected.epoch or position.epoch):
            return Suppressed.POSITION_MISMATCH
    return None
