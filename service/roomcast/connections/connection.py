"""One client: who it is, what it is subscribed to, and what happens when it is slow."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from roomcast.connections.backlog import Backlog
from roomcast.model.errors import SLOW, Disconnect
from roomcast.model.namespaces import SlowPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roomcast.connections.encoding import Encoding
    from roomcast.connections.transport import Transport
    from roomcast.model.publications import Kind


class State(enum.Enum):
    """CONNECTING until the transport's handshake is answered, CLOSING from the first reason to end, then CLOSED."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Pause(enum.Flag):
    """Why nothing is read from a client: too much of what it sent is not done yet."""

    UNPUBLISHED = enum.auto()
    COMMANDS = enum.auto()


class Subscription(NamedTuple):
    """How a connection is subscribed to a channel.

    info: JSON about the client in this channel, or empty. is_present: presence knows of it. is_silent: nobody is told
        when it comes and goes.
    """

    encoding: Encoding
    info: bytes = b""
    is_present: bool = False
    is_silent: bool = False


class Receiver(Protocol):
    """What the wire protocol does with a client's messages. Called by the transport; must not block, await or raise."""

    __slots__ = ()

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        """Take a whole message."""

    def on_lost(self, connection: Connection, channel: str) -> None:
        """Take note that publications of a channel are lost for good; what follows comes after them."""

    def on_closed(self, connection: Connection) -> None:
        """Take note that the client is gone; it is not subscribed any more. Called also if it was never open."""


class Connection:
    """One client of this node.

    Delivery: at most once, in the channel's order; nothing is sent after the state has left OPEN.
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_held",
        "_pauses",
        "awaited_pongs",
        "encoding",
        "id",
        "info",
        "is_congested",
        "max_unsent_bytes",
        "opened_at_s",
        "receiver",
        "state",
        "subscriptions",
        "transport",
        "unpublished_bytes",
        "user",
        "written_while_congested_bytes",
    )

    def __init__(
        self,
        id: int,  # noqa: A002
        transport: Transport,
        encoding: Encoding,
        receiver: Receiver,
        *,
        max_unsent_bytes: int,
        user: str = "",
        info: bytes = b"",
    ) -> None:
        self.id = id
        self.user = user  # who it is, as others see it; "" is nobody known
        self.info = info  # JSON that goes with it, or empty
        self.transport = transport
        self.encoding = encoding
        self.receiver = receiver
        self.max_unsent_bytes = max_unsent_bytes
        self.state = State.CONNECTING
        self.subscriptions: dict[str, Subscription] = {}
        self.opened_at_s: float | None = None
        self.unpublished_bytes = 0  # of its own messages, on their way to Redis
        self.awaited_pongs = 0  # how often it was asked whether it lives, in the words of its protocol
        self._pauses = Pause(0)
        self.is_congested = False
        self.written_while_congested_bytes = 0
        self._backlog: Backlog | None = None  # what waits while it is congested, of channels that may drop
        self._held: bytearray | None = None  # what waits until it is open

    def send(self, data: bytes) -> None:
        """Write encoded bytes, or hold them until the connection is open.

        A connection with more than `max_unsent_bytes` unsent is closed as slow (3008): waiting for it would make
        every other subscriber wait too.
        """
        if self.state is not State.OPEN:
            self._hold(data)
            return
        self.transport.write(data)
        if self.is_congested:
            self.written_while_congested_bytes += len(data)
            if self.transport.unsent_bytes() > self.max_unsent_bytes:
                self.close(SLOW)

    def send_congested(self, channel: str, frames: Sequence[bytes], policy: SlowPolicy) -> int:
        """Do with a congested connection's publications what the channel's policy says.

        Returns: how many publications were dropped: these, or older ones that had waited.
        """
        if self.state is not State.OPEN or policy is SlowPolicy.DISCONNECT:
            self.send(b"".join(frames))
            return 0
        if self._backlog is None:
            self._backlog = Backlog(max_bytes=self.max_unsent_bytes)
        return self._backlog.add(channel, frames, only_latest=policy is SlowPolicy.LATEST)

    def pause_reading(self, reason: Pause) -> None:
        """Read nothing more from the client until all reasons not to are gone."""
        self._pauses |= reason
        self.transport.pause_reading()

    def resume_reading(self, reason: Pause) -> None:
        """Read from the client again, unless there is another reason not to."""
        if reason in self._pauses:
            self._pauses &= ~reason
            if not self._pauses:
                self.transport.resume_reading()

    def await_pong(self) -> bool:
        """Note that the client is asked whether it lives; return whether it is to be.

        One that has not said who it is would not know what a ping is, and has a deadline of its own.
        """
        if self.state is State.CONNECTING:
            return False
        self.awaited_pongs += 1
        return True

    def on_congested(self) -> None:
        """Note, told by the transport, that the client does not take what is written as fast as it comes."""
        self.is_congested = True
        self.written_while_congested_bytes = 0

    def on_drained(self) -> None:
        """Note, told by the transport, that the client has caught up, and send what waited."""
        self.is_congested = False
        backlog, self._backlog = self._backlog, None
        if backlog is None:
            return
        missed_count, frames = backlog.drain()
        if missed_count:
            frames.insert(0, self.encoding.missed(missed_count))
        if frames and self.state is State.OPEN:
            # Not `send`: the backlog has a bound of its own, and with what is still unsent it may pass the other.
            self.transport.write(b"".join(frames))

    def open(self) -> None:
        """Note that the handshake was answered, and send what was published since the subscription."""
        if self.state is not State.CONNECTING:
            return
        self.state = State.OPEN
        self.opened_at_s = time.monotonic()
        held, self._held = self._held, None
        if held:
            self.send(bytes(held))

    def close(self, disconnect: Disconnect) -> None:
        """Begin to end the connection, once; the transport then reports that it is gone."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self.state = State.CLOSING
        self._held = self._backlog = None
        self.transport.close(disconnect)

    def on_closed(self) -> None:
        """Note that the transport is gone."""
        self.state = State.CLOSED
        self._held = self._backlog = None

    def _hold(self, data: bytes) -> None:
        if self.state is not State.CONNECTING:
            return
        if self._held is None:
            self._held = bytearray()
        self._held += data
        if len(self._held) > self.max_unsent_bytes:
            self.close(SLOW)
