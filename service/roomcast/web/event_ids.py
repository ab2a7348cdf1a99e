"""The id of the last event that a client of an event stream has received: it sends the id when it reconnects."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import HTTPConnection

from roomcast.model.errors import ClientError
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
    """Return the id that a client sends; that of another server at this address, such as `urn:uuid:...`, says nothing.

    A browser sends the id by itself, and never opens the stream again after an error.
    """
    # Libraries that replace EventSource cannot always set a header.
    text = connection.headers.get("last-event-id") or connection.query_params.get("lastEventId", "")
    first, *others = text.split(":")
    if first == END:
        return LastEventId(is_end=True)
    offset, key = others[0] if others else "", ":".join(others[1:])
    if key and not first and not offset:
        return LastEventId(None, key)
    try:
        return LastEventId(position_of(offset, first), key)
    except ClientError:
        return LastEventId()
