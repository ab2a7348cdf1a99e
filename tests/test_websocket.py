"""Frames as we write them, read by the parser of the websockets library."""

from __future__ import annotations

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from service.messages import Kind
from service.transports.websocket import EXTENSION, frame, transport_of


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize(("kind", "opcode"), [(Kind.TEXT, Opcode.TEXT), (Kind.BINARY, Opcode.BINARY)])
def test_a_frame_of_any_length_is_read_as_it_was(kind: Kind, opcode: Opcode, length: int) -> None:
    parser = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=OPEN)
    payload = b"x" * length

    parser.receive_data(frame(kind, payload) * 2)

    frames = [event for event in parser.events_received() if isinstance(event, Frame)]
    assert [(read.opcode, read.data, read.fin) for read in frames] == [(opcode, payload, True)] * 2


def test_another_server_is_told_what_it_lacks() -> None:
    with pytest.raises(RuntimeError, match="start the node with `roomcast node`"):
        transport_of({"type": "websocket", "extensions": {"websocket.http.response": {}}})
    assert EXTENSION == "roomcast.websocket"
