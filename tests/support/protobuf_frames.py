"""Commands and replies of the Centrifuge protocol as protobuf frames."""

from __future__ import annotations

import io

from google.protobuf.proto import parse_length_prefixed

from roomcast.centrifuge import client_pb2
from tests.support.tokens import token


def protobuf_connect() -> bytes:
    return framed(client_pb2.Command(id=1, connect=client_pb2.ConnectRequest(token=token())))


def framed(*commands: client_pb2.Command) -> bytes:
    """Return commands, each after its length; those of these tests have less than 16 KiB."""
    frame = b""
    for command in commands:
        data = command.SerializeToString()
        frame += (bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])) + data
    return frame


def replies_of(frame: str | bytes) -> list[client_pb2.Reply]:
    assert isinstance(frame, bytes)
    source = io.BytesIO(frame)
    found = []
    while source.tell() < len(frame):
        reply = parse_length_prefixed(client_pb2.Reply, source)
        assert reply is not None
        found.append(reply)
    return found
