"""The encodings of plain clients of maps: one JSON message for each change.

A new client receives `{"reset":true}`, an entry for each key, and
`{"synced":true,"offset":9,"epoch":"5f0c2a91"}`; then each change as an entry. One that continues from its position
receives the changes that it missed, and `synced`. Ephemeral maps have neither offsets nor epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import orjson

from roomcast.connections.encoding import Encoding
from roomcast.model.positions import Position
from roomcast.model.publications import Event, Kind, Publication, change_of, offset_of
from roomcast.node.map_copy import LoadStart, MapCopy
from roomcast.node.map_load import encoded_page
from roomcast.rooms.encodings import about_members, deflated, payload_member
from roomcast.transports import event_stream
from roomcast.transports.websocket import frames

# Entries that are encoded at once.
_PAGE_LENGTH = 500
_RESET = b'{"reset":true}'


def entry(publication: Publication, *, with_offset: bool) -> bytes:
    """Return the JSON text of an entry or change: `{"key":"k","offset":7,"data":...}`, `{"key":"k","removed":true}`.

    `data`, `text` or `base64`, `tags` and `info` are those of a room's envelope; a value without data has none of the
    first three.
    """
    change = change_of(publication)
    members = b'"key":%b,' % orjson.dumps(change.key)
    if with_offset:
        members += b'"offset":%d,' % offset_of(publication)
    members += about_members(publication)
    if change.is_removed:
        members += b'"removed":true,'
    elif publication.data:
        members += payload_member(publication) + b","
    return b"{%b}" % members[:-1]


def _change_frame(event: Event) -> bytes:
    return _frame(entry(event, with_offset=True)) if _is_change(event) else b""


def _ephemeral_frame(event: Event) -> bytes:
    return _frame(entry(event, with_offset=False)) if _is_change(event) else b""


def _change_event(event: Event) -> bytes:
    """Return a server-sent event whose id is the change's position, from which the browser continues by itself."""
    if not _is_change(event):
        return b""
    return event_stream.event_id(event.position) + event_stream.event(Kind.JSON, entry(event, with_offset=True))


def _ephemeral_event(event: Event) -> bytes:
    return event_stream.event(Kind.JSON, entry(event, with_offset=False)) if _is_change(event) else b""


def _is_change(event: Event) -> TypeGuard[Publication]:
    """Return whether an event is a change: other programs can publish anything into the channel of a map."""
    return isinstance(event, Publication) and event.change is not None


def _frame(text: bytes) -> bytes:
    return frames.message_frame(Kind.TEXT, text)


def _missed(_count: int) -> bytes:
    """Return nothing: no change of a map is dropped, see `Connection.send_congested`."""
    return b""


MAP_WEBSOCKET = Encoding(_change_frame, _missed, tells_positions=True)
DEFLATED_MAP_WEBSOCKET = Encoding(deflated(_change_frame), _missed, tells_positions=True)
MAP_SSE = Encoding(_change_event, _missed, tells_positions=True)
EPHEMERAL_WEBSOCKET = Encoding(_ephemeral_frame, _missed)
DEFLATED_EPHEMERAL_WEBSOCKET = Encoding(deflated(_ephemeral_frame), _missed)
EPHEMERAL_SSE = Encoding(_ephemeral_event, _missed)


def websocket_encoding(is_compressed: bool, *, tells_positions: bool) -> Encoding:
    """Return the encoding of a WebSocket."""
    if tells_positions:
        return DEFLATED_MAP_WEBSOCKET if is_compressed else MAP_WEBSOCKET
    return DEFLATED_EPHEMERAL_WEBSOCKET if is_compressed else EPHEMERAL_WEBSOCKET


def is_event_stream(encoding: Encoding) -> bool:
    """Return whether an encoding of maps is that of server-sent events."""
    return encoding in (MAP_SSE, EPHEMERAL_SSE)


def message(encoding: Encoding, text: bytes) -> bytes:
    """Return a message of the server's own in an encoding of maps: JSON."""
    return event_stream.event(Kind.JSON, text) if is_event_stream(encoding) else _frame(text)


def synced(encoding: Encoding, position: Position) -> bytes:
    """Return the message that ends a start: the client's copy is that of this position."""
    if not encoding.tells_positions:
        return message(encoding, b'{"synced":true}')
    text = b'{"synced":true,"offset":%d,"epoch":"%b"}' % (position.offset, position.epoch.encode())
    event_id = event_stream.event_id(position) if is_event_stream(encoding) else b""
    return event_id + message(encoding, text)


def whole_map(
    encoding: Encoding, copy: MapCopy, start: LoadStart, changes: list[Publication], now: Position
) -> Iterator[bytes]:
    """Yield the messages to a client that has no copy: reset, entries, changes, synced; in pieces.

    No event before `synced` has a position as its id: a browser would continue from there without the rest.

    Args:
        copy: is read while the client reads. It may change meanwhile, or be no more in step: what was written after
            the start is left out.
        start: of the client's load. changes: those after it, up to `now`; later ones come live.
    """

    def encode(entries: list[Publication]) -> bytes:
        return b"".join(_loaded(encoding, each) for each in entries)

    yield (event_stream.NO_ID if is_event_stream(encoding) else b"") + message(encoding, _RESET)
    after, is_last = "", False
    while not is_last:
        page = encoded_page(copy, start, after, _PAGE_LENGTH, name=encoding, encode=encode)
        after, is_last = page.cursor, not page.cursor
        if page.entries:
            yield page.entries
    for change in changes:
        yield _loaded(encoding, change)
    yield synced(encoding, now)


def _loaded(encoding: Encoding, publication: Publication) -> bytes:
    if not is_event_stream(encoding):
        return encoding.encode(publication)
    return event_stream.event(Kind.JSON, entry(publication, with_offset=encoding.tells_positions))
