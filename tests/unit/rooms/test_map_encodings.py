"""The messages of plain clients of maps, and a start that is written while the map changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.connections.encoding import Encoding
from roomcast.model.client_info import ClientInfo
from roomcast.model.maps import Change
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Membership, Publication, Resumption
from roomcast.node import map_copy
from roomcast.node.map_copy import LoadStart, MapCopy
from roomcast.rooms import map_encodings
from roomcast.rooms.map_encodings import EPHEMERAL_SSE, EPHEMERAL_WEBSOCKET, MAP_SSE, MAP_WEBSOCKET, entry, whole_map
from roomcast.transports.websocket import frames

KEYS = ["a", "b", "c", "d", "é", "~"]
HERE = Position(7, "5f0c2a91")


def written(key: str, offset: int, *, is_removed: bool = False) -> Publication:
    data = b"" if is_removed else b"%d" % offset
    return Publication("state:x", data, Kind.JSON, Position(offset, "e"), change=Change(key, is_removed))


@pytest.mark.parametrize(
    ("publication", "text"),
    [
        (Publication("state:x", b'{"n": 1}', Kind.JSON), b'{"key":"k\\"","offset":7,"data":{"n": 1}}'),
        (Publication("state:x", b"hi\n", Kind.TEXT), b'{"key":"k\\"","offset":7,"text":"hi\\n"}'),
        (Publication("state:x", b"\x00\xff", Kind.BINARY), b'{"key":"k\\"","offset":7,"base64":"AP8="}'),
        (Publication("state:x", b"", Kind.JSON), b'{"key":"k\\"","offset":7}'),
        (
            Publication("state:x", b"1", Kind.JSON, tags={"t": "v"}, info=ClientInfo("n1-7", "ada", b'{"c":1}')),
            b'{"key":"k\\"","offset":7,"tags":{"t":"v"},"info":{"client":"n1-7","user":"ada","conn_info":{"c":1}},"data":1}',
        ),
    ],
)
def test_an_entry_has_its_value_as_an_envelope_has_it(publication: Publication, text: bytes) -> None:
    change = publication._replace(position=HERE, change=Change('k"'))

    assert entry(change, with_offset=True) == text
    assert entry(change, with_offset=False) == text.replace(b'"offset":7,', b"").replace(b',"offset":7', b"")
    removal = change._replace(data=b"", tags=None, info=None, change=Change('k"', is_removed=True))
    assert entry(removal, with_offset=True) == b'{"key":"k\\"","offset":7,"removed":true}'


@pytest.mark.parametrize("encoding", [MAP_WEBSOCKET, MAP_SSE, EPHEMERAL_WEBSOCKET, EPHEMERAL_SSE])
def test_what_is_no_change_is_not_sent(encoding: Encoding) -> None:
    for event in (
        Publication("state:x", b"1", Kind.JSON, HERE),
        Resumption("state:x", HERE, is_recovered=False),
        Membership("state:x", (), have_joined=True),
    ):
        assert encoding.encode(event) == b""


def test_a_json_text_of_many_lines_is_one_event() -> None:
    change = Publication("state:x", b'{\n"id: 1":\r\n2}', Kind.JSON, HERE, change=Change("k"))

    assert MAP_SSE.encode(change) == (
        b'id: 5f0c2a91:7\ndata: {"key":"k","offset":7,"data":{\ndata: "id: 1":\ndata: 2}}\n\n'
    )


class Reader:
    """A client: what it has read of its start, and the live changes that wait behind it."""

    def __init__(self, copy: MapCopy, start: LoadStart) -> None:
        changes = copy.changes(start.position.offset)
        assert changes is not None
        self.start: Iterator[bytes] = whole_map(MAP_WEBSOCKET, copy, start, changes, copy.position)
        self.live: list[Publication] = []
        self.map: dict[str, int] | None = None
        self.place: int | None = None

    def read(self) -> bool:
        """Read a piece of the start; return whether there was one."""
        piece = next(self.start, b"")
        for message in messages(piece):
            self.apply(message)
        return bool(piece)

    def finish(self) -> None:
        while self.read():
            pass
        for change in self.live:
            for message in messages(MAP_WEBSOCKET.encode(change)):
                self.apply(message)

    def apply(self, message: dict[str, Any]) -> None:
        if message.get("reset"):
            self.map = {}
            return
        assert self.map is not None, "reset comes first"
        if message.get("synced"):
            self.place = message["offset"]
        elif message.get("removed"):
            self.map.pop(message["key"], None)
        else:
            self.map[message["key"]] = message["data"]


def messages(data: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(payload) for _, payload in frames.split(data)]


@given(st.data())
def test_every_client_ends_with_the_map_however_it_changes_while_the_start_is_read(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_encodings, "_PAGE_LENGTH", data.draw(st.integers(1, 3), "page length"))
        patch.setattr(map_copy, "_KEYS_A_CHANGE", data.draw(st.sampled_from([1, 10]), "keys a change"))
        copy, model = MapCopy(Position(0, "e"), needed_until_s=0), dict[str, int]()
        loads: list[LoadStart] = []
        readers: list[Reader] = []
        for what in data.draw(
            st.lists(st.sampled_from(["set", "set", "remove", "load", "begin", "read"]), max_size=40)
        ):
            if what in {"set", "remove"}:
                change = written(
                    data.draw(st.sampled_from(KEYS)), copy.position.offset + 1, is_removed=what == "remove"
                )
                assert change.change is not None
                copy.apply(change)
                if change.change.is_removed:
                    model.pop(change.change.key, None)
                else:
                    model[change.change.key] = copy.position.offset
                for reader in readers:
                    reader.live.append(change)
            elif what == "load":
                loads.append(copy.start())
            elif what == "begin" and loads:
                readers.append(Reader(copy, loads.pop()))
            elif readers:
                data.draw(st.sampled_from(readers)).read()
        for reader in readers:
            reader.finish()

            assert reader.map == model
            assert reader.place is not None


def test_no_event_before_the_end_of_a_start_has_a_position_as_its_id() -> None:
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    for offset in range(1, 5):
        copy.apply(written(KEYS[offset], offset))
    late = written("a", 5)
    copy.apply(late)

    events = b"".join(whole_map(MAP_SSE, copy, LoadStart(Position(4, "e")), [late], copy.position)).split(b"\n\n")[:-1]

    assert [event.split(b"\n")[0] for event in events if event.startswith(b"id: ")] == [b"id: :", b"id: e:5"]
    assert events[0] == b'id: :\ndata: {"reset":true}'
    assert events[-1] == b'id: e:5\ndata: {"synced":true,"offset":5,"epoch":"e"}'
    assert len(events) == 7
