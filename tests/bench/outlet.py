"""How a service publishes to a contender: bytes on one TCP connection."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Outlet:
    """Messages have one size, so that every protocol is some bytes before a message and some after it.

    hello: sent once, first.
    unheard: the server's response to a message without subscribers; empty if it has none.
    """

    port: int
    before: bytes
    after: bytes
    hello: bytes = b""
    unheard: bytes = b""

    def publication(self, message: bytes) -> bytes:
        """Return the bytes that publish a message."""
        return self.before + message + self.after


def redis_outlet(url: str, topic: str, size_bytes: int, *, before: bytes = b"", after: bytes = b"") -> Outlet:
    """Return how to PUBLISH messages of this size to a topic, with `before` and `after` around each."""
    length = len(before) + size_bytes + len(after)
    command = f"*3\r\n$7\r\nPUBLISH\r\n${len(topic)}\r\n{topic}\r\n${length}\r\n".encode()
    port = urlsplit(url).port
    assert port is not None
    return Outlet(port, command + before, after + b"\r\n", unheard=b":0\r\n")
