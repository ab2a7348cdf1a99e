"""One client: who it is, what it is subscribed to, and what happens when it is slow."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import SLOW, Disconnect

if TYPE_CHECKING:
    from service.messages import Publication
    from service.transports import Transport


class State(enum.Enum):
    """CONNECTING until the transport's handshake is answered, CLOSING from the first reason to end, then CLOSED."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a publication becomes bytes on a kind of connection: wire protocol and transport framing in one call.

    The hub encodes once per Encoding and writes the same bytes to each of its connections, so there is one object
    per combination, made once, never one per connection.
    """

    name: str
    encode: Callable[[Publication], bytes]


class Connection:
    """One client of this node.

    Delivery: at most once, in the channel's order; nothing is sent after the state has left OPEN.
    """

    __slots__ = (
        "_held",
        "encoding",
        "id",
        "max_unsent_bytes",
        "opened_at_s",
        "state",
        "subscriptions",
        "transport",
    )

    def __init__(self, id: str, transport: Transport, encoding: Encoding, *, max_unsent_bytes: int) -> None:  # noqa: A002
        self.id = id
        self.transport = transport
        self.encoding = encoding
        self.max_unsent_bytes = max_unsent_bytes
        self.state = State.CONNECTING
        self.subscriptions: set[str] = set()
        self.opened_at_s = time.monotonic()
        self._held: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Write encoded bytes, or hold them until the connection is open.

        A connection with more than `max_unsent_bytes` unsent is closed as slow (3008): waiting for it would make
        every other subscriber wait too.
        """
        if self.state is not State.OPEN:
            self._hold(data)
            return
        self.transport.write(data)
        if self.transport.unsent_bytes() > self.max_unsent_bytes:
            self.close(SLOW)

    def open(self) -> None:
        """Note that the handshake was answered, and send what was published since the subscription."""
        if self.state is not State.CONNECTING:
            return
        self.state = State.OPEN
        held, self._held = self._held, []
        if held:
            self.send(b"".join(held))

    def close(self, disconnect: Disconnect) -> None:
        """Begin to end the connection, once; its owner's task then leaves `Node.connected`."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self.state = State.CLOSING
        self._held.clear()
        self.transport.close(disconnect)

    def closed(self) -> None:
        """Note that the transport is gone."""
        self.state = State.CLOSED
        self._held.clear()

    def _hold(self, data: bytes) -> None:
        if self.state is not State.CONNECTING:
            return
        self._held.append(data)
        if sum(map(len, self._held)) > self.max_unsent_bytes:
            self.close(SLOW)
