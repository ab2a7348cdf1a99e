from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.model.client_info import ClientInfo
from roomcast.model.payloads import kind_of_text
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Membership, Publication, Removal
from roomcast.redis_access.envelope import MalformedMessage, pack, pack_about, pack_clients, unpack, unpack_about

SHORT_TEXTS = st.text(max_size=32)  # 128 bytes at most
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
# Of a client nothing may be known, but `null` is the same as nothing.
INFOS = st.just(b"") | JSON.filter(lambda value: value is not None).map(orjson.dumps)
TAGS = st.none() | st.dictionaries(SHORT_TEXTS, SHORT_TEXTS, min_size=1, max_size=32)
CLIENTS = st.none() | st.builds(ClientInfo, st.text(), st.text(), INFOS, INFOS, st.just(value=False))


@given(st.binary(), TAGS, CLIENTS)
def test_what_is_said_about_a_publication_comes_back_as_it_was(
    data: bytes, tags: dict[str, str] | None, info: ClientInfo | None
) -> None:
    publication = Publication("room:x", data, Kind.BINARY, tags=tags, info=info)

    message = pack(publication, pack_about(publication))

    assert unpack("room:x", message, max_message_bytes=10_000) == publication


@given(st.binary(max_size=64), st.sampled_from([b"{}", b'{"tags":{"a":"b"}}', b'{"info":["c","u",null]}']))
def test_no_bytes_in_a_header_do_harm(header: bytes, about: bytes) -> None:
    try:
        event = unpack("room:x", b"\x01t" + header + b"\n" + about + b"hi", max_message_bytes=200)
    except MalformedMessage:
        return
    assert isinstance(event, Publication)


@given(st.binary())
def test_no_bytes_about_a_publication_do_harm(about: bytes) -> None:
    try:
        unpack_about(about, max_message_bytes=50)
    except MalformedMessage:
        return


def test_the_bytes_of_a_publication_with_nothing_said_about_it_are_those_they_were() -> None:
    publication = Publication("room:x", b"hi", tags={})

    assert pack_about(publication) == b""
    assert pack(publication, b"") == b"\x01t\nhi"


def test_what_is_said_about_a_publication_stands_before_its_data() -> None:
    publication = Publication("room:x", b"hi", tags={"lang": "en"}, info=ClientInfo("n1-7", "ada", b"", b"[2]"))
    about = b'{"tags":{"lang":"en"},"info":["n1-7","ada",null,[2]]}'

    assert pack(publication, pack_about(publication)) == b"\x01t,,53\n" + about + b"hi"
    placed = publication._replace(position=Position(12, "5f0c2a91"))
    assert unpack("room:x", b"\x01t12,5f0c2a91,53\n" + about + b"hi", max_message_bytes=100) == placed


def test_what_a_later_version_says_is_passed_over() -> None:
    message = b'\x01t,,11\n{"later":1}hi'

    assert unpack("room:x", message, max_message_bytes=100) == Publication("room:x", b"hi")


def test_a_history_that_was_removed_is_told() -> None:
    assert unpack("room:x", b"\x01x\n", max_message_bytes=100) == Removal("room:x")


@given(st.text())
def test_any_text_comes_back_as_it_was(text: str) -> None:
    data = text.encode()
    publication = Publication("room:x", data, kind_of_text(data))

    assert unpack("room:x", pack(publication, b""), max_message_bytes=10_000) == publication


@given(st.binary())
def test_any_binary_comes_back_as_it_was(data: bytes) -> None:
    publication = Publication("room:x", data, Kind.BINARY)

    assert unpack("room:x", pack(publication, b""), max_message_bytes=10_000) == publication


@pytest.mark.parametrize("message", [b'{"text":"hi"}', b"17", b'"hi"', b"null", b" [1]\n"])
def test_json_of_another_service_is_text_as_it_is(message: bytes) -> None:
    assert unpack("room:x", message, max_message_bytes=100) == Publication("room:x", message, Kind.JSON)


@given(JSON.map(orjson.dumps), TAGS)
def test_json_comes_back_as_it_was(data: bytes, tags: dict[str, str] | None) -> None:
    publication = Publication("room:x", data, Kind.JSON, tags=tags)

    message = pack(publication, pack_about(publication))

    assert message[:2] == b"\x01j"
    assert unpack("room:x", message, max_message_bytes=10_000) == publication


@pytest.mark.parametrize("header", [b"\x01t\n", b"\x01t12,5f0c2a91\n", b"\x01t,,2\n{}"])
def test_json_that_an_older_node_wrote_as_text_is_json(header: bytes) -> None:
    event = unpack("room:x", header + b'{"text":"hi"}', max_message_bytes=100)

    assert isinstance(event, Publication)
    assert (event.data, event.kind) == (b'{"text":"hi"}', Kind.JSON)


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
        (b"\x01j\n\xff", "not UTF-8"),
        (b"\x01t12\nhi", "unknown header"),
        (b"\x01t-1,e\nhi", "unknown header"),
        (b"\x01t1,\xff\nhi", "unknown header"),
        (b"\x01t1,\nhi", "unknown header"),
        (b"\x01t,e\nhi", "unknown header"),
        (b"\x01t,,\nhi", "unknown header"),
        (b"\x01t,,x\nhi", "unknown header"),
        (b"\x01t,,-1\nhi", "unknown header"),
        (b"\x01t,,2,\n{}hi", "unknown header"),
        (b"\x01t,,,2\n{}hi", "unknown header"),
        (b"\x01t1,,2\n{}hi", "unknown header"),
        (b"\x01t,e,2\n{}hi", "unknown header"),
        (b"\x01t,,3\nhi", "unknown header"),
        (b"\x01t,,0\nhi", "no object with tags and info"),
        (b"\x01t,,2\nhi", "no object with tags and info"),
        (b"\x01t,,2\n[]hi", "no object with tags and info"),
        (b'\x01t,,10\n{"info":1}', "no object with tags and info"),
        (b'\x01t,,16\n{"info":["c",1]}', "no object with tags and info"),
        (b'\x01t,,24\n{"info":["c","u",1,2,3]}', "no object with tags and info"),
        (b'\x01t,,10\n{"tags":1}', "tags is no object"),
        (b'\x01t,,16\n{"tags":{"a":1}}', "keys and values of tags are texts"),
        (b"\x01t,,120000\n{" + b" " * 120_000 + b"}", "120000 bytes about a publication"),
        (b"\x01t,,2\n{}\xff", "not UTF-8"),
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
    if isinstance(event, Publication) and event.kind is not Kind.BINARY:
        event.data.decode()
