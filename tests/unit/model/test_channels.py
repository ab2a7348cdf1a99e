from __future__ import annotations

import pytest

from roomcast.model.channels import check_channel, is_of_nodes, room_channel
from roomcast.model.errors import ClientError


@pytest.mark.parametrize("name", ["lobby", "a", "Größe 日本", "x" * 128, "ü" * 64, "a:b", "🙂"])
def test_room_names_of_1_to_128_bytes_are_rooms(name: str) -> None:
    assert room_channel(name) == f"room:{name}"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "1 to 128 bytes"),
        ("a/b", "cannot stand in a URL"),
        ("..", "cannot stand in a URL"),
        ("x" * 129, "this one has 129"),
        ("ü" * 65, "this one has 130"),
        ("a\nb", "control character"),
        ("\x00", "control character"),
        ("a\x7f", "control character"),
        ("a\x85b", "control character"),
        ("a\ufffdb", "not valid UTF-8"),
        ("a" + chr(0xD800) + "b", "not valid UTF-8"),
    ],
)
def test_other_names_are_refused_with_107_that_says_why(name: str, why: str) -> None:
    with pytest.raises(ClientError, match=why) as caught:
        room_channel(name)

    assert caught.value.error.code == 107


def test_a_channel_may_have_255_bytes() -> None:
    assert check_channel("c" * 255) == "c" * 255
    with pytest.raises(ClientError, match="channel must be 1 to 255 bytes, this one has 256"):
        check_channel("c" * 256)


@pytest.mark.parametrize("name", [":", "room:", "$room:", "ü:"])
def test_a_namespace_alone_is_no_channel(name: str) -> None:
    with pytest.raises(ClientError, match="no name behind its namespace"):
        check_channel(name)


@pytest.mark.parametrize("name", ["::", ":a", "a:b:", "room::"])
def test_other_colons_are_part_of_a_name(name: str) -> None:
    assert check_channel(name) == name


@pytest.mark.parametrize(
    ("channel", "is_reserved"),
    [("control", True), ("control.n1", True), ("events", True), ("control.v2:a", False), ("$control", False)],
)
def test_the_channels_of_nodes_have_no_namespace(channel: str, is_reserved: bool) -> None:
    assert is_of_nodes(channel) is is_reserved
