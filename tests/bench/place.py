"""Where a contender's server lives: loopback ports and a folder of its own."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """Free when it was made. `port` is for the WebSockets; a server with a second listener has `other_port` for it."""

    port: int
    other_port: int
    folder: Path


def find_place(folder: Path) -> Place:
    """Return a place with free ports."""
    with socket.socket() as first, socket.socket() as second:
        first.bind((HOST, 0))
        second.bind((HOST, 0))
        return Place(first.getsockname()[1], second.getsockname()[1], folder)
