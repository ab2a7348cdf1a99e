"""The encodings of plain clients: a publication unchanged, or in an envelope with its position."""

from __future__ import annotations

import base64
from collections.abc import Callable

import orjson

from roomcast.connections.encoding import Encoding
from roomcast.model.client_info import ClientInfo
from roomcast.model.positions import Position
from roomcast.model.publications import Event, Kind, Membership, Publication, Resumption
from roomcast.transports import event_stream
from roomcast.transports.websocket import deflate, frames

# Below this, deflating costs more bytes and time than it saves.
_MIN_DEFLATED_BYTES = 128


def envelope(event: Event) -> bytes:
    """Return the JSON text of an event, for clients that asked for `?envelope=1`.

    A publication is `{"offset":1,"epoch":"5f0c2a91","data":...}`: offset and epoch if the channel has a history, and
    `data` if its payload is JSON, `text` if it is other text, `base64` if it is binary. Before the payload, if not
    empty: `"tags":{"lang":"en"}`, and the publisher, `"info":{"client":"n1-7","user":"ada","conn_info":...,
    "chan_info":...}`.
    The start of a new client is its position, `{"offset":1,"epoch":"5f0c2a91"}`; after a reconnect it has
    `"recovered":true`, or false for a loss. Clients that join or leave are `{"join":[...]}`, `{"leave":[...]}`.
    """
    if isinstance(event, Publication):
        members = _position_members(event.position) + about_members(event)
        return b"{%b%b}" % (members, payload_member(event))
    if isinstance(event, Resumption):
        members = _position_members(event.position)
        if event.is_recovered is None:
            return b"{%b}" % members.removesuffix(b",")
        return b'{%b"recovered":%b}' % (members, b"true" if event.is_recovered else b"false")
    return b'{"%b":%b}' % (b"join" if event.have_joined else b"leave", _clients(event))


def client_members(info: ClientInfo) -> dict[str, object]:
    """Return the members of a client: client, user, and if not empty conn_info, chan_info."""
    infos = {"conn_info": info.info, "chan_info": info.channel_info}
    present = {name: orjson.Fragment(text) for name, text in infos.items() if text}
    return {"client": info.client, "user": info.user, **present}


def _clients(event: Membership) -> bytes:
    """Return the JSON array of the clients that joined or left."""
    return orjson.dumps(
        [
            {"client": each.client, "user": each.user, "info": orjson.Fragment(each.info or b"null")}
            for each in event.clients
        ]
    )


def _position_members(position: Position | None) -> bytes:
    return b"" if position is None else b'"offset":%d,"epoch":"%b",' % (position.offset, position.epoch.encode())


def about_members(publication: Publication) -> bytes:
    """Return the members with the tags and the publisher, each with a comma behind it."""
    members = b""
    if publication.tags:
        members += b'"tags":%b,' % orjson.dumps(dict(publication.tags))
    if publication.info is not None:
        members += b'"info":%b,' % orjson.dumps(client_members(publication.info))
    return members


def payload_member(publication: Publication) -> bytes:
    """Return the member with the payload: `data`, `text` or `base64`."""
    if publication.kind is Kind.BINARY:
        return b'"base64":"%b"' % base64.b64encode(publication.data)
    if publication.kind is Kind.JSON:
        return b'"data":' + publication.data
    return b'"text":' + orjson.dumps(publication.data.decode())


def _plain_frame(event: Event) -> bytes:
    return frames.message_frame(event.kind, event.data) if isinstance(event, Publication) else b""


def _envelope_frame(event: Event) -> bytes:
    return frames.message_frame(Kind.TEXT, envelope(event))


def deflated(frame_of: Callable[[Event], bytes]) -> Callable[[Event], bytes]:
    """Return an encoder whose frames are compressed: once each, for all clients that negotiated it."""

    def deflated_frame(event: Event) -> bytes:
        frame = frame_of(event)
        if len(frame) < _MIN_DEFLATED_BYTES:
            return frame
        ((opcode, payload),) = frames.split(frame)
        return frames.frame(opcode, deflate.deflate(payload), is_compressed=True)

    return deflated_frame


def in_envelope(encoding: Encoding) -> bool:
    """Return whether a WebSocket's publications are in envelopes."""
    return encoding in (ENVELOPE_WEBSOCKET, DEFLATED_ENVELOPE)


def text_frame(encoding: Encoding, text: bytes) -> bytes:
    """Return a message of the server's own, for a client with this encoding of a WebSocket."""
    is_deflated = encoding in (DEFLATED_WEBSOCKET, DEFLATED_ENVELOPE)
    return (DEFLATED_WEBSOCKET if is_deflated else PLAIN_WEBSOCKET).encode(Publication("", text))


def _missed_frame(count: int) -> bytes:
    return frames.frame(frames.TEXT, b'{"missed":%d}' % count)


def _sse_event(event: Event) -> bytes:
    """Return the bytes of a server-sent event; its id is the position, from which the browser recovers by itself."""
    if isinstance(event, Publication):
        return event_stream.event_id(event.position) + event_stream.event(event.kind, event.data)
    if isinstance(event, Resumption):
        return event_stream.event_id(event.position) + b"event: position\ndata: " + envelope(event) + b"\n\n"
    return b"event: %b\ndata: %b\n\n" % (b"join" if event.have_joined else b"leave", _clients(event))


PLAIN_WEBSOCKET = Encoding(_plain_frame, _missed_frame)
DEFLATED_WEBSOCKET = Encoding(deflated(_plain_frame), _missed_frame)
ENVELOPE_WEBSOCKET = Encoding(_envelope_frame, _missed_frame, tells_positions=True)
DEFLATED_ENVELOPE = Encoding(deflated(_envelope_frame), _missed_frame, tells_positions=True)
PLAIN_SSE = Encoding(_sse_event, event_stream.missed, tells_positions=True)
