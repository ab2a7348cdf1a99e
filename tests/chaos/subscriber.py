"""Subscribers: they reconnect as real clients do, with their position, and log everything that they receive."""

from __future__ import annotations

import asyncio
import enum
import json
import random
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
from typing_extensions import override
from websockets.asyncio.client import connect

from tests.chaos.centrifuge import centrifuge_events
from tests.chaos.client import OPEN_TIMEOUT_S, Client
from tests.chaos.fleet import Fleet
from tests.chaos.journal import Heard, Log, Place, Told, read_payload

_POLL_S = 5.0


class Way(enum.Enum):
    """How a subscriber listens."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    POLL = "poll"
    CENTRIFUGE = "centrifuge"


# A third of the subscribers polls, and a third uses the Centrifuge protocol.
WAYS = (Way.WEBSOCKET, Way.POLL, Way.CENTRIFUGE, Way.SSE, Way.POLL, Way.CENTRIFUGE)


class Subscriber(Client[Heard | tuple[Place, bool]]):
    """One client of a room."""

    def __init__(self, name: str, room: str, fleet: Fleet, chance: random.Random, way: Way) -> None:
        super().__init__(chance)
        self.log = Log(name, room)
        self._fleet = fleet
        self._events = {
            Way.WEBSOCKET: self._websocket_events,
            Way.SSE: self._sse_events,
            Way.POLL: self._poll_events,
            Way.CENTRIFUGE: self._centrifuge_events,
        }[way]

    @override
    def _connect(self) -> AsyncGenerator[Heard | tuple[Place, bool], None]:
        return self._events()

    @override
    def take(self, event: Heard | tuple[Place, bool], *, is_first: bool) -> None:
        if isinstance(event, Heard):
            self.log.lines.append(event)
        else:
            place, is_recovered = event
            self.log.lines.append(Told(place, is_recovered, is_first, time.monotonic()))

    async def _websocket_events(self) -> AsyncGenerator[Heard | tuple[Place, bool], None]:
        place = self.log.place()
        since = "" if place is None else f"&since={place.offset}&epoch={place.epoch}"
        url = self._fleet.any_node().ws(f"/ws/rooms/{self.log.room}?envelope=1{since}")
        async with connect(
            url, compression=None, ping_interval=None, proxy=None, open_timeout=OPEN_TIMEOUT_S, close_timeout=0.5
        ) as socket:
            async for frame in socket:
                assert isinstance(frame, str)
                said = json.loads(frame)
                if "data" in said:
                    data = frame[frame.index('"data":') + len('"data":') : -1]
                    yield _heard(Place(said["epoch"], said["offset"]), data)
                elif "offset" in said:
                    yield _told(said)

    async def _sse_events(self) -> AsyncGenerator[Heard | tuple[Place, bool], None]:
        place = self.log.place()
        headers = {} if place is None else {"Last-Event-ID": f"{place.epoch}:{place.offset}"}
        url = self._fleet.any_node().http(f"/sse/rooms/{self.log.room}")
        timeout = httpx.Timeout(OPEN_TIMEOUT_S, read=None)
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
            asyncio.timeout(OPEN_TIMEOUT_S) as opening,
            http.stream("GET", url, headers=headers) as response,
        ):
            opening.reschedule(None)
            if response.status_code != 200:
                assert response.status_code == 503, f"{response.status_code}"
                return
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                    continue
                event, fields = fields, {}
                if event.get("event") == "position":
                    yield _told(json.loads(event["data"]))
                elif "event" not in event and "data" in event:
                    epoch, _, offset = event["id"].rpartition(":")
                    yield _heard(Place(epoch, int(offset)), event["data"])

    async def _poll_events(self) -> AsyncGenerator[Heard | tuple[Place, bool], None]:
        """Poll any node, and the next time another one, until one rejects it."""
        timeout = httpx.Timeout(OPEN_TIMEOUT_S, read=_POLL_S + OPEN_TIMEOUT_S)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as http:
            while True:
                place = self.log.place()
                since = {} if place is None else {"since": str(place.offset), "epoch": place.epoch}
                url = self._fleet.any_node().http(f"/poll/rooms/{self.log.room}")
                answer = await http.get(url, params={**since, "timeout": f"{_POLL_S:g}"})
                if answer.status_code != 200:
                    assert answer.status_code == 503, f"{answer.status_code} {answer.text}"
                    return
                for event in poll_events(answer.text, place):
                    yield event

    async def _centrifuge_events(self) -> AsyncGenerator[Heard | tuple[Place, bool], None]:
        url = self._fleet.any_node().ws("/connection/websocket")
        events = centrifuge_events(url, self.log.room, self.log.place(), open_timeout_s=OPEN_TIMEOUT_S)
        async with aclosing(events):
            async for place, said in events:
                yield _heard(place, said) if isinstance(said, str) else (place, said)


def poll_events(answer: str, since: Place | None) -> Iterator[Heard | tuple[Place, bool]]:
    """Yield where an answer starts, its publications, and where it ends if that is elsewhere."""
    said = json.loads(answer)
    place, is_recovered, publications = (
        Place(said["epoch"], said["offset"]),
        said.get("recovered", False),
        said["publications"],
    )
    start = place
    if is_recovered and since is not None:
        start = since
    elif publications:
        start = Place(publications[0]["epoch"], publications[0]["offset"] - 1)
    yield start, is_recovered
    at = start
    for each in publications:
        at = Place(each["epoch"], each["offset"])
        yield _heard(at, json.dumps(each["data"], separators=(",", ":")))
    if at != place:
        yield place, True


def _told(said: dict[str, Any]) -> tuple[Place, bool]:  # Any: JSON
    return Place(said["epoch"], said["offset"]), said.get("recovered", False)


def _heard(place: Place, data: str | bytes) -> Heard:
    name, digest = read_payload(data)
    return Heard(place, name, digest, time.monotonic())
