"""Any changes between any requests: each client that is live has the map, or the part of it that its filter wants."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from centrifuge.fossil import apply_delta
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from tests.support.map_bench import Entry, MapBench, Watcher

RED, BLUE = {"team": "red"}, {"team": "blue"}
PAD = "x" * 50
KEYS = "abcdef"
# What each client asks for; two get differences.
VIEWS: list[dict[str, Any]] = [
    {"channel": "board:a", "limit": 2},
    {"channel": "board:a", "limit": 2},
    {"channel": "board:a", "limit": 2, "tf": {"key": "team", "cmp": "eq", "val": "red"}},
    {"channel": "board:a", "limit": 1, "delta": "fossil"},
    {"channel": "cursor:a", "limit": 2},
    {"channel": "cursor:a", "limit": 1, "delta": "fossil"},
]

# A change: key, number, whether it is red, and whether the node writes it at once; without a number a removal.
CHANGE = st.tuples(st.sampled_from(KEYS), st.none() | st.integers(0, 9), st.booleans(), st.booleans())
STEP = st.sampled_from(["ask", "unsubscribe"]) | st.just("ask")
EVENTS = st.lists(st.tuples(st.integers(0, len(VIEWS) - 1), STEP) | CHANGE, max_size=40)


class Follower(Watcher):
    """Asks for one part at a time; after `unsubscribe` it recovers where it can."""

    def __init__(self, maps: MapBench, client: Any, view: dict[str, Any]) -> None:
        super().__init__(client, **view)
        self.maps = maps
        self.is_delta = "delta" in view
        self.is_live = False
        self.texts: dict[str, bytes] = {}
        self._next: dict[str, Any] = {"phase": 2}
        self._recover: dict[str, Any] | None = None

    async def step(self) -> None:
        if self.is_live:
            return
        reply = await self.ask(**self._next)
        if reply.get("code") == 112:
            self._recover, self._next = None, {"phase": 2}
            self.values, self.texts = {}, {}
            return
        self.take(reply)
        position = {name: reply[name] for name in ("offset", "epoch") if name in reply}
        if "phase" not in reply:
            self.is_live = True
            self._recover = {"phase": 1, "recover": True, **position} if reply.get("recoverable") else None
        elif "cursor" in reply:
            self._next = {"phase": 2, "cursor": reply["cursor"], **position}
        else:
            self._next = {"phase": 1, **position}

    async def unsubscribe(self) -> None:
        self.read()
        self.client.send({"id": 9, "unsubscribe": {"channel": self.channel}})
        assert self.client.got() == [{"id": 9, "unsubscribe": {}}]
        if self._recover is None or not self.is_live:
            self.values, self.texts, self._next = {}, {}, {"phase": 2}
        else:
            self._next = self._recover
        self.is_live = False

    @override
    def apply(self, entry: Entry) -> None:
        super().apply(entry)
        if self._recover is not None and "offset" in entry:
            self._recover["offset"] = max(self._recover["offset"], entry["offset"])
        if not self.is_delta:
            return
        key, data = entry["key"], str(entry["data"]).encode()
        if entry.get("removed"):
            self.texts.pop(key, None)
            return
        self.texts[key] = apply_delta(self.texts[key], data) if entry.get("delta") else data
        self.values[key] = json.loads(self.texts[key])

    def expected(self) -> dict[str, Any]:
        entries = self.maps.store.of(self.channel).entries
        wanted = {key for key, entry in entries.items() if "tf" not in self.members or entry.tags == RED}
        return {key: value for key, value in self.maps.values(self.channel).items() if key in wanted}


async def follow(events: list[tuple[Any, ...]]) -> None:
    async with MapBench(anonymous=True) as maps:
        followers = [Follower(maps, await maps.connected(), view) for view in VIEWS]
        for channel in ("board:a", "cursor:a"):
            for key in KEYS[::2]:
                maps.set(channel, key, [PAD, 0], tags=RED)
        for event in events:
            if len(event) == 2:
                follower = followers[event[0]]
                await (follower.step() if event[1] == "ask" else follower.unsubscribe())
                continue
            key, number, is_red, flush = event
            for channel in ("board:a", "cursor:a"):
                if number is None:
                    maps.remove(channel, key, flush=flush)
                else:
                    maps.set(channel, key, [PAD, number], tags=RED if is_red else BLUE, flush=flush)
        maps.turn.run()
        for follower in followers:
            for _ in range(100):
                if follower.is_live:
                    break
                await follower.step()
            follower.read()
            assert follower.is_live
            assert follower.values == follower.expected()


@settings(max_examples=60, deadline=None)
@given(EVENTS)
@example([(0, "ask"), ("f", 1, True, True), (0, "ask"), (1, "ask"), (1, "ask")])
@example([(2, "ask"), ("a", 1, False, True), ("a", 2, False, True), (2, "ask"), (2, "ask")])
@example([(4, "ask"), ("a", 1, True, False), ("b", None, True, False), (4, "ask"), (4, "ask")])
@example([(3, "ask")] * 4 + [("a", 1, True, True), (3, "unsubscribe"), ("a", 2, True, True), (3, "ask")])
def test_each_live_client_has_the_map(events: list[tuple[Any, ...]]) -> None:
    asyncio.run(follow(events))
