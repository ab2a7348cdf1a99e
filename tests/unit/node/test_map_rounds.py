"""Writes of keys in rounds, in virtual time and on a store that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from roomcast.brokers.map_interface import UNCONDITIONAL, Conditions, Suppressed, Written
from roomcast.brokers.redis_maps import RedisMaps
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespace, Namespaces
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.node.map_rounds import MapRounds
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio

ADA, OTHER = ClientInfo("n1-1", "ada"), ClientInfo("n1-1", "ada", channel_info=b"{}")
AWAY = BrokerUnavailable("away")
DONE = Written(Position(1, "e"))
Result = Written | ClientError | BrokerUnavailable


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, object]]:
    return BACKEND


class Store(RedisMaps):
    """Keeps writes; answers with `result` at once; without one by `answer`."""

    def __init__(self, result: Result | None = DONE) -> None:
        self.result = result
        self.writes: list[tuple[float, str]] = []
        self.infos: list[ClientInfo | None] = []
        self._waiting: list[Callable[[Result], None]] = []

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        on_done: Callable[[Result], None],
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> None:
        change = publication.change
        assert change is not None
        mark = "-" if change.is_removed else conditions.mode.value and "?"
        self.writes.append((round(asyncio.get_running_loop().time(), 3), f"{mark}{change.key}"))
        self.infos.append(publication.info)
        if self.result is None:
            self._waiting.append(on_done)
        else:
            on_done(self.result)

    def answer(self, result: Result, *, count: int | None = None) -> None:
        """Answer the writes that wait: the first ones, or all."""
        count = len(self._waiting) if count is None else count
        waiting, self._waiting = self._waiting[:count], self._waiting[count:]
        for on_done in waiting:
            on_done(result)

    def taken(self) -> list[str]:
        """Return the writes since the last call: `-a`: remove; `?a`: set if it is absent; `a`: set."""
        taken, self.writes = [write for _, write in self.writes], []
        return taken


def rounds_on(store: Store, existing: list[str] | None = None) -> MapRounds:
    found = existing if existing is not None else []
    return MapRounds(store, Namespaces(), lambda _, key: found.append(key))


async def test_the_first_write_is_made_at_once_and_the_next_ones_together() -> None:
    rounds = rounds_on(store := Store())
    for number in range(5):
        rounds.set("online:a", f"k{number}", ADA)
        await asyncio.sleep(0.02)
    await asyncio.sleep(1)

    assert store.writes == [(0, "?k0"), (0.05, "?k1"), (0.05, "?k2"), (0.1, "?k3"), (0.1, "?k4")]


async def test_a_herd_is_written_in_several_rounds() -> None:
    rounds = rounds_on(store := Store())
    for number in range(600):
        rounds.remove("online:a", f"{number}")
    await asyncio.sleep(1)

    times_s = [at_s for at_s, _ in store.writes]
    assert [times_s.count(at_s) for at_s in (0, 0.05, 0.1)] == [250, 250, 100]
    assert store.taken() == [f"-{number}" for number in range(600)]


async def test_only_the_last_write_of_a_key_is_made() -> None:
    rounds = rounds_on(store := Store())
    rounds.set("online:a", "left", ADA)
    rounds.remove("online:a", "left")
    rounds.remove("online:a", "back")
    rounds.set("online:a", "back", ADA)
    rounds.set("online:a", "back", OTHER)
    rounds.remove("online:a", "kept")
    rounds.keep("online:a", "kept")
    rounds.set("online:b", "left", ADA)
    await asyncio.sleep(1)

    assert store.taken() == ["-left", "back", "?left"], "one that was to be removed may be there with another info"
    assert store.infos == [None, OTHER, ADA]


async def test_failed_writes_are_repeated_unless_there_is_a_later_one() -> None:
    rounds = rounds_on(store := Store(None))
    rounds.set("online:a", "left", ADA)
    rounds.remove("online:a", "back")
    rounds.set("online:a", "new", ADA)
    await asyncio.sleep(0.06)
    rounds.remove("online:a", "left")
    rounds.set("online:a", "back", ADA)
    await asyncio.sleep(0.06)
    assert store.taken() == ["?left", "-back", "?new", "-left", "?back"]
    rounds.remove("online:a", "new")
    store.answer(AWAY)
    await asyncio.sleep(0.06)
    store.answer(AWAY)
    store.result = DONE
    store.taken()
    await asyncio.sleep(1)

    assert sorted(store.taken()) == ["-left", "-new", "back"]


async def test_a_failed_write_is_not_repeated_after_a_later_one() -> None:
    """It would remove the key of a client that has subscribed again, or leave that of one that has gone."""
    rounds = rounds_on(store := Store(None))
    rounds.remove("online:a", "back")
    rounds.set("online:a", "left", ADA)
    await asyncio.sleep(0.06)
    rounds.set("online:a", "back", ADA)
    rounds.remove("online:a", "left")
    await asyncio.sleep(0.06)
    assert store.taken() == ["-back", "?left", "?back", "-left"]

    store.answer(AWAY, count=2)
    store.answer(DONE)
    await asyncio.sleep(5)

    assert store.taken() == []


async def test_while_redis_is_away_writes_are_repeated_every_second() -> None:
    rounds = rounds_on(store := Store(AWAY))
    rounds.set("online:a", "a", ADA)
    await asyncio.sleep(3.5)

    assert [at_s for at_s, _ in store.writes] == [0, 1, 2, 3]


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomcast.node.map_rounds._MAX_WAITING", 100)
    rounds = rounds_on(store := Store(AWAY))
    for number in range(150):
        rounds.remove("online:a", f"{number}")
    rounds.set("online:a", "99", ADA)
    await asyncio.sleep(1.5)

    assert store.taken() == [*[f"-{number}" for number in range(99)], "99"] * 2


async def test_a_shutdown_submits_everything_also_where_redis_is_away() -> None:
    rounds = rounds_on(store := Store(AWAY))
    for number in range(300):
        rounds.remove("online:a", f"{number}")
    rounds.flush()

    assert len(store.writes) == 300


async def test_a_key_that_is_there_is_reported() -> None:
    existing: list[str] = []
    rounds = rounds_on(Store(Written(Position(1, "e"), Suppressed.KEY_EXISTS)), existing)
    rounds.set("online:a", "a", ADA)
    await asyncio.sleep(1)

    assert existing == ["a"]


async def test_a_refusal_is_not_repeated() -> None:
    rounds = rounds_on(store := Store(ClientError(ErrorCode.LIMIT_EXCEEDED, "too many keys")))
    for number in range(10):
        rounds.set("online:a", f"{number}", ADA)
    await asyncio.sleep(100)

    assert len(store.writes) == 10
