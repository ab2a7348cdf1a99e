from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.brokers.envelope import MalformedMessage, pack, unpack
from service.messages import Kind, Publication


@given(st.text())
def test_any_text_comes_back_as_it_was(text: str) -> None:
    publication = Publication("room:x", text.encode())

    assert unpack("room:x", pack(publication), max_message_bytes=10_000) == publication


@given(st.binary())
def test_any_binary_comes_back_as_it_was(data: bytes) -> None:
    publication = Publication("room:x", data, Kind.BINARY)

    assert unpack("room:x", pack(publication), max_message_bytes=10_000) == publication


@pytest.mark.parametrize("message", [b'{"text":"hi"}', b"17", b'"hi"', b"null", b" [1]\n"])
def test_json_of_another_service_is_text_as_it_is(message: bytes) -> None:
    assert unpack("room:x", message, max_message_bytes=100) == Publication("room:x", message, Kind.TEXT)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"hi", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b"\x01", "unknown header"),
        (b"\x01x\nhi", "unknown header"),
        (b"\x01t\n\xff", "not UTF-8"),
        (b'"' + b"x" * 99 + b'"', "more than max_message_bytes"),
        (b"\x01b\n" + b"x" * 2000, "more than max_message_bytes"),
    ],
)
def test_anything_else_is_malformed_and_says_why(message: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        unpack("room:x", message, max_message_bytes=100)


@given(st.binary())
def test_no_bytes_do_harm(message: bytes) -> None:
    try:
        publication = unpack("room:x", message, max_message_bytes=50)
    except MalformedMessage:
        return
    if publication.kind is Kind.TEXT:
        publication.data.decode()
