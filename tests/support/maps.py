"""Maps for tests: namespaces, and clients of the Centrifuge protocol that hold a copy as the SDK does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from centrifuge.fossil import apply_delta

from tests.support.speaker import Json, Speaker

_STREAM, _STATE = 1, 2
_RESUBSCRIBE = 2500
UNRECOVERABLE = 112


def namespaces(by_name: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a namespaces file of maps that anyone may write, unless the options say otherwise.

    by_name: the options of each; those of the table `map` are in `map`.
    """
    tables = []
    for name, given in by_name.items():
        options = {"type": "map", "may_publish": "anyone", "may_remove": "anyone", **given}
        of_map = options.pop("map")
        for table, values in ((name, options), (f"{name}.map", of_map))[: 1 + bool(of_map)]:
            lines = (f"{option} = {json.dumps(value)}" for option, value in values.items())
            tables.append("\n".join((f"[{table}]", *lines, "")))
    return "\n".join(tables)


class Follower:
    """One subscription of a map, step by step. Pushes that come meanwhile are kept for `follow`.

    entries: the data of each key, as the client knows it. position: of its last change; None: it has to load the map.
    params: of each of its subscribe commands, such as limit and delta. replies: so far.
    """

    def __init__(self, speaker: Speaker, channel: str, **params: Any) -> None:
        self.speaker = speaker
        self.channel = channel
        self.params = {"type": 1, **params}
        self.entries: dict[str, Any] = {}
        self.position: Json | None = None
        self.replies: list[Json] = []
        self._is_delta = False
        self._texts: dict[str, str] = {}  # to which differences are applied, by key
        self._state: list[Json] = []
        self._changes: list[Json] = []
        self._next: Json = {"phase": _STATE}

    @property
    def is_live(self) -> bool:
        return bool(self.replies) and not self.replies[-1].get("phase") and "error" not in self.replies[-1]

    async def step(self) -> Json:
        """Ask for the next page, and return the reply."""
        reply = await self.speaker.ask("subscribe", channel=self.channel, flag=1, **self.params, **self._next)
        self.replies.append(reply)
        early = [push for push in self.speaker.pushes if push.get("channel") == self.channel]
        assert not early, f"pushes before the subscription is live: {early}"
        if "error" in reply:
            return reply
        self._state += reply.get("state", [])
        self._changes += reply.get("publications", [])
        position = {"offset": reply.get("offset", 0), "epoch": reply.get("epoch", "")}
        if not reply.get("phase"):
            self._go_live(reply, position)
        elif reply["phase"] == _STREAM:
            self._next = {**self._next, "offset": position["offset"]}
        else:
            first: Json = {name: self._next[name] for name in ("offset", "epoch") if name in self._next} or position
            self._next = {"phase": _STATE, "cursor": reply["cursor"]} if "cursor" in reply else {"phase": _STREAM}
            self._next |= first if first["epoch"] else {}
        return reply

    async def load(self, speaker: Speaker | None = None) -> Json:
        """Load the map from the beginning, maybe by another connection, and return the reply that is live."""
        self.begin(speaker)
        while True:
            reply = await self.step()
            if reply.get("error", {}).get("code") == UNRECOVERABLE:
                self.begin()
            elif "error" in reply or self.is_live:
                return reply

    def begin(self, speaker: Speaker | None = None) -> None:
        """Start again at the first page, maybe by another connection."""
        self.speaker = speaker or self.speaker
        self.position = None
        others = [push for push in self.speaker.pushes if push.get("channel") != self.channel]
        self.speaker.pushes.clear()
        self.speaker.pushes.extend(others)
        self._next = {"phase": _STATE}
        self._state, self._changes = [], []

    async def recover(self, speaker: Speaker | None = None) -> Json:
        """Return to the position, and return the last reply: it is live, or an error."""
        assert self.position is not None
        self.begin_recovery(speaker)
        while True:
            reply = await self.step()
            if "error" in reply or self.is_live:
                return reply

    def begin_recovery(self, speaker: Speaker | None = None) -> None:
        """Make the next step one that continues at the position."""
        position = self.position
        self.begin(speaker)
        self._next = {"phase": _STREAM, "recover": True, **(position or {})}

    async def resume(self, speaker: Speaker) -> None:
        """Do as the SDK after a reconnect: recover if the map can be, else load it."""
        if self.position is None or "error" in await self.recover(speaker):
            await self.load(speaker)

    async def follow(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Apply pushes until the entries satisfy the condition; load the map again where the server asks for it."""
        while not condition(self.entries):
            push = await self.next_push()
            if "pub" in push:
                self._apply(push["pub"])
            elif "unsubscribe" in push:
                assert push["unsubscribe"]["code"] == _RESUBSCRIBE, push
                await self.resume(self.speaker)

    async def next_push(self) -> Json:
        """Return the next push of this channel; those of others are dropped."""
        while True:
            pushes = self.speaker.pushes
            push = pushes.popleft() if pushes else (await self.speaker.line()).get("push", {})
            if push.get("channel") == self.channel:
                return push

    def _go_live(self, reply: Json, position: Json) -> None:
        self._is_delta = reply.get("delta", False)
        if not reply.get("recovered"):
            self._texts.clear()
            self.entries = {entry["key"]: self._data(entry) for entry in self._state}
            assert len(self.entries) == len(self._state), "a key is in two pages"
        for publication in self._changes:
            self._apply(publication)
        self.position = position if reply.get("recoverable") else None

    def _apply(self, publication: Json) -> None:
        if publication.get("removed"):
            self.entries.pop(publication["key"], None)
            self._texts.pop(publication["key"], None)
        else:
            self.entries[publication["key"]] = self._data(publication)
        if self.position is not None and "offset" in publication:
            self.position = {**self.position, "offset": publication["offset"]}

    def _data(self, publication: Json) -> Any:
        data = publication.get("data")
        if not self._is_delta:
            return data
        key, text = publication["key"], str(data)
        if publication.get("delta"):
            text = bytes(apply_delta(self._texts[key].encode(), text.encode())).decode()
        self._texts[key] = text
        return json.loads(text)
