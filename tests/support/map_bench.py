"""Sessions of the Centrifuge protocol with maps in memory, whose changes their node receives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from typing_extensions import override

from roomcast.brokers.map_interface import MapPage, MapRead
from roomcast.model.maps import Change
from roomcast.model.positions import Position
from roomcast.model.publications import History, Kind, Publication
from tests.support.map_store import FakeMap, FakeMapStore
from tests.support.sessions import Bench, Client

KEPT = 8
Entry = dict[str, Any]  # Any: JSON


class Store(FakeMapStore):
    """Maps whose reads wait while the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None
        self.read_count = 0

    @override
    def of(self, channel: str) -> FakeMap:
        if channel not in self.maps:
            super().of(channel).position = Position(0, "e")  # that of a channel without a history
        return super().of(channel)

    @override
    async def read(self, read: MapRead) -> MapPage:
        if self.gate is not None:
            await self.gate.wait()
        self.read_count += 1
        return await super().read(read)


class MapBench(Bench):
    """Maps of the namespaces `board` (persistent) and `cursor` (ephemeral) beside the channels of a Bench."""

    def __init__(self, **settings: Any) -> None:  # Any: of Settings
        self.store = Store()
        super().__init__(self.store, **settings)
        self.store.on_change = self._on_change
        self._logs: dict[str, list[Publication]] = {}

    def set(self, channel: str, key: str, value: object = None, *, flush: bool = True, **members: Any) -> None:
        """Set a key, or without a value a key without data, and let it be written to the clients."""
        data = b"" if value is None else json.dumps(value).encode()
        self._write(Publication(channel, data, Kind.JSON, change=Change(key), **members), flush=flush)

    def remove(self, channel: str, key: str, *, flush: bool = True) -> None:
        self._write(Publication(channel, b"", change=Change(key, is_removed=True)), flush=flush)

    def fill(self, channel: str, count: int) -> None:
        for number in range(count):
            self.set(channel, f"k{number:03}", number)

    def values(self, channel: str) -> dict[str, Any]:
        return {key: json.loads(entry.data or b"null") for key, entry in self.store.of(channel).entries.items()}

    def lose_changes(self, channel: str) -> None:
        """Let the node find that another epoch has begun."""
        position = Position(self.store.of(channel).position.offset, "f")
        self.store.of(channel).position = position
        self.broker.histories[channel] = History(position, 0, [])

    def _write(self, publication: Publication, *, flush: bool) -> None:
        writing = self.store.write(publication, self.node.namespaces.of(publication.channel))
        with suppress(StopIteration):  # nothing in it waits
            writing.send(None)
        if flush:
            self.turn.run()

    def _on_change(self, publication: Publication) -> None:
        channel, position = publication.channel, publication.position
        assert position is not None
        log = self._logs.setdefault(channel, [])
        log.append(publication)
        self.broker.histories[channel] = History(position, 0, log[-KEPT:])
        self.node.on_event(publication)


class Watcher:
    """Loads a map as the SDK does, request by request, and applies its pushes."""

    def __init__(self, client: Client, channel: str, **members: Any) -> None:
        self.client = client
        self.channel = channel
        self.members = {"channel": channel, "type": 1, **members}
        self.values: dict[str, Any] = {}
        self.position: Mapping[str, Any] = {}
        self._number = 100

    async def ask(self, phase: int, **members: Any) -> Any:
        """Send one request; return its reply, or its error."""
        self._number += 1
        self.client.send({"id": self._number, "subscribe": {**self.members, "phase": phase, **members}})
        (reply,) = await self.client.replies(1)
        assert reply["id"] == self._number
        return reply["subscribe"] if "subscribe" in reply else reply["error"]

    async def load(self) -> Any:
        """Load the map; return the reply with which it is live."""
        self.values = {}
        reply = await self.ask(2)
        self.take(reply)
        while "phase" in reply:
            position = {name: reply[name] for name in ("offset", "epoch") if name in reply}
            cursor = {"cursor": reply["cursor"]} if "cursor" in reply else {}
            phase = reply["phase"] if cursor or reply["phase"] == 1 else 1
            reply = await self.ask(phase, **cursor, **position)
            self.take(reply)
        return reply

    def take(self, reply: Any) -> None:
        """Apply the entries and changes of a reply."""
        assert "code" not in reply, reply
        for entry in [*reply.get("state", ()), *reply.get("publications", ())]:
            self.apply(entry)

    def apply(self, entry: Entry) -> None:
        if entry.get("removed"):
            self.values.pop(entry["key"], None)
        else:
            self.values[entry["key"]] = entry.get("data")

    def read(self) -> list[Any]:
        """Apply the pushes since the last call, and return them."""
        pushes = [line["push"] for line in self.client.got()]
        for push in pushes:
            if "pub" in push:
                self.apply(push["pub"])
        return pushes
