"""How a publication is written in a Redis message.

Anyone may publish a JSON document as it is: `PUBLISH roomcast:room:lobby '{"text":"hi"}'`. What JSON cannot carry
travels behind a header that no JSON document starts with: byte 0x01, a letter, and a newline.

    t   text            b   binary          t12,5f0c2a91   text, offset 12 in the epoch 5f0c2a91 of the history
    +   who joined      -   who left: a JSON array of [client, user, info], info any JSON or null; or with a fourth
                            member, the info of the subscription
"""

from __future__ import annotations

import orjson

from service.messages import ClientInfo, Event, Kind, Membership, Position, Publication

LETTERS = {Kind.TEXT: b"t", Kind.BINARY: b"b"}
KINDS = {letter: kind for kind, letter in LETTERS.items()}
_MEMBERSHIPS = {b"+": True, b"-": False}
_MAX_HEADER_BYTES = 64
_WORDS_BYTES = 1024


class MalformedMessage(ValueError):  # noqa: N818  (not a fault of ours: a message somebody published)
    """A Redis message that is no publication; the text says why."""


def pack(publication: Publication) -> bytes:
    """Return the Redis message of a publication that a client sent to a channel without a history."""
    return b"\x01" + LETTERS[publication.kind] + b"\n" + publication.data


def unpack(channel: str, message: bytes, *, max_message_bytes: int) -> Event:
    """Return what a Redis message says.

    A message of another service is checked here, its only edge: once per node, never per subscriber.
    Raises: MalformedMessage for one that is neither JSON nor ours, or larger than `max_message_bytes`.
    """
    if message[:1] != b"\x01":
        check_document(message, max_message_bytes=max_message_bytes)
        return Publication(channel, message)
    end = message.find(b"\n", 2, _MAX_HEADER_BYTES)
    letter = message[1:2]
    kind = KINDS.get(letter)
    if kind is None:
        if letter in _MEMBERSHIPS and end == 2:
            return Membership(channel, unpack_clients(message[3:]), _MEMBERSHIPS[letter])
        raise MalformedMessage("unknown header")
    if end < 0:
        raise MalformedMessage("header without an end")
    data = message[end + 1 :]
    check_payload(kind, data, max_message_bytes=max_message_bytes)
    return Publication(channel, data, kind, None if end == 2 else _position(message[2:end]))


def check_payload(kind: Kind, data: bytes, *, max_message_bytes: int) -> None:
    """Check what somebody may have written in the place of a node. Raises: MalformedMessage."""
    # A node has checked what its client sent, and may have put a few words in front of it.
    if len(data) > max_message_bytes + _WORDS_BYTES:
        raise MalformedMessage(f"{len(data)} bytes, more than max_message_bytes ({max_message_bytes})")
    if kind is Kind.TEXT and not data.isascii():
        try:
            data.decode()  # a text frame that is not UTF-8 would make every browser in the room hang up
        except UnicodeDecodeError:
            raise MalformedMessage("text is not UTF-8") from None


def pack_clients(clients: tuple[ClientInfo, ...]) -> bytes:
    """Return clients as JSON."""
    return orjson.dumps([_members(each) for each in clients])


def _members(info: ClientInfo) -> list[object]:
    members: list[object] = [info.client, info.user, orjson.Fragment(info.info or b"null")]
    return [*members, orjson.Fragment(info.channel_info)] if info.channel_info else members


def unpack_clients(text: bytes) -> tuple[ClientInfo, ...]:
    """Return the clients of a JSON array. Raises: MalformedMessage."""
    try:
        return tuple(
            ClientInfo(str(client), str(user), *[b"" if each is None else orjson.dumps(each) for each in (info, *more)])
            for client, user, info, *more in orjson.loads(text)
        )
    except (ValueError, TypeError):
        raise MalformedMessage("no list of clients") from None


def _position(text: bytes) -> Position:
    offset, comma, epoch = text.partition(b",")
    if not comma or not offset.isdigit() or not epoch.isascii():
        raise MalformedMessage("unknown header")
    return Position(int(offset), epoch.decode())


def check_document(message: bytes, *, max_message_bytes: int) -> None:
    """Check what another service wants to be published. Raises: MalformedMessage if it is too large, or not JSON."""
    if len(message) > max_message_bytes:
        raise MalformedMessage(f"{len(message)} bytes, more than max_message_bytes ({max_message_bytes})")
    try:
        orjson.loads(message)
    except orjson.JSONDecodeError as exc:
        raise MalformedMessage(f"not JSON: {exc.msg}") from None
