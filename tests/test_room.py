from __future__ import annotations

from service.messages import Kind, Publication
from service.protocols import room


def test_a_frame_is_a_publication_of_its_kind_as_it_was() -> None:
    assert room.frame("room:x", "h\u00e9") == Publication("room:x", "h\u00e9".encode(), Kind.TEXT)
    assert room.frame("room:x", b"\x00\xff") == Publication("room:x", b"\x00\xff", Kind.BINARY)


def test_the_classic_chat_says_who_says_and_who_left() -> None:
    assert room.said("room:lobby", "7", "hi") == Publication("room:lobby", b"Client #7 says: hi")
    assert room.left("room:lobby", "7") == Publication("room:lobby", b"Client #7 left the chat")
