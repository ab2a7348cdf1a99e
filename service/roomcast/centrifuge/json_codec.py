"""The JSON encoding of the Centrifuge protocol: one JSON object a line, `bytes` members as JSON values inside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from typing_extensions import override

from roomcast.centrifuge import fossil
from roomcast.centrifuge.codec import TOO_DEEP, Codec, Command, MalformedFrame, Members
from roomcast.model import json
from roomcast.model.json import Json
from roomcast.model.publications import Kind, Publication

_UNSIGNED_32, _UNSIGNED_64 = range(2**32), range(2**64)
_SIGNED_32, _SIGNED_64 = range(-(2**31), 2**31), range(-(2**63), 2**63)
# Any JSON value; the member is its text.
_VALUE = object

# The type of each member; of a whole number its range.
_Types = Mapping[str, type | range]
_SUBSCRIBE: _Types = {
    "channel": str,
    "token": str,
    "recover": bool,
    "epoch": str,
    "offset": _UNSIGNED_64,
    "data": _VALUE,
    "positioned": bool,
    "recoverable": bool,
    "join_leave": bool,
    "delta": str,
    "tf": dict,
    "flag": _SIGNED_64,
    "type": _SIGNED_32,
    "phase": _SIGNED_32,
    "cursor": str,
    "limit": _SIGNED_32,
    "asc": bool,
}
# By method, in the order of the schema.
_MEMBERS: Mapping[str, _Types] = {
    "connect": {
        "token": str,
        "data": _VALUE,
        "subs": dict,
        "name": str,
        "version": str,
        "headers": dict,
        "flag": _SIGNED_64,
    },
    "subscribe": _SUBSCRIBE,
    "unsubscribe": {"channel": str},
    "publish": {"channel": str, "data": _VALUE, "type": _SIGNED_32, "key": str, "removed": bool},
    "presence": {"channel": str},
    "presence_stats": {"channel": str},
    "history": {"channel": str, "limit": _SIGNED_32, "since": dict, "reverse": bool},
    "ping": {},
    "send": {"data": _VALUE},
    "rpc": {"data": _VALUE, "method": str},
    "refresh": {"token": str},
    "sub_refresh": {"channel": str, "token": str},
}
# Their `data: null` is a message; of other commands it is absent.
_MESSAGES = ("publish", "rpc")
_PAYLOADS = ("data",)
_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*([0-9]{1,10})\s*,')
_LAST_ID = re.compile(rb',\s*"id"\s*:\s*([0-9]{1,10})\s*\}\s*$')
_ID_BYTES = 64
_SINCE: _Types = {"offset": _UNSIGNED_64, "epoch": str}


class JsonCodec(Codec):
    """Each message is a line without its end."""

    kind = Kind.TEXT
    ping = b"{}"
    no_data = b"null"

    @override
    def commands(self, frame: bytes) -> Iterator[Command]:
        """Yield the commands of the lines; `data` is compact JSON of the same value."""
        is_empty = True
        for line in frame.split(b"\n"):
            if line and not line.isspace():
                is_empty = False
                yield _command(line)
        if is_empty:
            raise MalformedFrame("no command")

    @override
    def reply(self, command_id: int, method: str, result: Mapping[str, Any]) -> bytes:
        return orjson.dumps({"id": command_id, method: result}, default=orjson.Fragment)

    @override
    def state(self, entries: Sequence[Members]) -> bytes:
        return orjson.dumps(entries, default=orjson.Fragment)

    @override
    def reply_with_state(self, command_id: int, result: Mapping[str, Any], state: bytes) -> bytes:
        return self.reply(command_id, "subscribe", {**result, "state": state})

    @override
    def error(self, command_id: int, code: int, message: str, *, is_temporary: bool) -> bytes:
        error: Members = {"code": code, "message": message}
        if is_temporary:
            error["temporary"] = True
        return orjson.dumps({"id": command_id, "error": error})

    @override
    def push(self, channel: str, kind: str, fields: Mapping[str, Any]) -> bytes:
        push: Members = {"channel": channel, kind: fields} if channel else {kind: fields}
        return orjson.dumps({"push": push}, default=orjson.Fragment)

    @override
    def payload(self, publication: Publication) -> bytes:
        """Return JSON as it was, any other text as a JSON string, and binary as a JSON string of its base64."""
        data = publication.data
        if publication.kind is Kind.BINARY:
            return b'"%b"' % base64.b64encode(data)
        if publication.kind is Kind.TEXT:
            return orjson.dumps(data.decode())
        # Between values a line end is only space, but clients split frames, and event streams, at it; inside strings
        # it cannot stand.
        return data.replace(b"\n", b" ").replace(b"\r", b" ")

    @override
    def full(self, payload: bytes) -> bytes:
        """Return a JSON string of the payload's text."""
        return orjson.dumps(payload.decode())

    @override
    def patch(self, before: bytes, payload: bytes) -> bytes | None:
        """Return a JSON string of the difference."""
        patch = fossil.create_delta(before, payload, is_text=True)
        return orjson.dumps(patch.decode()) if len(patch) < len(payload) else None


def _command(line: bytes) -> Command:
    try:
        return _parsed(line)
    except json.TooDeep:
        return Command(_id_of_too_deep(line), TOO_DEEP, {})
    except json.InvalidJson as exc:
        raise MalformedFrame(f"not JSON: {exc}") from None


def _parsed(line: bytes) -> Command:
    """Return a command. Raises: MalformedFrame; InvalidJson, TooDeep."""
    try:
        command = orjson.loads(line)
    except orjson.JSONDecodeError:
        command = json.loads_unchanged(line, _PAYLOADS)
    if type(command) is not dict:
        raise MalformedFrame("a command is a JSON object")
    command_id = command.get("id")
    if command_id is None:
        command_id = 0
    elif not _is_of(_UNSIGNED_32, command_id):
        raise MalformedFrame("an id is a whole number of 32 bits")
    for method, types in _MEMBERS.items():
        params = command.get(method)
        if params is not None:
            found = _members(method, params, types)
            data = found.get("data")
            # What is written as it was read is not rounded, and comparing costs less than searching for long numbers.
            # A number may be only the start of the one that was read.
            if data and (data[-1] in b"0123456789" or not line.startswith(data, line.find(b'"data":') + 7)):
                found = _members(method, json.unrounded(command, line, _PAYLOADS)[method], types)
            return Command(command_id, method, found)
    return Command(command_id, "", {})


def _id_of_too_deep(line: bytes) -> int:
    """Return the id of a command that cannot be parsed: SDKs write it first or last. Raises: MalformedFrame."""
    found = _FIRST_ID.match(line) or _LAST_ID.search(line, max(0, len(line) - _ID_BYTES))
    if found is None or not _is_of(_UNSIGNED_32, int(found[1])):
        raise MalformedFrame("not JSON: nested too deeply, without an id")
    return int(found[1])


def _members(what: str, members: Json, types: _Types) -> Members:
    """Return the members that the schema has. Raises: MalformedFrame if one has another type."""
    if type(members) is not dict:
        raise MalformedFrame(f"{what} is a JSON object")
    found: Members = {}
    for name, value in members.items():
        expected = types.get(name)
        if expected is None or (value is None and (expected is not _VALUE or what not in _MESSAGES)):
            continue
        if expected is _VALUE:
            found[name] = json.dumps(value)
        elif _is_of(expected, value):
            found[name] = value
        else:
            raise MalformedFrame(f"{what}.{name} is of another type, or out of its range")
    if "since" in found:
        found["since"] = _members("since", found["since"], _SINCE)
    if "subs" in found:
        found["subs"] = {name: _members("subs", each, _SUBSCRIBE) for name, each in found["subs"].items()}
    if not all(type(each) is str for each in found.get("headers", {}).values()):
        raise MalformedFrame("headers are strings")
    return found


def _is_of(expected: type | range, value: Json) -> bool:
    """Return whether a value has exactly this type: true is not a number."""
    return type(value) is int and value in expected if isinstance(expected, range) else type(value) is expected
