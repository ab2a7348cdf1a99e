"""A live publication is parsed once on a node at most, whatever encodings its subscribers have."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.centrifuge.wire import Wire
from roomcast.connections.connection import Subscription
from roomcast.connections.encoding import Encoding
from roomcast.model.namespaces import SlowPolicy
from roomcast.model.publications import Publication
from roomcast.node.hub import Hub
from roomcast.redis_access.envelope import unpack
from roomcast.rooms import encodings
from roomcast.rooms.poll import POLL
from tests.support.fakes import RecordingTransport, Schedule, connection

CHANNEL = "room:a"
WIRES = [
    Wire("json", JsonCodec(), lambda message: message + b"\n"),
    Wire("protobuf", ProtobufCodec(), lambda message: message),
]
JSON_DELTA = WIRES[0].encoding_of(tells_members=False, is_delta=True)
ENCODINGS = [
    JSON_DELTA,
    encodings.PLAIN_WEBSOCKET,
    encodings.DEFLATED_WEBSOCKET,
    encodings.ENVELOPE_WEBSOCKET,
    encodings.DEFLATED_ENVELOPE,
    encodings.PLAIN_SSE,
    POLL,
    *[wire.encoding for wire in WIRES],
    WIRES[1].encoding_of(tells_members=False, is_delta=True),
]
PAYLOADS = [b'{"text":"a text that mostly stays as it is","number":%d}' % number for number in range(4)]


@pytest.mark.parametrize(
    ("header", "parses"),
    [
        pytest.param(b"", 1, id="of another service"),
        pytest.param(b"\x01j\n", 0, id="of a node"),
        pytest.param(b"\x01j12,5f0c2a91\n", 0, id="of a history"),
        pytest.param(b"\x01t12,5f0c2a91\n", 1, id="of an older node"),
    ],
)
def test_a_live_publication_is_parsed_once_at_most_for_all_encodings(
    header: bytes, parses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = count_parses(monkeypatch)
    turn = Schedule()
    hub = Hub(turn)
    transports = [subscribe(hub, encoding) for encoding in ENCODINGS]

    for payload in PAYLOADS:
        event = unpack(CHANNEL, header + payload, max_message_bytes=1000)
        assert isinstance(event, Publication)
        hub.broadcast(event)
        turn.run()

    assert b'"delta":true' in transports[ENCODINGS.index(JSON_DELTA)].written[-1]
    assert all(len(transport.written) == len(PAYLOADS) for transport in transports)
    assert parsed == [payload for payload in PAYLOADS for _ in range(parses)]


def subscribe(hub: Hub, encoding: Encoding) -> RecordingTransport:
    client, transport = connection(encoding=encoding)
    hub.subscribe(client, CHANNEL, Subscription(encoding), SlowPolicy.DISCONNECT)
    return transport


def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list that every document which is parsed from now on is added to."""
    parsed: list[Any] = []
    loads = orjson.loads

    def counted(document: bytes) -> Any:
        parsed.append(document)
        return loads(document)

    monkeypatch.setattr(orjson, "loads", counted)
    return parsed
