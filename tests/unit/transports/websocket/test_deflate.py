from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.transports.websocket.deflate import InflateError, deflate, inflate


@given(st.binary(max_size=2000))
def test_a_message_comes_back_as_it_was(data: bytes) -> None:
    assert inflate(deflate(data), max_bytes=2000) == data


def test_each_message_stands_alone() -> None:
    assert deflate(b"x" * 1000) == deflate(b"x" * 1000)
    assert len(deflate(b"x" * 1000)) < 50


def test_a_bomb_is_refused_without_being_unpacked() -> None:
    compressor = zlib.compressobj(wbits=-15)
    bomb = compressor.compress(bytes(50_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 64 * 1024

    with pytest.raises(InflateError, match="over the limit of 65536 bytes") as caught:
        inflate(bomb, max_bytes=65536)

    assert caught.value.is_too_big


@pytest.mark.parametrize("data", [b"\xff", b"not deflated", b"\x07"])
def test_what_is_not_deflated_is_refused(data: bytes) -> None:
    with pytest.raises(InflateError, match="not deflated") as caught:
        inflate(data, max_bytes=100)

    assert not caught.value.is_too_big


def test_a_message_of_exactly_the_limit_is_read() -> None:
    assert inflate(deflate(b"x" * 100), max_bytes=100) == b"x" * 100
    with pytest.raises(InflateError):
        inflate(deflate(b"x" * 101), max_bytes=100)
