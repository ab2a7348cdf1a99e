"""The receiver of plain clients of a map, and the keys that clients may write."""

from __future__ import annotations

from typing import Any

import orjson
from typing_extensions import override

from roomcast.connections.connection import Connection, State
from roomcast.model import json
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import (
    BAD_REQUEST,
    INSUFFICIENT_STATE,
    PERMISSION_DENIED,
    UNSUPPORTED_DATA,
    ClientError,
    ErrorCode,
)
from roomcast.model.maps import Change, MapOptions, check_key
from roomcast.model.publications import Kind, Publication, change_of
from roomcast.node.roster import HubRoster
from roomcast.rooms.map_encodings import message
from roomcast.rooms.receivers import Outcome, PlainReceiver, Publisher
from roomcast.web.failures import failure_of

_MEMBERS = frozenset({"key", "data", "removed"})


def key_of(options: MapOptions, wanted: str | None, client: ClientInfo) -> str:
    """Return the key that a client writes.

    Args:
        wanted: the key that it names; None: none, which is right where it has one key of its own.
    Raises: ClientError 107 for an invalid key, 103 for another one than its own.
    """
    own = options.own_key(client.client, client.user)
    if own is None:
        return check_key("" if wanted is None else wanted)
    if wanted not in (None, own):
        raise ClientError(
            ErrorCode.PERMISSION_DENIED, "a client's key here is its own: the id of its connection, or its user"
        )
    return own


class MapWriter(PlainReceiver):
    """Writes what a client sends: `{"key":"k","data":...}`, or `{"key":"k","removed":true}`.

    As in rooms, a client that may not write is closed (3507), and so is one whose message is malformed (3501). A write
    that fails is answered with `{"error":{"code":106,"message":"limit exceeded","key":"k"}}`.
    """

    __slots__ = ("_channel", "_may_publish", "_may_remove", "_options", "_publisher", "_roster")

    def __init__(
        self,
        publisher: Publisher,
        roster: HubRoster,
        channel: str,
        options: MapOptions,
        *,
        may_publish: bool,
        may_remove: bool,
    ) -> None:
        self._publisher = publisher
        self._roster = roster
        self._channel = channel
        self._options = options
        self._may_publish = may_publish
        self._may_remove = may_remove

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        if kind is Kind.BINARY:
            connection.close(UNSUPPORTED_DATA)
            return
        try:
            publication = self._publication(connection, data)
        except ClientError as exc:
            is_denied = exc.error is ErrorCode.PERMISSION_DENIED
            connection.close(PERMISSION_DENIED if is_denied else BAD_REQUEST)
            return

        def report(outcome: Outcome) -> None:
            if isinstance(outcome, Exception) and connection.state is State.OPEN:
                error = {**failure_of(outcome).brief, "key": change_of(publication).key}
                text = orjson.dumps({"error": error})
                connection.send(message(connection.encoding, text))

        self._publisher.publish_for(connection, publication, report)

    @override
    def on_lost(self, connection: Connection, channel: str) -> None:
        """Close the client: it reconnects, and continues from its position or loads the map again.

        Its copy stays as it was at its position: nothing that follows the loss is sent. A second way to start, on an
        open connection, would have to order the map behind what the client has not read yet.
        """
        connection.close(INSUFFICIENT_STATE)

    def _publication(self, connection: Connection, data: bytes) -> Publication:
        """Return the write in a message. Raises: ClientError 103, 107."""
        wanted = _members(data)
        is_removed = bool(wanted.get("removed"))
        if not (self._may_remove if is_removed else self._may_publish):
            raise ClientError(ErrorCode.PERMISSION_DENIED, "clients may not, in this namespace")
        info = self._roster.info(connection, self._channel)
        key = key_of(self._options, wanted.get("key"), info)
        try:
            value = json.dumps(wanted["data"]) if "data" in wanted else b""
        except json.InvalidJson as exc:
            raise ClientError(ErrorCode.BAD_REQUEST, f"data: {exc}") from None
        return Publication(self._channel, value, Kind.JSON, info=info, change=Change(key, is_removed))


def _members(data: bytes) -> dict[str, Any]:  # Any: JSON
    """Return the members of a message. Raises: ClientError 107."""
    try:
        found = json.loads(data, ("data",))
    except json.InvalidJson as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the message is not JSON: {exc}") from None
    is_valid = (
        isinstance(found, dict)
        and found.keys() <= _MEMBERS
        and type(found.get("key", "")) is str
        and type(found.get("removed", False)) is bool
        and not (found.get("removed") and "data" in found)
    )
    if not is_valid:
        raise ClientError(ErrorCode.BAD_REQUEST, "a message has a key, and data or removed")
    members: dict[str, Any] = found
    return members
