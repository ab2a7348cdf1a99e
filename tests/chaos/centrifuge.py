"""A subscriber of the Centrifuge protocol, which acts as its client libraries do."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from websockets.asyncio.client import connect

from tests.chaos.journal import Place

_CONNECT = {"id": 1, "connect": {}}
# An unsubscription from here on asks the client to subscribe again.
_RESUBSCRIBE = 2500


async def centrifuge_events(
    url: str, room: str, place: Place | None, *, open_timeout_s: float
) -> AsyncGenerator[tuple[Place, str] | tuple[Place, bool], None]:
    """Yield each publication with its place, and the place where a subscription starts, until a command is rejected.

    Raises: exceptions of websockets when the connection is lost.
    """
    channel, number = f"room:{room}", 2
    async with connect(
        url, compression=None, ping_interval=None, proxy=None, open_timeout=open_timeout_s, close_timeout=0.5
    ) as socket:
        await socket.send(f"{json.dumps(_CONNECT)}\n{json.dumps(_subscribe(number, channel, place))}")
        async for frame in socket:
            assert isinstance(frame, str)
            for said in map(json.loads, frame.split("\n")):
                if not said:
                    await socket.send("{}")
                elif "error" in said:
                    return
                elif said.get("id") == number:
                    place = Place(said["subscribe"]["epoch"], said["subscribe"]["offset"])
                    yield place, said["subscribe"].get("recovered", False)
                    for publication in said["subscribe"].get("publications", ()):
                        place = Place(place.epoch, publication["offset"])
                        yield place, _text(publication)
                elif "pub" in (push := said.get("push", {})):
                    assert place is not None, "a push before the reply"
                    place = Place(place.epoch, push["pub"]["offset"])
                    yield place, _text(push["pub"])
                elif "unsubscribe" in push:
                    assert push["unsubscribe"]["code"] >= _RESUBSCRIBE, said
                    number += 1
                    await socket.send(json.dumps(_subscribe(number, channel, place)))


def _subscribe(number: int, channel: str, place: Place | None) -> dict[str, Any]:  # Any: JSON
    since = {} if place is None else {"recover": True, "offset": place.offset, "epoch": place.epoch}
    return {"id": number, "subscribe": {"channel": channel, "flag": 1, **since}}


def _text(publication: dict[str, Any]) -> str:  # Any: JSON
    return json.dumps(publication["data"], separators=(",", ":"))
