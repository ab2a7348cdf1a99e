"""The frame parser: raw cases one by one, and against websockets' own server protocol over any bytes cut anywhere."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from roomcast.model.publications import Kind
from roomcast.transports.websocket.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FrameParser,
    Message,
    close_code,
    close_frame,
    frame,
    message_frame,
)
from tests.support.websocket_frames import MASK, masked

LIMIT = 200


def read(data: bytes, *, limit: int = LIMIT, is_compression_allowed: bool = False) -> tuple[list[Message], int | None]:
    """Return the result of the parser: messages, and the code of the violation if there is one."""
    parser = FrameParser(max_message_bytes=limit, is_compression_allowed=is_compression_allowed)
    messages = parser.feed(data)
    return messages, parser.violation.code if parser.violation else None


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize(("kind", "opcode"), [(Kind.TEXT, Opcode.TEXT), (Kind.BINARY, Opcode.BINARY)])
def test_a_frame_of_any_length_is_read_by_clients_as_it_was(kind: Kind, opcode: Opcode, length: int) -> None:
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=OPEN)
    payload = b"x" * length

    client.receive_data(message_frame(kind, payload) * 2)

    frames = [event for event in client.events_received() if isinstance(event, Frame)]
    assert [(seen.opcode, seen.data, seen.fin) for seen in frames] == [(opcode, payload, True)] * 2


def test_a_close_frame_holds_its_code_and_as_much_of_the_reason_as_fits() -> None:
    assert close_frame(3001, "shutdown") == b"\x88\x0a\x0b\xb9shutdown"
    assert len(close_frame(3001, "x" * 200)) == 2 + 125
    # A reason is cut between characters: half of one would be a close frame that is not UTF-8.
    assert close_frame(3001, "é" * 70)[4:].decode() == "é" * 61


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (masked(0x81, b"hi"), [Message(TEXT, b"hi")]),
        (masked(0x81), [Message(TEXT, b"")]),
        (masked(0x82, b"\xff\x00"), [Message(BINARY, b"\xff\x00")]),
        (masked(0x81, "größe 🙂".encode()), [Message(TEXT, "größe 🙂".encode())]),
        (masked(0x81, b"x" * 126), [Message(TEXT, b"x" * 126)]),
        (masked(0x81, b"x" * LIMIT), [Message(TEXT, b"x" * LIMIT)]),
        (masked(0x81, b"a") + masked(0x82, b"b"), [Message(TEXT, b"a"), Message(BINARY, b"b")]),
        (masked(0x01, b"a") + masked(0x00, b"b") + masked(0x80, b"c"), [Message(TEXT, b"abc")]),
        (masked(0x01) + masked(0x80), [Message(TEXT, b"")]),
        # A character cut in two by a fragment's end.
        (masked(0x01, b"\xc3") + masked(0x80, b"\xbc"), [Message(TEXT, "ü".encode())]),
        # Control frames between fragments.
        (
            masked(0x01, b"a") + masked(0x89, b"p") + masked(0x8A) + masked(0x80, b"b"),
            [Message(PING, b"p"), Message(PONG, b""), Message(TEXT, b"ab")],
        ),
        (masked(0x89, b"x" * 125), [Message(PING, b"x" * 125)]),
        (masked(0x88), [Message(CLOSE, b"")]),
        (masked(0x88, b"\x03\xe8bye"), [Message(CLOSE, b"\x03\xe8bye")]),
        (masked(0x88, b"\x0f\xa0"), [Message(CLOSE, b"\x0f\xa0")]),
        # Control frames may stand inside a fragmented message (RFC 6455 5.4), so this one too.
        (masked(0x01, b"a") + masked(0x88, b"\x03\xe8"), [Message(CLOSE, b"\x03\xe8")]),
        # Frames after a close frame are not read.
        (masked(0x88) + b"\xff\xff garbage", [Message(CLOSE, b"")]),
        (masked(0x81, b"hi", mask=b"\0\0\0\0"), [Message(TEXT, b"hi")]),
        # Lengths in a longer form than needed: RFC 6455 5.2 forbids them, everyone reads them (websockets too).
        (b"\x81\xfe\x00\x02" + MASK + b"ik", [Message(TEXT, b"hi")]),
        (b"\x81\xff" + bytes(7) + b"\x02" + MASK + b"ik", [Message(TEXT, b"hi")]),
        (b"", []),
        (masked(0x81, b"hi")[:-1], []),
    ],
)
def test_what_the_protocol_allows_is_read(data: bytes, messages: list[Message]) -> None:
    assert read(data) == (messages, None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        # Reserved bits and opcodes.
        (masked(0xC1, b"hi"), 1002),
        (masked(0xA1, b"hi"), 1002),
        (masked(0x91, b"hi"), 1002),
        (masked(0xF1, b"hi"), 1002),
        (masked(0xC9), 1002),
        *[(masked(0x80 | opcode), 1002) for opcode in (0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF)],
        # Masks.
        (b"\x81\x02hi", 1002),
        (b"\x88\x00", 1002),
        # Control frames.
        (masked(0x09), 1002),
        (masked(0x08), 1002),
        (masked(0x0A), 1002),
        (masked(0x89, b"x" * 126), 1002),
        (masked(0x88, b"x" * 126), 1002),
        (masked(0x8A, length=65536), 1002),
        # Fragments.
        (masked(0x80, b"x"), 1002),
        (masked(0x00, b"x"), 1002),
        (masked(0x01, b"x") + masked(0x81, b"y"), 1002),
        (masked(0x01, b"x") + masked(0x02, b"y"), 1002),
        (masked(0x01, b"x") + masked(0x80, b"y") + masked(0x80, b"z"), 1002),
        # Text.
        (masked(0x81, b"\xff"), 1007),
        (masked(0x81, b"\xc3"), 1007),
        (masked(0x81, b"\xed\xa0\x80"), 1007),  # half of a surrogate pair
        (masked(0x81, b"\xf4\x90\x80\x80"), 1007),  # beyond U+10FFFF
        (masked(0x81, b"\xc0\xaf"), 1007),  # overlong
        (masked(0x01, b"\xc3") + masked(0x80, b"a"), 1007),
        # Sizes: said before the payload has come.
        (masked(0x81, length=LIMIT + 1), 1009),
        (masked(0x82, length=2**63 - 1), 1009),
        (masked(0x82, length=2**64 - 1), 1009),
        (masked(0x01, b"x" * LIMIT) + masked(0x80, b"y"), 1009),
        (masked(0x01) + masked(0x00) * 5000, 1009),
        # Close frames.
        (masked(0x88, b"\x03"), 1002),
        *[
            (masked(0x88, struct.pack("!H", close)), 1002)
            for close in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
        ],
        (masked(0x88, b"\x03\xe8\xff"), 1007),
    ],
)
def test_what_the_protocol_forbids_is_a_violation_with_its_code(data: bytes, code: int) -> None:
    messages, violation = read(data + masked(0x81, b"not read any more"))

    assert violation == code
    assert Message(TEXT, b"not read any more") not in messages


def test_what_came_before_a_violation_is_read() -> None:
    assert read(masked(0x81, b"hi") + masked(0x80)) == ([Message(TEXT, b"hi")], 1002)


def test_compression_is_seen_only_where_it_was_negotiated_and_on_first_frames() -> None:
    def seen(data: bytes) -> tuple[list[Message], int | None]:
        return read(data, is_compression_allowed=True)

    assert seen(masked(0xC1, b"\xff")) == ([Message(TEXT, b"\xff", is_compressed=True)], None)
    assert seen(masked(0x42, b"a") + masked(0x80, b"b")) == ([Message(BINARY, b"ab", is_compressed=True)], None)
    assert seen(masked(0x01, b"a") + masked(0xC0, b"b"))[1] == 1002
    assert seen(masked(0xC9))[1] == 1002


def test_a_frame_that_comes_in_single_bytes_is_read_when_it_is_there() -> None:
    parser = FrameParser(max_message_bytes=LIMIT)
    data = masked(0x01, b"x" * 130) + masked(0x89, b"p") + masked(0x80, b"y")

    messages = [message for index in range(len(data)) for message in parser.feed(data[index : index + 1])]

    assert messages == [Message(PING, b"p"), Message(TEXT, b"x" * 130 + b"y")]


def test_the_code_of_a_close_frame() -> None:
    assert close_code(b"") == 1005
    assert close_code(b"\x0b\xb9bye") == 3001


# Against the oracle.

opcodes = st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 0x3, 0xB])
payloads = st.one_of(
    st.binary(max_size=130),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([b"\x03\xe8", b"\x03\xe8bye", b"\x0b\xb9", b"\x03", b"\x03\xed", b"x" * 126, b"x" * 201]),
)
frames = st.builds(
    lambda opcode, fin, reserved, payload, mask: masked((fin << 7) | (reserved << 4) | opcode, payload, mask=mask),
    opcodes,
    st.sampled_from([1, 1, 1, 0]),
    st.sampled_from([0] * 12 + [1, 4]),
    payloads,
    st.binary(min_size=4, max_size=4),
)
streams = st.lists(st.one_of(frames, frames, frames, st.binary(max_size=12)), max_size=8).map(b"".join)
cuts = st.lists(st.integers(min_value=0, max_value=2000), max_size=6)


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in at), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


CLOSE_INSIDE = (CLOSE, b"inside a fragmented message")


def oracle(data: list[bytes]) -> tuple[list[tuple[int, bytes]], int | None]:  # noqa: PLR0911  (one for each verdict)
    """Return the result of websockets: whole messages and control frames, and its close code.

    Its sans-I/O part returns fragments, and checks neither UTF-8 nor the size of a whole message.
    """
    server = ServerProtocol(state=State.OPEN, max_size=LIMIT)
    messages: list[tuple[int, bytes]] = []
    opcode, parts = 0, b""
    for piece in data:
        server.receive_data(piece)
        for event in server.events_received():
            assert isinstance(event, Frame)
            if event.opcode >= 0x8:
                messages.append((int(event.opcode), bytes(event.data)))
                continue
            if event.opcode is not Opcode.CONT:
                opcode, parts = int(event.opcode), b""
            parts += bytes(event.data)
            if len(parts) > LIMIT:
                return messages, 1009
            if event.fin:
                try:
                    parts.decode() if opcode == TEXT else None
                except UnicodeDecodeError:
                    return messages, 1007
                messages.append((opcode, parts))
        if isinstance(server.parser_exc, PayloadTooBig):
            return messages, 1009
        if isinstance(server.parser_exc, UnicodeDecodeError):
            return messages, 1007
        if str(server.parser_exc) == "incomplete fragmented message":
            # websockets refuses a close frame inside a fragmented message; RFC 6455 5.4 allows control frames there.
            return [*messages, CLOSE_INSIDE], None
        if isinstance(server.parser_exc, ProtocolError):
            return messages, 1002
    return messages, None


@settings(max_examples=1500)
@given(streams, cuts)
@example(masked(0x01, b"a") + masked(0x88), [])
@example(b"\x01\xff\x00\x00\x80\x80\x00\x00\x00\x00", [])
def test_any_stream_cut_anywhere_is_read_as_websockets_reads_it(data: bytes, at: list[int]) -> None:
    parser = FrameParser(max_message_bytes=LIMIT)
    messages: list[tuple[int, bytes]] = []
    for piece in pieces(data, at):
        messages += [(message.opcode, message.payload) for message in parser.feed(piece)]
    code = parser.violation.code if parser.violation else None

    expected_messages, expected_code = oracle(pieces(data, at))

    if code is not None and expected_code is None:
        # The parser rejects a frame with two invalid first bytes at once; the oracle waits for all of it.
        expected_code = oracle([data + bytes(70_000)])[1]
    if code is None and expected_code is not None:
        # The parser waits for the mask behind a length that is too large; the oracle does not.
        parser.feed(bytes(4))
        code = parser.violation.code if parser.violation else None
    # A frame with two faults is rejected for its header first; the cases above have one fault each.
    assert code in ({expected_code, 1002} if expected_code else {None})
    if CLOSE_INSIDE in expected_messages:
        assert messages.pop()[0] == expected_messages.pop()[0]
    assert messages == expected_messages


@given(streams, cuts)
def test_cuts_change_nothing(data: bytes, at: list[int]) -> None:
    whole = FrameParser(max_message_bytes=LIMIT)
    cut = FrameParser(max_message_bytes=LIMIT)

    assert [message for piece in pieces(data, at) for message in cut.feed(piece)] == whole.feed(data)
    assert cut.violation == whole.violation


def test_server_frames_of_every_opcode_have_their_bits() -> None:
    assert frame(PONG, b"x") == b"\x8a\x01x"
    assert frame(TEXT, b"x", is_compressed=True) == b"\xc1\x01x"
