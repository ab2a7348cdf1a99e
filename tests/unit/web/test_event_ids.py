from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from roomcast.model.errors import Disconnect
from roomcast.model.positions import MAX_OFFSET, Position
from roomcast.model.publications import Kind
from roomcast.transports.event_stream import NO_POSITION, EventStream, event, event_id, goodbye
from roomcast.web.event_ids import LastEventId, last_event_id

pytestmark = pytest.mark.anyio

ALNUM = st.text("0123456789abcdefXYZ", min_size=1, max_size=32)
POSITIONS = st.builds(Position, st.integers(0, MAX_OFFSET), ALNUM)
KEYS = st.text("abcXYZ019-_", max_size=43)


def asked(last_id: str, *, in_query: bool = False) -> LastEventId:
    headers = [] if in_query else [(b"last-event-id", last_id.encode())]
    query = f"lastEventId={last_id}".encode() if in_query else b""
    return last_event_id(Request({"type": "http", "headers": headers, "query_string": query, "path": "/"}))


def last_id_of(text: str) -> str:
    """Return the id that a browser sends after these events (HTML Standard 9.2.6)."""
    return [line[4:] for line in re.split("\r\n|\r|\n", text) if line.startswith("id: ")][-1]


@given(POSITIONS, KEYS, st.binary(max_size=40), st.booleans())
async def test_a_client_sends_what_the_stream_has_said_last(
    position: Position, key: str, payload: bytes, in_query: bool
) -> None:
    stream = EventStream(ping_interval_s=60, key=key)
    stream.write(event_id(position) + event(Kind.TEXT, b"id: x\n" + payload))

    found = (await stream.read()).decode(errors="replace")

    assert asked(last_id_of(found), in_query=in_query) == LastEventId(position, key)


async def test_a_stream_without_positions_has_its_key_all_the_same() -> None:
    stream = EventStream(ping_interval_s=60, key="a-key")
    stream.write(NO_POSITION + event(Kind.TEXT, b"1"))

    assert asked(last_id_of((await stream.read()).decode())) == LastEventId(None, "a-key")


@pytest.mark.parametrize("key", ["", "a-key"])
@pytest.mark.parametrize("code", [*range(3000, 5000, 250), 3503, 3999, 4499])
async def test_only_what_ends_for_good_is_not_opened_again(code: int, key: str) -> None:
    stream = EventStream(ping_interval_s=60, key=key)
    stream.write(event_id(Position(1, "e")) + event(Kind.TEXT, b"1"))
    stream.close(Disconnect(code, "why"))

    last = asked(last_id_of((await stream.read()).decode()))

    assert last.is_end == (code % 1000 >= 500)
    assert last.is_end or last == LastEventId(Position(1, "e"), key)
    assert b'"code":%d,' % code in goodbye(Disconnect(code, "why"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "x", "2024-01-01", "2024-01-01T10:00:00", "1700000000000-0", "urn:uuid:5e94c686-2c0b", "a:b:c:d"),
        *(":", "::", "e:", ":1", "e:-1", "e:1e3", "7:e", "\u00e9:1:key", f"e:{MAX_OFFSET + 1}", "e:-1:key"),
    ],
)
def test_the_id_of_another_server_says_nothing(text: str) -> None:
    assert asked(text) == LastEventId()
