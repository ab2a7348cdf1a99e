"""The format of a publication in a Redis message.

Any service may publish a plain JSON document: `PUBLISH roomcast:room:lobby '{"text":"hi"}'`. Messages of nodes start
with a header that no JSON document starts with: byte 0x01, a letter, and a newline.

    j   JSON            t   other text      b   binary
    j12,5f0c2a91        JSON, offset 12 in the epoch 5f0c2a91 of the history
    +   joins           -   leaves: a JSON array of [client, user, info], info any JSON or null; or with a fourth
                            member, the info of the subscription
    x   the channel's history was removed: nothing follows

Tags and the publishing client are a JSON object before the data. Its length in bytes is the third member of the header:
`j12,5f0c2a91,31`, without a history `j,,31`. It has `tags`, an object of strings, and `info`, the client in the format
of joins; either may be missing. A change of a map has its `key` there, the Unix `time` in ms, `removed` true if it
removes the key, and in namespaces with a filter by tags those of the value `before` it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from roomcast.model import json
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import ClientError
from roomcast.model.maps import Change, check_key
from roomcast.model.payloads import kind_of_text
from roomcast.model.positions import Position
from roomcast.model.publications import BrokerEvent, Kind, Membership, Publication, Removal
from roomcast.model.tags import MAX_TAG_BYTES, MAX_TAG_COUNT, check_tags

# Python 3.11 takes 0.13 us to find a member of an enum.
_JSON, _TEXT, _BINARY = Kind.JSON, Kind.TEXT, Kind.BINARY
LETTERS = {_JSON: b"j", _TEXT: b"t", _BINARY: b"b"}
KINDS = {letter: kind for kind, letter in LETTERS.items()}
_MEMBERSHIPS = {b"+": True, b"-": False}
REMOVAL = b"\x01x\n"
_MAX_HEADER_BYTES = 64
_WORDS_BYTES = 1024
# JSON writes a control character in six bytes.
_MAX_TAGS_BYTES = 2 * 6 * 2 * MAX_TAG_COUNT * MAX_TAG_BYTES  # also those before a change


class About(NamedTuple):
    """What precedes a payload; fields as of a Publication."""

    tags: Mapping[str, str] | None = None
    info: ClientInfo | None = None
    change: Change | None = None


class MalformedMessage(ValueError):  # noqa: N818  (an error of another program)
    """A malformed Redis message; the text has the reason."""


def pack(publication: Publication, about: bytes) -> bytes:
    """Return the Redis message of a publication without history; `about` is the result of `pack_about`."""
    if about:
        return b"\x01%b,,%d\n%b%b" % (LETTERS[publication.kind], len(about), about, publication.data)
    return b"\x01" + LETTERS[publication.kind] + b"\n" + publication.data


def pack_about(publication: Publication) -> bytes:
    """Return what precedes the payload of a publication; empty for nothing."""
    if publication.change is not None:
        change = publication.change
        return with_tags(pack_change(publication, change, time_ms=change.time_ms), pack_tags(publication.tags))
    if not publication.tags and publication.info is None:
        return b""
    about: dict[str, object] = {}
    if publication.tags:
        about = {"tags": dict(publication.tags)}
    if publication.info is not None:
        about["info"] = _members(publication.info)
    return orjson.dumps(about)


def pack_change(publication: Publication, change: Change, *, time_ms: int) -> bytes:
    """Return the result of `pack_about` for a publication with a change, without its tags."""
    about: dict[str, object] = {"key": change.key, "time": time_ms}
    if change.is_removed:
        about["removed"] = True
    if publication.info is not None:
        about["info"] = _members(publication.info)
    return orjson.dumps(about)


def pack_tags(tags: Mapping[str, str] | None) -> bytes:
    """Return tags as the member of an object that `pack_about` returns; empty for none."""
    return orjson.dumps(dict(tags)) if tags else b""


def with_tags(about: bytes, tags: bytes) -> bytes:
    """Return the result of `pack_about` for a publication with tags; `tags` is the result of `pack_tags`."""
    return b'%b,"tags":%b}' % (about[:-1], tags) if tags else about


def unpack(channel: str, message: bytes, *, max_message_bytes: int) -> BrokerEvent:
    """Return the event of a Redis message.

    A message of another service is checked here: once per node, never per subscriber.
    Raises: MalformedMessage for one that is neither JSON nor of a node, or larger than `max_message_bytes`.
    """
    if message[:1] != b"\x01":
        check_document(message, max_message_bytes=max_message_bytes)
        return Publication(channel, message, _JSON)
    end = message.find(b"\n", 2, _MAX_HEADER_BYTES)
    letter = message[1:2]
    kind = KINDS.get(letter)
    if kind is None:
        if letter in _MEMBERSHIPS and end == 2:
            return Membership(channel, unpack_clients(message[3:]), _MEMBERSHIPS[letter])
        if message == REMOVAL:
            return Removal(channel)
        raise MalformedMessage("unknown header")
    if end < 0:
        raise MalformedMessage("header without an end")
    data = message[end + 1 :]
    if end == 2:
        return Publication(channel, data, check_payload(kind, data, max_message_bytes=max_message_bytes))
    offset, _, epoch = message[2:end].partition(b",")
    if not epoch.isalnum() or not offset.isdigit():  # only messages with tags or info pay for them
        return _unpack_with_about(channel, kind, message[2:end], data, max_message_bytes=max_message_bytes)
    kind = check_payload(kind, data, max_message_bytes=max_message_bytes)
    return Publication(channel, data, kind, Position(int(offset), epoch.decode()))


def _unpack_with_about(channel: str, kind: Kind, header: bytes, rest: bytes, *, max_message_bytes: int) -> Publication:
    position, _, size = header.rpartition(b",")
    offset, _, epoch = position.partition(b",")
    is_placed = epoch.isalnum() and offset.isdigit()
    if not (is_placed or position == b",") or not size.isdigit() or int(size) > len(rest):
        raise MalformedMessage("unknown header")
    about, data = rest[: int(size)], rest[int(size) :]
    kind = check_payload(kind, data, max_message_bytes=max_message_bytes)
    place = Position(int(offset), epoch.decode()) if is_placed else None
    return Publication(channel, data, kind, place, *unpack_about(about, max_message_bytes=max_message_bytes))


def unpack_about(text: bytes, *, max_message_bytes: int) -> About:
    """Return the result of `pack_about` as values. Raises: MalformedMessage."""
    # The infos of a connection and of a subscription are each limited like a message of a client.
    if len(text) > _MAX_TAGS_BYTES + 2 * max_message_bytes + _WORDS_BYTES:
        raise MalformedMessage(f"{len(text)} bytes about a publication")
    try:
        about = json.loads(text)
        if not isinstance(about, dict):
            raise TypeError("no object")
        info = about.get("info")
        return About(
            check_tags(about.get("tags")),
            None if info is None else _client(info),
            _change(about) if "key" in about else None,
        )
    except (ValueError, TypeError):
        raise MalformedMessage("no object with tags and info") from None
    except ClientError as exc:
        raise MalformedMessage(exc.detail) from None


def _change(about: Mapping[str, object]) -> Change:
    """Raises: ValueError, TypeError, ClientError."""
    time_ms = about.get("time", 0)
    if type(time_ms) is not int:
        raise TypeError("time is a whole number")
    key = check_key(str(about["key"]))
    return Change(key, about.get("removed") is True, check_tags(about.get("before")), time_ms)


def check_payload(kind: Kind, data: bytes, *, max_message_bytes: int) -> Kind:
    """Check a payload, which another service may have written as if it were a node; return its kind.

    TEXT may be JSON: older nodes wrote `t` for it too, and histories may still hold such entries.
    Raises: MalformedMessage for too many bytes, and for text that is not UTF-8.
    """
    # A node has checked the message of its client, and may have put a few words before it.
    if len(data) > max_message_bytes + _WORDS_BYTES:
        raise MalformedMessage(f"{len(data)} bytes, more than max_message_bytes ({max_message_bytes})")
    if kind is _BINARY:
        return kind
    if not data.isascii():
        try:
            data.decode()  # a text frame that is not UTF-8 would make every browser in the room disconnect
        except UnicodeDecodeError:
            raise MalformedMessage("text is not UTF-8") from None
    return kind_of_text(data) if kind is _TEXT else kind


def pack_clients(clients: tuple[ClientInfo, ...]) -> bytes:
    """Return clients as JSON."""
    return orjson.dumps([_members(each) for each in clients])


def _members(info: ClientInfo) -> list[object]:
    members: list[object] = [info.client, info.user, orjson.Fragment(info.info or b"null")]
    return [*members, orjson.Fragment(info.channel_info)] if info.channel_info else members


def unpack_clients(text: bytes) -> tuple[ClientInfo, ...]:
    """Return the clients of a JSON array. Raises: MalformedMessage."""
    try:
        return tuple(map(_client, json.loads(text)))
    except (ValueError, TypeError):
        raise MalformedMessage("no list of clients") from None


def _client(members: Iterable[object]) -> ClientInfo:
    """Return the client of a result of `_members`. Raises: ValueError, TypeError."""
    client, user, info, *more = members
    (channel_info,) = more or (None,)
    return ClientInfo(str(client), str(user), _json_of(info), _json_of(channel_info))


def _json_of(info: object) -> bytes:
    return b"" if info is None else json.dumps(info)


def check_document(message: bytes, *, max_message_bytes: int) -> None:
    """Check a payload of another service. Raises: MalformedMessage if it is too large, or not JSON."""
    if len(message) > max_message_bytes:
        raise MalformedMessage(f"{len(message)} bytes, more than max_message_bytes ({max_message_bytes})")
    try:
        json.check(message)
    except json.InvalidJson as exc:
        raise MalformedMessage(f"not JSON: {exc}") from None
