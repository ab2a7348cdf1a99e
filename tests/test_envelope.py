from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.brokers.envelope import MalformedMessage, pack, pack_clients, unpack
from service.messages import ClientInfo, Kind, Membership, Position, Publication


@given(st.text())
def test_any_text_comes_back_as_it_was(text: str) -> None:
    publication = Publication("room:x", text.encode())

    assert unpack("room:x", pack(publication, b""), max_message_bytes=10_000) == publication


@given(st.binary())
def test_any_binary_comes_back_as_it_was(data: bytes) -> None:
    publication = Publication("room:x", data, Kind.BINARY)

    assert unpack("room:x", pack(publication, b""), max_message_bytes=10_000) == publication


@pytest.mark.parametrize("message", [b'{"text":"hi"}', b"17", b'"hi"', b"null", b" [1]\n"])
def test_json_of_another_service_is_text_as_it_is(message: bytes) -> None:
    assert unpack("room:x", message, max_message_bytes=100) == Publication("room:x", message, Kind.TEXT)


def test_a_publication_may_tell_where_it_stands() -> None:
    publication = Publication("room:x", b"hi", Kind.TEXT, Position(12, "5f0c2a91"))

    assert unpack("room:x", b"\x01t12,5f0c2a91\nhi", max_message_bytes=100) == publication


@pytest.mark.parametrize(("letter", "have_joined"), [(b"+", True), (b"-", False)])
def test_who_came_and_went_is_told_with_what_is_known_of_them(letter: bytes, have_joined: bool) -> None:
    clients = (ClientInfo("c1", "ada", b'{"n":1}'), ClientInfo("c2", ""))
    message = b"\x01" + letter + b"\n" + pack_clients(clients)

    assert unpack("room:x", message, max_message_bytes=100) == Membership("room:x", clients, have_joined)


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
        (b"\x01t12\nhi", "unknown header"),
        (b"\x01t-1,e\nhi", "unknown header"),
        (b"\x01t1,\xff\nhi", "unknown header"),
        (b"\x01t" + b"1" * 99 + b",e\nhi", "header without an end"),
        (b"\x01+\n{}x", "no list of clients"),
        (b"\x01+\n[1]", "no list of clients"),
        (b"\x01-\n[[1,2]]", "no list of clients"),
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
        event = unpack("room:x", message, max_message_bytes=50)
    except MalformedMessage:
        return
    if isinstance(event, Publication) and event.kind is Kind.TEXT:
        event.data.decode()
