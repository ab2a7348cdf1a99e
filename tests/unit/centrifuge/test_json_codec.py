"""The JSON encoding: commands, malformed frames, and payloads inside JSON."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import given
from hypothesis import strategies as st

from roomcast.centrifuge.codec import Command, MalformedFrame
from roomcast.centrifuge.command_handlers import HANDLERS
from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.model.payloads import kind_of_text
from roomcast.model.publications import Kind, Publication

CODEC = JsonCodec()


def read(frame: bytes | str) -> list[Command]:
    return list(CODEC.commands(frame.encode() if isinstance(frame, str) else frame))


def test_each_line_is_a_command_and_blank_lines_are_none() -> None:
    """Frames as centrifuge-js and centrifuge-python send them: without spaces, and with."""
    frame = (
        b'{"connect":{"token":"T0","data":{"a":1},"name":"js"},"id":1}\n'
        b'\n  \r\n{"id": 2, "subscribe": {"channel": "chat:42", "recover": true, "offset": 3, "flag": 1}}\r\n{}\n'
    )

    assert read(frame) == [
        Command(1, "connect", {"token": "T0", "data": b'{"a":1}', "name": "js"}),
        Command(2, "subscribe", {"channel": "chat:42", "recover": True, "offset": 3, "flag": 1}),
        Command(0, "", {}),
    ]


@pytest.mark.parametrize("value", ['{"a":[1,null,"\u00e9"]}', "[]", '"text"', "1", "true", '""'])
def test_data_is_any_json_as_its_text(value: str) -> None:
    (command,) = read(f'{{"id":1,"rpc":{{"method":"m","data":{value}}}}}')

    assert command.params == {"method": "m", "data": value.encode()}


def test_unknown_members_are_ignored() -> None:
    (command,) = read('{"id":1,"future":{},"publish":{"channel":"a","data":1,"score":"k","tags":"?"}}')

    assert command == Command(1, "publish", {"channel": "a", "data": b"1"})


@pytest.mark.parametrize(
    "frame",
    [
        '{"id":null,"connect":null,"send":{"data":null}}',
        '{"send":{"data":null,"unknown":null}}',
    ],
)
def test_null_is_as_if_it_were_not_there(frame: str) -> None:
    assert read(frame) == [Command(0, "send", {})]


def test_the_first_method_of_the_table_counts() -> None:
    assert read('{"rpc":{},"connect":{"name":"a"},"id":1}') == [Command(1, "connect", {"name": "a"})]


def test_what_is_nested_is_checked_and_cut_to_what_is_known() -> None:
    frame = (
        '{"id":1,"connect":{"headers":{"a":"b"},"subs":{"#1":{"recover":true,"offset":5,"epoch":"e","future":1}}}}\n'
        '{"id":2,"history":{"channel":"a","limit":-1,"since":{"offset":0,"epoch":"","future":1}}}\n'
        '{"id":3,"subscribe":{"channel":"a","tf":{"key":"team","cmp":"eq","val":"red"}}}'
    )

    assert [command.params for command in read(frame)] == [
        {"headers": {"a": "b"}, "subs": {"#1": {"recover": True, "offset": 5, "epoch": "e"}}},
        {"channel": "a", "limit": -1, "since": {"offset": 0, "epoch": ""}},
        {"channel": "a", "tf": {"key": "team", "cmp": "eq", "val": "red"}},
    ]


def test_ten_thousand_commands_in_one_frame_are_read_one_by_one() -> None:
    commands = CODEC.commands(b'{"id":1,"ping":{}}\n' * 9_999 + b"?")

    assert [next(commands) for _ in range(9_999)] == [Command(1, "ping", {})] * 9_999
    with pytest.raises(MalformedFrame):
        next(commands)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("", "no command"),
        (" \n\r\n\t", "no command"),
        ("connect", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("\x00", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ('{"id":1', "not JSON"),
        ('{"id":NaN}', "not JSON"),
        ('{"send":{"data":1},"rpc":{"method":"\\ud800"}}', "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "a command is a JSON object"),
        ("null", "a command is a JSON object"),
        ('"connect"', "a command is a JSON object"),
        ('[{"id":1}]', "a command is a JSON object"),
        ('{"id":-1}', "an id is"),
        ('{"id":4294967296}', "an id is"),
        ('{"id":1.0}', "an id is"),
        ('{"id":true}', "an id is"),
        ('{"id":"1"}', "an id is"),
        ('{"id":false}', "an id is"),
        ('{"connect":[]}', "connect is a JSON object"),
        ('{"connect":false}', "connect is a JSON object"),
        ('{"connect":"x"}', "connect is a JSON object"),
        ('{"connect":{"token":1}}', "connect.token is"),
        ('{"subscribe":{"channel":["a"]}}', "subscribe.channel is"),
        ('{"subscribe":{"recover":1}}', "subscribe.recover is"),
        ('{"subscribe":{"offset":true}}', "subscribe.offset is"),
        ('{"subscribe":{"offset":1.5}}', "subscribe.offset is"),
        ('{"subscribe":{"offset":-1}}', "subscribe.offset is"),
        ('{"subscribe":{"offset":18446744073709551616}}', "subscribe.offset is"),
        ('{"subscribe":{"flag":9223372036854775808}}', "subscribe.flag is"),
        ('{"subscribe":{"tf":[]}}', "subscribe.tf is"),
        ('{"history":{"limit":2147483648}}', "history.limit is"),
        ('{"history":{"since":1}}', "history.since is"),
        ('{"history":{"since":{"offset":-1}}}', "since.offset is"),
        ('{"connect":{"subs":[]}}', "connect.subs is"),
        ('{"connect":{"subs":{"a":1}}}', "subs is a JSON object"),
        ('{"connect":{"subs":{"a":null}}}', "subs is a JSON object"),
        ('{"connect":{"subs":{"a":{"offset":"1"}}}}', "subs.offset is"),
        ('{"connect":{"headers":{"a":1}}}', "headers are strings"),
        ('{"connect":{"headers":{"a":null}}}', "headers are strings"),
        ('{"send":{"data":' + "[" * 5000 + "]" * 5000 + "}}", "nested too deeply"),
    ],
)
def test_what_is_no_command_is_refused_with_its_reason(frame: str | bytes, reason: str) -> None:
    with pytest.raises(MalformedFrame, match=reason):
        read(frame)


def test_commands_before_the_malformed_one_are_yielded() -> None:
    commands = CODEC.commands(b'{"id":1,"ping":{}}\n{"id":-1}\n{"id":2,"ping":{}}')

    assert next(commands) == Command(1, "ping", {})
    with pytest.raises(MalformedFrame):
        next(commands)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["channel", "token", "data", "offset", "subs", "since", "headers", "tf", "flag", "recover"])


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.dictionaries(st.sampled_from(["id", *HANDLERS]), JSON | st.dictionaries(NAMES, JSON)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_whatever_a_client_sends_is_commands_or_refused(frame: bytes) -> None:
    try:
        commands = read(frame)
    except MalformedFrame:
        return

    for command in commands:
        assert 0 <= command.id < 2**32
        assert command.method in {"", *HANDLERS}
        assert isinstance(command.params.get("data", b""), bytes)


@pytest.mark.parametrize(
    ("publication", "payload"),
    [
        (Publication("a", b'{"text": "\xc3\xa9"}', Kind.JSON), b'{"text": "\xc3\xa9"}'),
        (Publication("a", b"12", Kind.JSON), b"12"),
        (Publication("a", b'{\n"a":\r\n1}', Kind.JSON), b'{ "a":  1}'),
        (Publication("a", b"hello"), b'"hello"'),
        (Publication("a", b'"\n"'), b'"\\"\\n\\""'),
        (Publication("a", b""), b'""'),
        (Publication("a", b"\x00\xff", Kind.BINARY), b'"%b"' % base64.b64encode(b"\x00\xff")),
        (Publication("a", b'{"a":1}', Kind.BINARY), b'"%b"' % base64.b64encode(b'{"a":1}')),
    ],
)
def test_every_payload_is_json_on_one_line(publication: Publication, payload: bytes) -> None:
    assert CODEC.payload(publication) == payload


@given(st.text() | JSON.map(lambda value: json.dumps(value, indent=1)))
def test_a_payload_s_json_means_what_was_published(text: str) -> None:
    data = text.encode()
    payload = CODEC.payload(Publication("a", data, kind_of_text(data)))

    assert b"\n" not in payload
    assert b"\r" not in payload
    seen: Any = json.loads(payload)
    assert seen == text or json.dumps(seen) == json.dumps(json.loads(text))


def test_a_difference_is_a_json_string_and_only_sent_if_it_is_smaller() -> None:
    before = b'{"rows": [1, 2, 3], "text": "\xc3\xa9\xc3\xa8 and a good deal of text that stays"}'
    after = before.replace(b"2", b'"\xc3\xaa"')

    patch = CODEC.patch(before, after)

    assert patch is not None
    assert apply_delta(json.loads(CODEC.full(before)).encode(), json.loads(patch).encode()) == after
    assert CODEC.patch(b"1", b"2") is None
