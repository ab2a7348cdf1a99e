"""Commands, replies and pushes of the Centrifuge protocol, apart from their encodings.

Their members are named as in the protocol's schema (client.proto). Members of the schema's type `bytes` (data, info,
conn_info, chan_info) are bytes here too: JSON text in the JSON encoding, anything in the Protobuf encoding. Empty,
zero and false members are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.positions import MAX_OFFSET, Position
from roomcast.model.publications import Kind, Publication

# A command's or a result's members by name.
Members = dict[str, Any]  # Any: the types of the schema


class Command(NamedTuple):
    """A client's command.

    id: of the reply, from 1 on; 0: the client wants no reply.
    method: the first one of the schema that the command has; "": none.
    """

    id: int
    method: str
    params: Members


# The method of a command with an id that is nested too deeply to be parsed. No client can send this name.
TOO_DEEP = "nested too deeply"


class MalformedFrame(ValueError):  # noqa: N818  (the client's error, not ours)
    """A client's frame is not a sequence of commands; the text says why."""


class Codec(Protocol):
    """One encoding of the protocol. Stateless; one object serves all connections."""

    kind: Kind  # of the WebSocket frames
    ping: bytes  # an empty reply
    no_data: bytes  # the payload of a map's value without data, and of a removal, where `data` may not be absent

    def commands(self, frame: bytes) -> Iterator[Command]:
        """Yield the commands of a frame, or of a request's body. Members of the schema have its types.

        Raises: MalformedFrame, once those before it have been yielded.
        """

    def reply(self, command_id: int, method: str, result: Mapping[str, Any]) -> bytes:
        """Return the reply to a command that was executed."""

    def state(self, entries: Sequence[Members]) -> bytes:
        """Return entries of a map, encoded for `reply_with_state`."""

    def reply_with_state(self, command_id: int, result: Mapping[str, Any], state: bytes) -> bytes:
        """Return the reply to a `subscribe` that was executed, with entries of the map."""

    def error(self, command_id: int, code: int, message: str, *, is_temporary: bool) -> bytes:
        """Return the reply to a command that was rejected."""

    def push(self, channel: str, kind: str, fields: Mapping[str, Any]) -> bytes:
        """Return a push: `kind` is pub, join, leave, unsubscribe, subscribe, message, refresh or disconnect."""

    def payload(self, publication: Publication) -> bytes:
        """Return the member `data` of a publication."""

    def full(self, payload: bytes) -> bytes:
        """Return the member `data` of a whole payload for a client that gets differences."""

    def patch(self, before: bytes, payload: bytes) -> bytes | None:
        """Return the member `data` of the difference between two payloads; None if it is not smaller."""


def client_members(info: ClientInfo) -> Members:
    """Return the ClientInfo of the schema."""
    members: Members = {"user": info.user, "client": info.client}
    if info.info:
        members["conn_info"] = info.info
    if info.channel_info:
        members["chan_info"] = info.channel_info
    return members


def publication_members(publication: Publication, data: bytes, *, is_patch: bool = False) -> Members:
    """Return the Publication of the schema, with the given `data`: a payload, or the patch of one."""
    members: Members = {"data": data}
    if publication.position is not None:
        members["offset"] = publication.position.offset
    if publication.info is not None:
        members["info"] = client_members(publication.info)
    if publication.tags:
        members["tags"] = publication.tags
    if is_patch:
        members["delta"] = True
    return members


def since_of(members: Members) -> Position:
    """Return the position of a command; an empty epoch is the present one. Raises: ClientError 107 if it is invalid."""
    offset = members.get("offset", 0)
    if not 0 <= offset <= MAX_OFFSET:
        raise ClientError(ErrorCode.BAD_REQUEST, f"an offset is a whole number from 0 to {MAX_OFFSET}")
    return Position(offset, members.get("epoch", ""))
