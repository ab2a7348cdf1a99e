"""Unit tests need no network: a socket that connects, binds or listens fails the test."""

from __future__ import annotations

import socket
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        pytest.fail("a unit test opens no socket; move it to tests/contract or tests/nodes")

    # An event loop's own pair of Unix sockets is made without any of them.
    for name in ("connect", "connect_ex", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, refuse)
