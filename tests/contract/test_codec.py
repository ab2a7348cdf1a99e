"""The contract of both encodings of the Centrifuge protocol: the same commands, replies and pushes."""

from __future__ import annotations

import io
from typing import Any, Protocol

import orjson
import pytest
from centrifuge.fossil import apply_delta
from centrifuge.protocol import client_pb2 as sdk
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from roomcast.centrifuge.codec import (
    Codec,
    Command,
    MalformedFrame,
    Members,
    client_members,
    publication_members,
)
from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import ErrorCode
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication


class Peer(Protocol):
    """A client of one encoding: writes commands and reads replies with independent code."""

    codec: Codec

    def frame(self, *commands: Members) -> bytes: ...

    def messages(self, payload: bytes) -> list[Any]: ...

    def expected(self, reply: Members) -> Any: ...

    def data(self, member: bytes) -> bytes: ...


class JsonPeer:
    codec: Codec = JsonCodec()

    def frame(self, *commands: Members) -> bytes:
        return b"\n".join(orjson.dumps(command, default=orjson.Fragment) for command in commands)

    def messages(self, payload: bytes) -> list[Any]:
        return [orjson.loads(line) for line in payload.split(b"\n")]

    def expected(self, reply: Members) -> Any:
        return orjson.loads(orjson.dumps(reply, default=orjson.Fragment))

    def data(self, member: bytes) -> bytes:
        text: str = orjson.loads(member)
        return text.encode()


class ProtobufPeer:
    codec: Codec = ProtobufCodec()

    def frame(self, *commands: Members) -> bytes:
        output = io.BytesIO()
        for command in commands:
            serialize_length_prefixed(sdk.Command(**command), output)
        return output.getvalue()

    def messages(self, payload: bytes) -> list[Any]:
        source, found = io.BytesIO(payload), []
        while source.tell() < len(payload):
            found.append(parse_length_prefixed(sdk.Reply, source))
        return found

    def expected(self, reply: Members) -> Any:
        return sdk.Reply(**reply)

    def data(self, member: bytes) -> bytes:
        return member


@pytest.fixture(params=[JsonPeer(), ProtobufPeer()], ids=["json", "protobuf"])
def peer(request: pytest.FixtureRequest) -> Peer:
    found: Peer = request.param
    return found


COMMANDS: list[Command] = [
    Command(
        1,
        "connect",
        {
            "token": "T",
            "data": b'{"a":1}',
            "name": "js",
            "version": "1",
            "headers": {"X-A": "b"},
            "flag": 1,
            "subs": {"#1": {"recover": True, "offset": 2**64 - 1, "epoch": "e", "data": b"[]"}},
        },
    ),
    Command(
        2,
        "subscribe",
        {
            "channel": "a",
            "token": "S",
            "recover": True,
            "epoch": "e",
            "offset": 3,
            "data": b"1",
            "positioned": True,
            "recoverable": True,
            "join_leave": True,
            "delta": "fossil",
            "flag": 3,
            "tf": {"op": "not", "nodes": [{"key": "team", "cmp": "in", "vals": ["red", "\u00e9"]}]},
        },
    ),
    Command(3, "unsubscribe", {"channel": "a"}),
    Command(4, "publish", {"channel": "a", "data": b'"x"'}),
    Command(5, "presence", {"channel": "a"}),
    Command(6, "presence_stats", {"channel": "a"}),
    Command(7, "history", {"channel": "a", "limit": -1, "since": {"offset": 1, "epoch": "e"}, "reverse": True}),
    Command(8, "ping", {}),
    Command(0, "send", {"data": b"0"}),
    Command(9, "rpc", {"method": "m", "data": b"{}"}),
    Command(10, "refresh", {"token": "T"}),
    Command(2**32 - 1, "sub_refresh", {"channel": "a", "token": "S"}),
    Command(0, "", {}),
    Command(11, "", {}),
]


def members(command: Command) -> Members:
    named: Members = {"id": command.id} if command.id else {}
    if command.method:
        named[command.method] = command.params
    return named


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.method or "none")
def test_a_command_is_read_as_it_was_meant(peer: Peer, command: Command) -> None:
    assert list(peer.codec.commands(peer.frame(members(command)))) == [command]


def test_many_commands_in_a_frame_keep_their_order(peer: Peer) -> None:
    frame = peer.frame(*(members(command) for command in COMMANDS))

    assert list(peer.codec.commands(frame)) == COMMANDS


def test_an_empty_command_is_a_pong_and_others_are_none(peer: Peer) -> None:
    commands = list(peer.codec.commands(peer.frame({}, {"ping": {}}, {"id": 1})))

    assert [command == Command(0, "", {}) for command in commands] == [True, False, False]


def test_an_empty_frame_is_refused(peer: Peer) -> None:
    with pytest.raises(MalformedFrame, match="no command"):
        list(peer.codec.commands(b""))


def test_the_other_encoding_s_frame_is_refused(peer: Peer) -> None:
    other: Peer = ProtobufPeer() if isinstance(peer, JsonPeer) else JsonPeer()

    with pytest.raises(MalformedFrame):
        list(peer.codec.commands(other.frame(members(COMMANDS[0]))))


ADA = client_members(ClientInfo("c1", "ada", b'{"n":1}', b"[]"))
PUBLICATION = Publication("a", b'{"t":1}', Kind.JSON, Position(11, "e"), {"k": "v"}, ClientInfo("c1", "ada"))


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("connect", {"client": "c1", "version": "1", "ping": 25, "pong": True, "subs": {"#1": {"offset": 5}}}),
        ("subscribe", {"recoverable": True, "epoch": "e", "publications": [publication_members(PUBLICATION, b"1")]}),
        ("unsubscribe", {}),
        ("publish", {}),
        ("presence", {"presence": {"c1": ADA}}),
        ("presence_stats", {"num_clients": 2, "num_users": 1}),
        ("history", {"publications": [{"data": b"1", "offset": 1}, {"data": b"[]", "offset": 2}], "epoch": "e"}),
        ("ping", {}),
        ("rpc", {"data": b'{"ok":true}'}),
        ("refresh", {"client": "c1", "expires": True, "ttl": 60}),
        ("sub_refresh", {"expires": True, "ttl": 60}),
    ],
)
def test_a_reply_says_what_was_done(peer: Peer, method: str, result: Members) -> None:
    reply = peer.codec.reply(7, method, result)

    assert peer.messages(reply) == [peer.expected({"id": 7, method: result})]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ErrorCode.NOT_AVAILABLE, {"code": 108, "message": "not available"}),
        (ErrorCode.INTERNAL, {"code": 100, "message": "internal server error", "temporary": True}),
    ],
)
def test_an_error_says_whether_trying_again_may_help(peer: Peer, error: ErrorCode, expected: Members) -> None:
    reply = peer.codec.error(7, error.code, error.message, is_temporary=error.is_temporary)

    assert peer.messages(reply) == [peer.expected({"id": 7, "error": expected})]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("pub", publication_members(PUBLICATION, b'{"t":1}')),
        ("pub", {"data": b"1", "delta": True}),
        ("join", {"info": ADA}),
        ("leave", {"info": ADA}),
        ("unsubscribe", {"code": 2500, "reason": "insufficient state"}),
        ("subscribe", {"recoverable": True, "epoch": "e", "offset": 5, "positioned": True}),
        ("message", {"data": b"1"}),
        ("refresh", {"expires": True, "ttl": 60}),
        ("disconnect", {"code": 3001, "reason": "shutdown", "reconnect": True}),
    ],
)
@pytest.mark.parametrize("channel", ["a", ""])
def test_a_push_has_no_id(peer: Peer, channel: str, kind: str, fields: Members) -> None:
    push = peer.codec.push(channel, kind, fields)

    named = {"channel": channel, kind: fields} if channel else {kind: fields}
    assert peer.messages(push) == [peer.expected({"push": named})]


def test_a_ping_is_an_empty_reply(peer: Peer) -> None:
    assert peer.messages(peer.codec.ping) == [peer.expected({})]


def test_replies_and_pushes_are_joined_in_one_frame(peer: Peer) -> None:
    codec = peer.codec
    separator = b"\n" if codec.kind is Kind.TEXT else b""
    payload = separator.join([codec.reply(1, "ping", {}), codec.ping, codec.push("a", "pub", {"data": b"1"})])

    assert peer.messages(payload) == [
        peer.expected({"id": 1, "ping": {}}),
        peer.expected({}),
        peer.expected({"push": {"channel": "a", "pub": {"data": b"1"}}}),
    ]


def test_a_client_that_gets_differences_can_follow(peer: Peer) -> None:
    first = b'{"text": "\xc3\xa9\xc3\xa8, and all that stays as it is", "count": 1}'
    second = first.replace(b"\xc3\xa9", b"\xc3\xaa").replace(b"1}", b"22}")

    full, patch = peer.codec.full(first), peer.codec.patch(first, second)

    assert patch is not None
    assert len(patch) < len(second)
    assert peer.data(full) == first
    assert apply_delta(peer.data(full), peer.data(patch)) == second


def test_a_difference_that_is_not_smaller_is_none(peer: Peer) -> None:
    assert peer.codec.patch(b'{"a":1}', b'{"a":2}') is None
