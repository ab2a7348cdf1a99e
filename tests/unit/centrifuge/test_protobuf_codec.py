"""The Protobuf encoding: the schema, raw payloads, malformed frames, and the SDKs' own readers."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from centrifuge.codecs import _ProtobufCodec as PythonSdk
from centrifuge.fossil import apply_delta
from centrifuge.protocol import client_pb2 as sdk
from google.protobuf.descriptor import Descriptor
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast.centrifuge import client_pb2
from roomcast.centrifuge.codec import Command, MalformedFrame
from roomcast.centrifuge.command_handlers import HANDLERS
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.model.publications import Kind, Publication
from tests.support.paths import ROOT

CODEC = ProtobufCodec()
BINARY = bytes(range(256))


def read(frame: bytes) -> list[Command]:
    return list(CODEC.commands(frame))


def frame(*commands: dict[str, Any]) -> bytes:
    """Return a frame of commands by the Python SDK's messages; all of them are shorter than 128 bytes."""
    messages = [sdk.Command(**command).SerializeToString() for command in commands]
    return b"".join(bytes((len(message),)) + message for message in messages)


def test_the_generated_files_are_those_of_the_schema(tmp_path: Path) -> None:
    """If not: client.proto says on top how they are made."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, "roomcast/centrifuge/client.proto"], cwd=ROOT / "service", check=True, timeout=60)

    for name in ("roomcast/centrifuge/client_pb2.py", "roomcast/centrifuge/client_pb2.pyi"):
        assert (tmp_path / name).read_text() == (ROOT / "service" / name).read_text(), f"{name} is not of this schema"


def fields(descriptor: Descriptor) -> dict[str, tuple[int, int, bool]]:
    return {field.name: (field.number, field.type, field.is_repeated) for field in descriptor.fields}


@pytest.mark.parametrize("name", sorted(set(sdk.DESCRIPTOR.message_types_by_name)))
def test_the_schema_has_the_python_sdk_s_fields(name: str) -> None:
    ours = fields(client_pb2.DESCRIPTOR.message_types_by_name[name])

    assert fields(sdk.DESCRIPTOR.message_types_by_name[name]).items() <= ours.items()


def test_the_python_sdk_s_commands_are_read() -> None:
    sent: list[dict[str, Any]] = [
        {"id": 1, "connect": {"token": "T", "data": base64.b64encode(BINARY).decode(), "name": "python"}},
        {"id": 2, "subscribe": {"channel": "a", "recover": True, "offset": 3, "epoch": "e", "flag": 1}},
        {"id": 3, "history": {"channel": "a", "limit": -1, "reverse": True, "since": {"offset": 1, "epoch": "e"}}},
        {"send": {"data": base64.b64encode(b"x").decode()}},
        {},
    ]

    assert read(PythonSdk.encode_commands(sent)) == [
        Command(1, "connect", {"token": "T", "data": BINARY, "name": "python"}),
        Command(2, "subscribe", {"channel": "a", "recover": True, "offset": 3, "epoch": "e", "flag": 1}),
        Command(3, "history", {"channel": "a", "limit": -1, "reverse": True, "since": {"offset": 1, "epoch": "e"}}),
        Command(0, "send", {"data": b"x"}),
        Command(0, "", {}),
    ]


def test_what_is_nested_is_plain_values() -> None:
    connect = {"subs": {"#1": {"recover": True, "offset": 5}}, "headers": {"a": "b"}}
    leaf = {"key": "team", "cmp": "in", "vals": ["red", "blue"]}
    tree = {"op": "and", "nodes": [leaf, {"op": "not", "nodes": [leaf]}]}

    connected, subscribed = read(frame({"id": 1, "connect": connect}, {"id": 2, "subscribe": {"tf": tree}}))

    assert connected.params == connect
    assert subscribed.params == {"tf": tree}
    assert type(connected.params["subs"]) is dict
    assert type(subscribed.params["tf"]["nodes"][0]["vals"]) is list


def test_the_first_method_of_the_table_counts() -> None:
    assert read(frame({"id": 1, "rpc": {}, "connect": {"name": "a"}})) == [Command(1, "connect", {"name": "a"})]


def test_members_of_later_versions_are_ignored() -> None:
    unknown = b"\xfa\x07\x01x"  # field 127, one byte

    assert read(b"\x06\x08\x01" + unknown) == [Command(1, "", {})]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x80",
        b"\xff" * 11,
        b"\xff" * 9 + b"\x01",
        b"\xff\xff\xff\xff\x0f",
        b"\x05\x08\x01",
        b"\x01\x08",
        b"\x02\x0f\x01",
        b"\x05\x22\x7f\x0a\x01a",
        b"\x05\x22\x03\x0a\x01\xff",
        b'{"id":1,"connect":{}}',
        b"\x00" + b"\x80",
    ],
    ids=[
        "empty",
        "cut length",
        "length of too many bytes",
        "length that overflows",
        "length of 4 GiB",
        "longer than the frame",
        "cut field",
        "wire type that is none",
        "inner length beyond the message",
        "text that is not UTF-8",
        "JSON",
        "garbage after a command",
    ],
)
def test_what_is_no_command_is_refused(sent: bytes) -> None:
    with pytest.raises(MalformedFrame):
        read(sent)


def test_filters_nested_without_end_are_refused() -> None:
    """And not followed: each level is a call of ours."""

    def member(tag: bytes, value: bytes) -> bytes:
        return tag + bytes((len(value) & 0x7F | 0x80, len(value) >> 7)) + value

    node = b""
    for _ in range(2000):
        node = member(b"\x32", node)  # nodes

    with pytest.raises(MalformedFrame, match="MaxDepth"):
        read(member(b"", member(b"\x2a", member(b"\x6a", node))))  # subscribe, tf


def test_commands_before_the_malformed_one_are_yielded() -> None:
    commands = CODEC.commands(frame({"id": 1, "ping": {}}) + b"\x02\x08")

    assert next(commands) == Command(1, "ping", {})
    with pytest.raises(MalformedFrame):
        next(commands)


@given(st.binary(), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4))
@example(b"\x80" * 10, [])
def test_whatever_a_client_sends_is_commands_or_refused(garbage: bytes, changes: list[tuple[int, int]]) -> None:
    """Garbage alone, and a good frame with some bytes changed."""
    good = bytearray(
        frame(
            {"id": 1, "connect": {"subs": {"a": {"tf": {"op": "or", "nodes": [{"key": "k"}]}}}, "headers": {"a": "b"}}},
            {"id": 2, "history": {"channel": "a", "since": {"offset": 1}}},
        )
    )
    for place, byte in changes:
        good[place % len(good)] = byte

    for sent in (garbage, bytes(good), bytes(good) + garbage):
        with contextlib.suppress(MalformedFrame):
            for command in CODEC.commands(sent):
                assert 0 <= command.id < 2**32
                assert command.method in {"", *HANDLERS}


@pytest.mark.parametrize("kind", Kind)
def test_a_payload_is_what_was_published(kind: Kind) -> None:
    assert CODEC.payload(Publication("a", b"any bytes", kind)) == b"any bytes"
    assert CODEC.full(b"any bytes") == b"any bytes"


def test_a_difference_is_only_sent_if_it_is_smaller() -> None:
    after = BINARY[:100] + b"!" + BINARY[101:]

    patch = CODEC.patch(BINARY, after)

    assert patch is not None
    assert apply_delta(BINARY, patch) == after
    assert CODEC.patch(b"1", b"2") is None


REPLIES: list[tuple[bytes, dict[str, Any]]] = [
    (CODEC.ping, {}),
    (
        CODEC.reply(1, "connect", {"client": "c", "ping": 25, "pong": True, "subs": {"#1": {"epoch": "e"}}}),
        {"id": 1, "connect": {"client": "c", "ping": 25, "pong": True, "subs": {"#1": {"epoch": "e"}}}},
    ),
    (
        CODEC.error(2, 108, "not available", is_temporary=False),
        {"id": 2, "error": {"code": 108, "message": "not available"}},
    ),
    (
        CODEC.push("a", "pub", {"data": b"\x00" * 300, "offset": 2**63, "tags": {"k": "v"}, "delta": True}),
        {"push": {"channel": "a", "pub": {"data": b"\x00" * 300, "offset": 2**63, "tags": {"k": "v"}, "delta": True}}},
    ),
]


def test_the_python_sdk_reads_replies_and_pushes() -> None:
    seen = PythonSdk.decode_replies(b"".join(message for message, _ in REPLIES))

    assert seen[0] == {}
    assert seen[1] == REPLIES[1][1]
    assert seen[2] == REPLIES[2][1]
    assert base64.b64decode(seen[3]["push"]["pub"]["data"]) == b"\x00" * 300


def test_replies_and_pushes_are_the_python_sdk_s_messages() -> None:
    for message, expected in REPLIES:
        length_bytes = 2 if len(message) > 128 else 1

        assert sdk.Reply.FromString(message[length_bytes:]) == sdk.Reply(**expected)


@pytest.mark.node
def test_centrifuge_js_reads_replies_and_its_commands_are_read(centrifuge_js: Path) -> None:
    script = centrifuge_js / "protobuf.mjs"
    script.write_text(
        """
        import { Centrifuge } from 'centrifuge/build/protobuf';
        import { readFileSync, writeSync } from 'node:fs';
        const codec = new Centrifuge('ws://localhost', { protocol: 'protobuf' })._codec;
        const replies = codec.decodeReplies(new Uint8Array(readFileSync(0)));
        const commands = codec.encodeCommands([
            { id: 1, connect: { token: 'T', name: 'js', subs: { '#1': { recover: true, offset: 5 } } } },
            { id: 2, publish: { channel: 'a', data: Uint8Array.of(0, 255) } },
            {},
        ]);
        writeSync(1, JSON.stringify({ replies, commands: Buffer.from(commands).toString('base64') }));
        """
    )

    done = subprocess.run(
        ["node", script.name],
        cwd=centrifuge_js,
        input=b"".join(message for message, _ in REPLIES),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    _, connected, refused, pushed = seen["replies"]
    assert connected["connect"]["subs"]["#1"]["epoch"] == "e"
    assert refused["error"]["code"] == 108
    assert pushed["push"]["pub"]["tags"] == {"k": "v"}
    assert read(base64.b64decode(seen["commands"])) == [
        Command(1, "connect", {"token": "T", "name": "js", "subs": {"#1": {"recover": True, "offset": 5}}}),
        Command(2, "publish", {"channel": "a", "data": b"\x00\xff"}),
        Command(0, "", {}),
    ]
