"""The id of the last event that a client of an event stream has received: it sends the id when it reconnects."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import HTTPConnection

from roomcast.model.positions import Position, position_of
from roomcast.transports.event_stream import END


class LastEventId(NamedTuple):
    """What `<epoch>:<offset>`, `<epoch>:<offset>:<key>`, `::<key>` and `end` say.

    key: opens the stream again together with its ticket. is_end: the server has ended the stream for good.
    """

    position: Position | None = None
    key: str = ""
    is_end: bool = False


def last_event_id(connection: HTTPConnection) -> LastEventId:
    """Return the id that a client sends. Raises: ClientError 107 for an invalid position in it."""
    # Libraries that replace EventSource cannot always set a header.
    text = connection.headers.get("last-event-id") or connection.query_params.get("lastEventId", "")
    first, *others = text.split(":")
    if first == END:
        return LastEventId(is_end=True)
    if not others:  # of another server at this address
        return LastEventId()
    offset, key = others[0], ":".join(others[1:])
    return LastEventId(position_of(offset, first) if first or offset or not key else None, key)
