"""Reading and writing JSON, where orjson accepts less than other libraries write."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.model import json

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(_VALUES)
def test_the_fallback_reads_the_same_value_as_orjson(value: object) -> None:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2)

    assert json.loads_unchanged(text, ("none",)) == orjson.loads(text)
    json.check(text)


@given(st.binary() | st.text('{}[]",:0-1.eE \\u', max_size=12).map(str.encode))
def test_the_fallback_rejects_what_orjson_rejects(text: bytes) -> None:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        is_beyond_orjson = b"\\u" in text or b"e" in text.lower()
        if not is_beyond_orjson:
            with pytest.raises(json.InvalidJson):
                json.loads_unchanged(text, ("data",))
            with pytest.raises(json.InvalidJson):
                json.check(text)


@pytest.mark.parametrize(
    "payload",
    [
        *(b'"\\ud83d"', b"[" * 300 + b"]" * 300, b"1e400", b"123456789012345678901", b'{"a":1,"a":"\\udc00"}'),
        *(b"1234567890.123456789", b"-0.12345678901234567", b"123456789.123456789E-7", b"3.141592653589793238462643"),
    ],
)
def test_a_payload_is_returned_unchanged(payload: bytes) -> None:
    found = json.loads(b'{"a": [{"data": %b, "n": 18446744073709551615}]}' % payload, ("data",))

    assert orjson.dumps(found) == b'{"a":[{"data":%b,"n":18446744073709551615}]}' % payload


@pytest.mark.parametrize(
    "text", ["", "NaN", "-Infinity", "[1,]", "01", '"\x01"', "1}", '{"a":1}{', '"\udc00"', "{1:2}"]
)
def test_what_is_not_json_is_rejected(text: str) -> None:
    with pytest.raises(json.InvalidJson):
        json.loads(text, ("data",))


@pytest.mark.parametrize("text", ['{"channel":"\\ud800","data":1}', '{"n":1e400,"data":1}'])
def test_beside_payloads_only_what_orjson_accepts_is_accepted(text: str) -> None:
    with pytest.raises(json.InvalidJson):
        json.loads(text, ("data",))


def test_what_is_nested_too_deeply_is_rejected_without_an_end_of_the_process() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000

    for read in (json.loads, json.check):
        with pytest.raises(json.TooDeep):
            read(deep)


def test_lone_surrogates_are_written_as_escapes() -> None:
    assert json.dumps(json.loads(b'{"a":"\\ud83d\xc3\xa9"}')) == b'{"a":"\\ud83d\\u00e9"}'
    with pytest.raises(json.InvalidJson):
        json.dumps({"a": object()})
