"""A map subscription by plain WebSocket or server-sent events, which acts as a page of ten lines does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from websockets.asyncio.client import connect

from tests.chaos.client import OPEN_TIMEOUT_S
from tests.chaos.journal import Place
from tests.chaos.map_journal import Changed, Invalidated, Loaded, MapEvent, Paged, Recovered
from tests.chaos.map_writer import text_of

Message = dict[str, Any]  # Any: JSON


class PlainMap:
    """What a page keeps of a map between connections.

    since: the last position that it received; a load has none before it ends.
    """

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self.since: Place | None = None
        self._entries: dict[str, str] | None = None  # of the load that is under way

    async def websocket_events(self, url: str) -> AsyncGenerator[MapEvent, None]:
        """Connect and yield events. Raises: exceptions of websockets."""
        self._entries = None
        since = "" if self.since is None else f"?since={self.since.offset}&epoch={self.since.epoch}"
        async with connect(
            f"{url}/ws/maps/{self._channel}{since}",
            compression=None,
            ping_interval=None,
            proxy=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=0.5,
        ) as socket:
            async for frame in socket:
                said = json.loads(frame)
                yield self.take(said, self.place_after(said))

    async def sse_events(self, url: str) -> AsyncGenerator[MapEvent, None]:
        """Connect and yield events; a node that rejects the request yields none. Raises: httpx.TransportError."""
        self._entries = None
        headers = {} if self.since is None else {"Last-Event-ID": f"{self.since.epoch}:{self.since.offset}"}
        timeout = httpx.Timeout(OPEN_TIMEOUT_S, read=None)
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
            asyncio.timeout(OPEN_TIMEOUT_S) as opening,
            http.stream("GET", f"{url}/sse/maps/{self._channel}", headers=headers) as response,
        ):
            opening.reschedule(None)
            if response.status_code != 200:
                assert response.status_code == 503, f"{response.status_code}"
                return
            place, fields = self.since, dict[str, str]()
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                    continue
                if "id" in fields:
                    epoch, _, offset = fields["id"].rpartition(":")
                    place = Place(epoch, int(offset)) if epoch else None
                if "data" in fields and "event" not in fields:
                    yield self.take(json.loads(fields["data"]), place)
                fields = {}

    def place_after(self, said: Message) -> Place | None:
        """Return the position after a message of a WebSocket; event streams have it in their ids."""
        if "synced" in said:
            return Place(said["epoch"], said["offset"]) if "epoch" in said else None
        if self._entries is None and self.since is not None:
            return Place(self.since.epoch, said["offset"]) if "offset" in said else None
        return None

    def take(self, said: Message, place: Place | None) -> MapEvent:
        """Return the event of a message; place: the client's after it."""
        self.since = place
        if "reset" in said:
            self.since, self._entries = None, {}
            return Invalidated("reset")
        if "synced" in said:
            entries, self._entries = self._entries, None
            if entries is not None:
                return Loaded(place, entries)
            assert place is not None, "an ephemeral map is loaded again"
            return Recovered(place)
        key, value = said["key"], None if said.get("removed") else text_of(said["data"])
        if self._entries is None:
            return Changed(place, key, value)
        if value is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = value
        return Paged(1)
