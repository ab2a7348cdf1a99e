from __future__ import annotations

from roomcast.connections.connection import Connection
from roomcast.model.errors import UNSUPPORTED_DATA
from roomcast.model.publications import Kind, Publication
from roomcast.rooms.receivers import Chat, Echo, Feed, Room
from tests.support.fakes import connection


class RecordingPublisher:
    def __init__(self) -> None:
        self.published: list[Publication] = []

    def publish_for(self, connection: Connection, publication: Publication, on_result: object = None) -> None:
        self.published.append(publication)


def test_in_a_plain_room_a_message_is_a_publication_of_its_kind_as_it_was() -> None:
    publisher = RecordingPublisher()
    ada, to_ada = connection()
    room = Room(publisher, "room:x", may_publish=True)

    room.on_message(ada, Kind.TEXT, "h\u00e9".encode())
    room.on_message(ada, Kind.BINARY, b"\x00\xff")
    room.on_closed(ada)

    assert publisher.published == [
        Publication("room:x", "h\u00e9".encode(), Kind.TEXT),
        Publication("room:x", b"\x00\xff", Kind.BINARY),
    ]
    assert to_ada.written == []


def test_the_classic_chat_answers_the_sender_and_tells_everyone_what_was_said_and_who_left() -> None:
    publisher = RecordingPublisher()
    seven, to_seven = connection()
    chat = Chat(publisher, "room:lobby", "7", may_publish=True)

    chat.on_message(seven, Kind.TEXT, b"hi")
    chat.on_closed(seven)

    assert to_seven.written == [b"You: hi;"]
    assert publisher.published == [
        Publication("room:lobby", b"Client #7 says: hi"),
        Publication("room:lobby", b"Client #7 left the chat"),
    ]


def test_text_endpoints_close_at_binary() -> None:
    for receiver in (Chat(RecordingPublisher(), "room:lobby", "7", may_publish=True), Echo()):
        client, transport = connection()

        receiver.on_message(client, Kind.BINARY, b"x")

        assert transport.closed_with == [UNSUPPORTED_DATA]


def test_echo_answers_and_a_feed_does_not_listen() -> None:
    client, transport = connection()

    Echo().on_message(client, Kind.TEXT, b"x")
    Feed().on_message(client, Kind.TEXT, b"x")

    assert transport.written == [b"Message received: x;"]
