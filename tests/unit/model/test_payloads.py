from __future__ import annotations

import base64
import json

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast.model.payloads import decode_base64, is_json, kind_of_text
from roomcast.model.publications import Kind


@given(st.binary() | st.text().map(str.encode) | st.text().map(json.dumps).map(str.encode))
@example(b"\t[1]")
@example(b"null \r\n")
@example(b"true\x0b")
@example(b"\xef\xbb\xbf{}")
def test_a_payload_is_json_where_the_parser_says_so(data: bytes) -> None:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        assert not is_json(data)
    else:
        assert is_json(data)


@pytest.mark.parametrize("data", [b'{"a":1}', b" [1]\n", b"-1", b"12", b'"a"', b"true", b"false", b"null"])
def test_a_document_is_json(data: bytes) -> None:
    assert kind_of_text(data) is Kind.JSON


@pytest.mark.parametrize("data", [b"", b"hi", b"12 monkeys", b"truth", b"{", b"NaN"])
def test_other_text_is_not(data: bytes) -> None:
    assert kind_of_text(data) is Kind.TEXT


@pytest.mark.parametrize("data", [b'"\\ud83d"', b"[" * 300 + b"]" * 300, b"[1e400]"])
def test_json_that_orjson_rejects_is_json(data: bytes) -> None:
    assert kind_of_text(data) is Kind.JSON


@given(st.binary(max_size=200))
def test_base64_with_line_breaks_is_read(data: bytes) -> None:
    for text in (base64.encodebytes(data), base64.encodebytes(data).replace(b"\n", b"\r\n"), base64.b64encode(data)):
        assert decode_base64(text.decode()) == data


@pytest.mark.parametrize("text", ["a", "aGk*", "=aGk", "a b"])
def test_other_text_is_not_base64(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_base64(text)
