"""The long poll: a room over plain requests, for networks that block everything else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from roomcast.connections.encoding import Encoding
from roomcast.model.channels import check_channel, room_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.positions import Position
from roomcast.model.publications import Event, Publication, Resumption
from roomcast.rooms.admission import Admission
from roomcast.rooms.encodings import envelope
from roomcast.rooms.entry import since_of, start_of
from roomcast.rooms.map_entry import check_no_map
from roomcast.rooms.receivers import Feed
from roomcast.tasks import run_together
from roomcast.transports.poll import PollTransport
from roomcast.web.client_server import ClientServer, address_of
from roomcast.web.failures import disconnected
from roomcast.web.state import find
from roomcast.web.streaming import until_gone

router = APIRouter()

_WAIT_S = 25.0
# The start of an envelope in a channel with a history.
_POSITION = re.compile(rb'\{"offset":([0-9]+),"epoch":"([0-9A-Za-z]+)"')
# The whole envelope of a loss.
_LOSS = re.compile(rb'\{(?:"offset":[0-9]+,"epoch":"[0-9A-Za-z]+",)?"recovered":false\}')
_MAX_WAIT_S = 60.0


def _member(event: Event) -> bytes:
    """Return the envelope of a publication or of a loss as a netstring.

    orjson parses 1,024 levels of nesting but serialises only 254, so it cannot be embedded in the answer before that.
    """
    if not isinstance(event, Publication | Resumption):
        return b""
    text = envelope(event)
    return b"%d:%b" % (len(text), text)


def _members(found: bytes) -> list[bytes]:
    """Return the envelopes in joined netstrings."""
    members, start = [], 0
    while start < len(found):
        colon = found.index(b":", start)
        end = colon + 1 + int(found[start:colon])
        members.append(found[colon + 1 : end])
        start = end
    return members


POLL = Encoding(_member, lambda _count: b"", tells_positions=True)


@router.get("/poll/rooms/{name}", response_class=Response, tags=["rooms"], summary="Poll a room.")
async def poll(request: Request, name: str) -> Response:
    """Return the publications of a room after `?since=<offset>&epoch=<epoch>`; wait for one if there is none yet.

    Answers `{"offset": 7, "epoch": "5f0c2a91", "recovered": true, "publications": [{"offset": 7, "epoch": "5f0c2a91",
    "data": ...}]}` as soon as there is one, or without any after `timeout` seconds (25; at most 60). The next poll
    sends this offset and epoch. Without `since` the answer is the room's position, at once, without `recovered`.
    `recovered: false` means that publications are lost. A client that is disconnected for good meanwhile gets 403.
    Delivery: as for a client that reconnects, see docs/guarantees.md.
    """
    return await _poll(request, room_channel(name))


@router.get("/poll/channels/{channel:path}", response_class=Response, tags=["rooms"], summary="Poll a channel.")
async def poll_channel(request: Request, channel: str) -> Response:
    """As `/poll/rooms/{name}`, for a channel of any namespace. Where it recovers nothing, an answer has no position."""
    return await _poll(request, check_channel(channel))


async def _poll(request: Request, channel: str) -> Response:
    since, wait_s = since_of(request), _wait_of(request)
    server, admission = find(request, ClientServer), find(request, Admission)
    check_no_map(server.node.namespaces, channel)
    admission.check_origin(request)
    identity = await admission.authenticator.required(request)
    transport = PollTransport()
    connection = server.connection(transport, POLL, Feed(), user=identity.client.user, info=identity.info)
    transport.connection = connection
    connection.address = address_of(request)
    connection.open()
    with server.node.connected(connection):
        admitted = await admission.admit(connection, admission.headers(request), identity, channel)
        # A client would seem to join and leave with each poll.
        namespace = replace(admitted.namespace, presence=False, join_leave=False)
        async with server.node.subscribing(connection, channel, namespace=namespace, since=since) as found_start:
            start = start_of(found_start, channel, since)
            found = [envelope(event) for event in start if isinstance(event, Publication)]
        is_recovered = _is_recovered(start, since)
        if not found and is_recovered:
            found = _members(await _next(request, transport, wait_s))
    if not found and transport.final_disconnect is not None:
        return disconnected(transport.final_disconnect)
    return _answer(start, found, is_recovered=is_recovered)


def _is_recovered(start: Sequence[Event], since: Position | None) -> bool | None:
    """Return whether nothing is missing, as in a `Resumption`; a channel without positions has nothing to recover."""
    begun = next((event for event in start if isinstance(event, Resumption)), None)
    # Where a cache is empty too, a client at the newest position waits: else all its polls would return at once.
    return True if begun is None or begun.position == since else begun.is_recovered


async def _next(request: Request, transport: PollTransport, wait_s: float) -> bytes:
    """Return the next events; nothing if none arrive in time, or if the client disconnects."""
    found: list[bytes] = []

    async def take() -> None:
        with suppress(TimeoutError):
            found.append(await transport.drain(within_s=wait_s))

    await run_together(take=take(), gone=until_gone(request.receive))
    return b"".join(found)


def _answer(start: Sequence[Event], found: list[bytes], *, is_recovered: bool | None) -> Response:
    publications = [each for each in found if not _LOSS.fullmatch(each)]
    position = next((event.position for event in start if isinstance(event, Resumption)), None)
    # The newest one: publications by PUBLISH have none.
    for each in reversed(found):
        if newest := _POSITION.match(each):
            position = Position(int(newest[1]), newest[2].decode())
            break
    if len(publications) < len(found):
        is_recovered = False
    answer = {
        **({} if position is None else position._asdict()),
        **({} if is_recovered is None else {"recovered": is_recovered}),
        "publications": [orjson.Fragment(each) for each in publications],
    }
    return Response(orjson.dumps(answer), media_type="application/json", headers={"Cache-Control": "no-store"})


def _wait_of(request: Request) -> float:
    text = request.query_params.get("timeout", str(_WAIT_S))
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= _MAX_WAIT_S:
        raise ClientError(ErrorCode.BAD_REQUEST, f"timeout is a number of seconds from 0 to {_MAX_WAIT_S:g}")
    return wait_s
