"""The events of a channel as subscribers of the Centrifuge protocol get them."""

from __future__ import annotations

import gc
import io
import json
from typing import Any

import pytest
from centrifuge.fossil import apply_delta
from google.protobuf.proto import parse_length_prefixed
from hypothesis import given
from hypothesis import strategies as st

from roomcast.centrifuge import client_pb2
from roomcast.centrifuge.codec import Codec
from roomcast.centrifuge.filters import parse
from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.centrifuge.wire import Wire
from roomcast.connections.connection import Subscription
from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import SlowPolicy
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Membership, Publication, Resumption
from roomcast.node.hub import Hub
from tests.support.fakes import Schedule, connection

CHANNEL = "room:a"
BOB = ClientInfo("n1-2", "bob", b'{"n":1}')


def json_wire() -> Wire:
    return Wire("json", JsonCodec(), lambda message: message + b"\n")


def protobuf_wire() -> Wire:
    return Wire("protobuf", ProtobufCodec(), lambda message: message)


def pushes(data: bytes) -> list[Any]:
    return [json.loads(line)["push"] for line in data.splitlines()]


def publication(data: bytes, **members: Any) -> Publication:
    return Publication(CHANNEL, data, Kind.JSON, **members)


def test_a_publication_says_all_that_is_known_of_it() -> None:
    encode = json_wire().encoding.encode

    whole = publication(b'{"a":1}', position=Position(7, "e"), tags={"k": "v"}, info=BOB)
    assert pushes(encode(whole) + encode(publication(b"1"))) == [
        {
            "channel": CHANNEL,
            "pub": {
                "data": {"a": 1},
                "offset": 7,
                "info": {"user": "bob", "client": "n1-2", "conn_info": {"n": 1}},
                "tags": {"k": "v"},
            },
        },
        {"channel": CHANNEL, "pub": {"data": 1}},
    ]


def test_who_comes_and_goes_is_told_to_who_asks_for_it_one_push_each() -> None:
    wire = json_wire()
    event = Membership(CHANNEL, (BOB, ClientInfo("n1-3", "")), have_joined=True)

    assert wire.encoding_of(tells_members=False).encode(event) == b""
    told = wire.encoding_of(tells_members=True).encode
    joined = pushes(told(event))
    (left,) = pushes(told(Membership(CHANNEL, (BOB,), have_joined=False)))

    info = {"user": "bob", "client": "n1-2", "conn_info": {"n": 1}}
    assert joined == [
        {"channel": CHANNEL, "join": {"info": info}},
        {"channel": CHANNEL, "join": {"info": {"user": "", "client": "n1-3"}}},
    ]
    assert left == {"channel": CHANNEL, "leave": {"info": info}}


def test_where_a_channel_goes_on_is_told_to_nobody_in_a_push() -> None:
    for tells_members in (True, False):
        encoding = json_wire().encoding_of(tells_members=tells_members)
        assert encoding.encode(Resumption(CHANNEL, Position(1, "e"), is_recovered=False)) == b""


def test_publications_with_other_tags_are_not_encoded() -> None:
    wire = json_wire()
    tags = parse({"key": "k", "cmp": "eq", "val": "v"})
    encode = wire.encoding_of(tells_members=True, tags=tags).encode

    assert encode(publication(b"1")) == encode(publication(b"1", tags={"k": "w"})) == b""
    assert len(pushes(encode(publication(b"1", tags={"k": "v"})))) == 1
    found = [publication(b"%d" % number, tags={"k": "v" if number % 2 else "w"}) for number in range(4)]
    assert [members["data"] for members in wire.publications(found, tags=tags)] == [b"1", b"3"]


def test_subscriptions_that_see_the_same_share_an_encoding_as_long_as_there_are_some() -> None:
    wire = json_wire()

    def filtered() -> Any:
        return wire.encoding_of(tells_members=False, tags=parse({"key": "k", "cmp": "eq", "val": "v"}))

    assert wire.encoding_of(tells_members=False) is wire.encoding
    first = filtered()
    assert filtered() is first
    assert wire.encoding_of(tells_members=True) is not wire.encoding
    del first
    gc.collect()

    assert len(wire._encodings) == 1, "who filters for itself alone leaves nothing behind"


def test_only_subscriptions_that_ask_for_differences_have_them() -> None:
    wire = json_wire()

    assert wire.encoding_of(tells_members=True).difference is None
    assert wire.encoding_of(tells_members=True, is_delta=True).difference is not None


@pytest.mark.parametrize(
    ("wire", "data", "kind"),
    [
        (json_wire(), b"1", Kind.JSON),
        (protobuf_wire(), b"text", Kind.TEXT),
        (protobuf_wire(), b'"text"', Kind.JSON),
        (protobuf_wire(), b"\xff", Kind.BINARY),
        (protobuf_wire(), b"", Kind.TEXT),
    ],
)
def test_what_a_client_publishes_is_text_where_it_can_be(wire: Wire, data: bytes, kind: Kind) -> None:
    assert wire.kind_of(data) is kind


# Differences, as an SDK puts them together.


class JsonReader:
    """Parses JSON as centrifuge-js and centrifuge-python do."""

    def __init__(self) -> None:
        self.has = b""

    def take_all(self, data: bytes) -> list[bytes]:
        return [self.take(push["pub"]) for push in pushes(data)]

    def take_recovered(self, wire: Wire, found: list[Publication]) -> list[bytes]:
        reply = wire.codec.reply(1, "subscribe", {"publications": wire.publications(found, is_delta=True)})
        return [self.take(pub) for pub in json.loads(reply)["subscribe"]["publications"]]

    def take(self, pub: Any) -> bytes:
        data = pub["data"].encode()
        self.has = bytes(apply_delta(self.has, data)) if pub.get("delta") else data
        return self.has


class ProtobufReader:
    """The same with Protobuf."""

    def __init__(self) -> None:
        self.has = b""

    def take_all(self, data: bytes) -> list[bytes]:
        return [self.take(reply.push.pub) for reply in replies(data)]

    def take_recovered(self, wire: Wire, found: list[Publication]) -> list[bytes]:
        data = wire.codec.reply(1, "subscribe", {"publications": wire.publications(found, is_delta=True)})
        (reply,) = replies(data)
        return [self.take(pub) for pub in reply.subscribe.publications]

    def take(self, pub: client_pb2.Publication) -> bytes:
        self.has = bytes(apply_delta(self.has, pub.data)) if pub.delta else pub.data
        return self.has


def replies(data: bytes) -> list[client_pb2.Reply]:
    source = io.BytesIO(data)
    found = []
    while source.tell() < len(data):
        reply = parse_length_prefixed(client_pb2.Reply, source)
        assert reply is not None
        found.append(reply)
    return found


WORDS = st.lists(
    st.sampled_from(["the same words, again and again ", "größe ", "🙂", '"', "\\", "x" * 50, "1"]), max_size=8
)
TEXTS = WORDS.map("".join).map(str.encode)


@pytest.mark.parametrize("is_json", [True, False])
@given(texts=st.lists(TEXTS | TEXTS.map(lambda text: json.dumps(text.decode()).encode()), max_size=12), split=st.data())
def test_what_was_missed_and_what_follows_is_put_together_to_what_was_published(
    is_json: bool, texts: list[bytes], split: st.DataObject
) -> None:
    wire = json_wire() if is_json else protobuf_wire()
    reader: JsonReader | ProtobufReader = JsonReader() if is_json else ProtobufReader()
    published = [publication(text) for text in texts]
    missed = split.draw(st.integers(0, len(published)))
    encoding = wire.encoding_of(tells_members=False, is_delta=True)
    hub = Hub(turn := Schedule())
    client, transport = connection(encoding=encoding, max_unsent_bytes=1_000_000)

    seen = reader.take_recovered(wire, published[:missed])
    hub.subscribe(client, CHANNEL, Subscription(encoding), SlowPolicy.DISCONNECT)
    for each in published[missed:]:
        hub.broadcast(each)
        if split.draw(st.booleans()):
            turn.run()
    turn.run()
    seen += reader.take_all(b"".join(transport.written))

    codec: Codec = wire.codec
    assert seen == [codec.payload(each) for each in published]
