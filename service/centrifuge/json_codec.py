"""The JSON encoding of the Centrifuge protocol: one JSON object a line, `bytes` members as JSON values inside it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import orjson

from service.centrifuge import fossil
from service.centrifuge.codec import METHODS, Command, MalformedFrame, Members
from service.messages import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from service.messages import Publication

_MAX_ID = 2**32 - 1
_STRING = frozenset((str,))
_NUMBER = frozenset((int,))
_FLAG = frozenset((bool,))
_OBJECT = frozenset((dict,))
# Any JSON value, which becomes its text.
_VALUE: frozenset[type] = frozenset()

_SUBSCRIBE: Mapping[str, frozenset[type]] = {
    "channel": _STRING,
    "token": _STRING,
    "recover": _FLAG,
    "epoch": _STRING,
    "offset": _NUMBER,
    "data": _VALUE,
    "positioned": _FLAG,
    "recoverable": _FLAG,
    "join_leave": _FLAG,
    "delta": _STRING,
    "tf": _OBJECT,
    "flag": _NUMBER,
}
_MEMBERS: Mapping[str, Mapping[str, frozenset[type]]] = {
    "connect": {
        "token": _STRING,
        "data": _VALUE,
        "subs": _OBJECT,
        "name": _STRING,
        "version": _STRING,
        "headers": _OBJECT,
        "flag": _NUMBER,
    },
    "subscribe": _SUBSCRIBE,
    "unsubscribe": {"channel": _STRING},
    "publish": {"channel": _STRING, "data": _VALUE},
    "presence": {"channel": _STRING},
    "presence_stats": {"channel": _STRING},
    "history": {"channel": _STRING, "limit": _NUMBER, "since": _OBJECT, "reverse": _FLAG},
    "ping": {},
    "send": {"data": _VALUE},
    "rpc": {"data": _VALUE, "method": _STRING},
    "refresh": {"token": _STRING},
    "sub_refresh": {"channel": _STRING, "token": _STRING},
}
_SINCE = {"offset": _NUMBER, "epoch": _STRING}


class JsonCodec:
    """Implements `Codec`."""

    kind = Kind.TEXT
    ping = b"{}"

    def commands(self, frame: bytes) -> Iterator[Command]:
        """See `Codec.commands`."""
        is_empty = True
        for line in frame.split(b"\n"):
            if line and not line.isspace():
                is_empty = False
                yield _command(line)
        if is_empty:
            raise MalformedFrame("no command")

    def reply(self, command_id: int, method: str, result: Mapping[str, Any]) -> bytes:
        """See `Codec.reply`."""
        return orjson.dumps({"id": command_id, method: result}, default=orjson.Fragment)

    def error(self, command_id: int, code: int, message: str, *, is_temporary: bool) -> bytes:
        """See `Codec.error`."""
        error: Members = {"code": code, "message": message}
        if is_temporary:
            error["temporary"] = True
        return orjson.dumps({"id": command_id, "error": error})

    def push(self, channel: str, kind: str, fields: Mapping[str, Any]) -> bytes:
        """See `Codec.push`."""
        push: Members = {"channel": channel, kind: fields} if channel else {kind: fields}
        return orjson.dumps({"push": push}, default=orjson.Fragment)

    def payload(self, publication: Publication) -> bytes:
        """Return JSON as it was, any other text as a JSON string, and binary as a JSON string of its base64."""
        data = publication.data
        if publication.kind is Kind.BINARY:
            return b'"%b"' % base64.b64encode(data)
        try:
            orjson.loads(data)
        except orjson.JSONDecodeError:
            return orjson.dumps(data.decode())
        # Between values a line end is only space, but clients split frames at it; inside strings it cannot stand.
        return data.replace(b"\n", b" ") if b"\n" in data else data

    def full(self, payload: bytes) -> bytes:
        """See `Codec.full`: a JSON string that holds the payload's text."""
        return orjson.dumps(payload.decode())

    def patch(self, before: bytes, payload: bytes) -> bytes | None:
        """See `Codec.patch`: a JSON string that holds the difference."""
        patch = fossil.create_delta(before, payload, is_text=True)
        return orjson.dumps(patch.decode()) if len(patch) < len(payload) else None

    def join(self, messages: list[bytes]) -> bytes:
        """See `Codec.join`."""
        return b"\n".join(messages)


def _command(line: bytes) -> Command:
    try:
        command = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise MalformedFrame(f"not JSON: {exc.msg}") from None
    if type(command) is not dict:
        raise MalformedFrame("a command is a JSON object")
    command_id = command.get("id", 0)
    if type(command_id) is not int or not 0 <= command_id <= _MAX_ID:
        raise MalformedFrame("an id is a whole number of 32 bits")
    for method in METHODS:
        params = command.get(method)
        if params is not None:
            return Command(command_id, method, _members(method, params, _MEMBERS[method]))
    return Command(command_id, "", {})


def _members(what: str, members: Any, types: Mapping[str, frozenset[type]]) -> Members:  # Any: JSON
    """Return the members that the schema knows. Raises: MalformedFrame if one is of another type."""
    if type(members) is not dict:
        raise MalformedFrame(f"{what} is a JSON object")
    found: Members = {}
    for name, value in members.items():
        expected = types.get(name)
        if expected is None or value is None:
            continue
        if expected is _VALUE:
            found[name] = orjson.dumps(value)
        elif type(value) in expected:
            found[name] = value
        else:
            raise MalformedFrame(f"{what}.{name} is not of the type {'or '.join(each.__name__ for each in expected)}")
    if "since" in found:
        found["since"] = _members("since", found["since"], _SINCE)
    if "subs" in found:
        found["subs"] = {name: _members("subs", each, _SUBSCRIBE) for name, each in found["subs"].items()}
    return found
