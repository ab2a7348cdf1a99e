"""A map subscription of the Centrifuge protocol, which acts as its JavaScript library does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from websockets.asyncio.client import connect

from tests.chaos.client import OPEN_TIMEOUT_S
from tests.chaos.journal import Place
from tests.chaos.map_journal import Changed, Invalidated, Loaded, MapEvent, Paged, Recovered
from tests.chaos.map_writer import text_of

_CONNECT = {"id": 1, "connect": {}}
_LIVE, _STREAM, _STATE = range(3)
_UNRECOVERABLE = 112
# Unsubscriptions from 2500 on ask the client to subscribe again; after this one it has no position.
_RESUBSCRIBE, _INVALIDATED = 2500, 2502

Message = dict[str, Any]  # Any: JSON


class MapSubscription:
    """What the library keeps of a subscription between connections.

    limit: the length of its pages; 0: the server decides. round_trip_s: of its network, between two pages.
    """

    def __init__(self, channel: str, *, limit: int, round_trip_s: Callable[[], float]) -> None:
        self._channel = channel
        self._round_trip_s = round_trip_s
        self._limit = limit
        self._place: Place | None = None  # from which it can recover
        self._broken: Place | None = None  # of a load that did not end: versions before 5.8 send it with the next one
        self._number = 1
        self._flow = _Flow(None)

    async def events(self, url: str) -> AsyncGenerator[MapEvent, None]:
        """Connect and yield events until a command is rejected. Raises: exceptions of websockets."""
        async with connect(
            url, compression=None, ping_interval=None, proxy=None, open_timeout=OPEN_TIMEOUT_S, close_timeout=0.5
        ) as socket:
            await socket.send(f"{json.dumps(_CONNECT)}\n{self.begin()}")
            async for frame in socket:
                assert isinstance(frame, str)
                for said in map(json.loads, frame.split("\n")):
                    if not said:
                        await socket.send("{}")
                    elif "error" in said and said["error"]["code"] != _UNRECOVERABLE:
                        return
                    else:
                        request, events = self.take(said)
                        for event in events:
                            self.pass_on(event)
                            yield event
                        if request:
                            await asyncio.sleep(self._round_trip_s())
                            await socket.send(request)

    def take(self, said: Message) -> tuple[str, Sequence[MapEvent]]:
        """Return the request that follows, "" for none, and events."""
        if "error" in said:
            self._place = self._broken = None
            return self.begin(), [Invalidated(str(said["error"]["code"]))]
        if said.get("id") == self._number:
            return self._take_reply(said["subscribe"])
        if "pub" in said.get("push", {}):
            return "", [self._take_push(said["push"]["pub"])]
        if "unsubscribe" in said.get("push", {}):
            code = said["push"]["unsubscribe"]["code"]
            assert code >= _RESUBSCRIBE, said
            if code == _INVALIDATED:
                self._place = self._broken = None
            return self.begin(), [Invalidated(str(code))]
        return "", ()

    def begin(self) -> str:
        """Return the first request of a connection, or of another attempt."""
        self._flow = _Flow(self._place)
        return self._request(_STATE if self._place is None else _STREAM)

    def _request(self, phase: int, cursor: str = "") -> str:
        self._number += 1
        asked: Message = {"channel": self._channel, "type": 1, "flag": 1, "phase": phase}
        if self._limit:
            asked["limit"] = self._limit
        if cursor:
            asked["cursor"] = cursor
        if (place := self._flow.place or self._broken) is not None:
            asked |= place._asdict()
        if self._flow.is_recovering:
            asked["recover"] = True
        return json.dumps({"id": self._number, "subscribe": asked})

    def _take_reply(self, reply: Message) -> tuple[str, Sequence[MapEvent]]:
        flow, phase, place = self._flow, reply.get("phase", _LIVE), _place_of(reply)
        if flow.place is not None and place is not None and place.epoch != flow.place.epoch:
            self._place = self._broken = None
            return self.begin(), [Invalidated("the epoch has changed")]
        state, publications = reply.get("state", ()), reply.get("publications", ())
        flow.entries += state
        flow.publications += publications
        if phase == _LIVE:
            return "", self._go_live(reply, place)
        if phase == _STREAM or flow.place is None:
            flow.place = place
        if not flow.is_recovering:
            self._broken = flow.place
        cursor = reply.get("cursor", "")
        request = self._request(_STATE if cursor else _STREAM, cursor)
        return request, [Paged(len(state) + len(publications))]

    def _go_live(self, reply: Message, place: Place | None) -> Sequence[MapEvent]:
        flow = self._flow
        flow.is_live, self._broken = True, None
        if not reply.get("recovered"):
            entries: dict[str, str] = {}
            for change in map(_change, [*flow.entries, *flow.publications]):
                if change.value is None:
                    entries.pop(change.key, None)
                else:
                    entries[change.key] = change.value
            return [Loaded(place if reply.get("recoverable") else None, entries)]
        assert place is not None, reply
        changes = [_change(publication, place.epoch) for publication in flow.publications]
        return [*changes, Recovered(place)]

    def _take_push(self, publication: Message) -> Changed:
        assert self._flow.is_live, "a push while the map is loaded"
        return _change(publication, "" if self._place is None else self._place.epoch)

    def pass_on(self, event: MapEvent) -> None:
        """Move the position: the application gets the event now."""
        if isinstance(event, Loaded | Changed | Recovered):
            self._place = event.place


class _Flow:
    """One subscribing: the requests from the first to the reply that makes the subscription live.

    place: of the first page, or of the last publication that a page of the stream had.
    """

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self.is_recovering = place is not None
        self.is_live = False
        self.entries: list[Message] = []
        self.publications: list[Message] = []


def _place_of(reply: Message) -> Place | None:
    return Place(reply["epoch"], reply.get("offset", 0)) if "epoch" in reply else None


def _change(publication: Message, epoch: str = "") -> Changed:
    place = Place(epoch, publication["offset"]) if epoch and "offset" in publication else None
    return Changed(place, publication["key"], None if publication.get("removed") else text_of(publication["data"]))
