"""One client: its identity, its subscriptions, and its policy when it is slow."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from roomcast.connections.encoding import Encoding
from roomcast.connections.slow_clients import Backlog, Held
from roomcast.connections.transport import HIGH_WATER_BYTES, Transport
from roomcast.model.errors import SLOW, Disconnect
from roomcast.model.namespaces import SlowPolicy
from roomcast.model.publications import Kind


class State(enum.Enum):
    """CONNECTING until the handshake is accepted, CLOSING from the first reason to close, then CLOSED."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Pause(enum.Flag):
    """Why nothing is read from a client: too many of its messages or commands are not finished."""

    UNPUBLISHED = enum.auto()
    COMMANDS = enum.auto()


class Subscription(NamedTuple):
    """How a connection is subscribed to a channel.

    info: JSON about the client in this channel, or empty. is_present: it is in the channel's presence. is_silent: other
        clients are not notified when it joins and leaves.
    """

    encoding: Encoding
    info: bytes = b""
    is_present: bool = False
    is_silent: bool = False


class Receiver(Protocol):
    """The wire protocol's side of a connection. Called by the transport; must not block, await or raise."""

    __slots__ = ()

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        """Handle a whole message."""

    def on_lost(self, connection: Connection, channel: str) -> None:
        """Handle the loss of publications of a channel; the following ones come after them."""

    def on_closed(self, connection: Connection) -> None:
        """Handle the end of a connection, whose subscriptions have ended. Called also if it was never open."""


class Connection:
    """One client of this node.

    Delivery: at most once, in the channel's order; nothing is sent after the state has left OPEN.
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_held",
        "_pauses",
        "_when_drained",
        "address",
        "awaited_pongs",
        "disconnect",
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
        self.user = user  # shown to others; "" for an anonymous client
        self.info = info  # JSON, shown to others, or empty
        self.transport = transport
        self.encoding = encoding
        self.receiver = receiver
        self.max_unsent_bytes = max_unsent_bytes
        self.state = State.CONNECTING
        self.subscriptions: dict[str, Subscription] = {}
        self.opened_at_s: float | None = None
        self.address = ""  # of the client, or as a trusted proxy says; "" if unknown
        self.disconnect: Disconnect | None = None  # with which the node closes it
        self.unpublished_bytes = 0  # of its own messages that Redis has not accepted yet
        self.awaited_pongs = 0  # pings of its wire protocol without an answer
        self._pauses = Pause(0)
        self.is_congested = False
        self.written_while_congested_bytes = 0
        self._backlog: Backlog | None = None  # while it is congested
        self._when_drained: Callable[[], None] | None = None
        self._held: Held | None = None  # until it is open, and while it reads what it missed: then it is congested

    def send(self, data: bytes) -> None:
        """Write encoded bytes, or hold them until the connection is open.

        A connection with more than `max_unsent_bytes` unsent is closed as slow (3008): waiting for it would make
        every other subscriber wait too.
        """
        if self.state is not State.OPEN or self._held is not None:
            self._hold(data)
            return
        self.transport.write(data)
        if self.is_congested:
            self.written_while_congested_bytes += len(data)
            if self.transport.unsent_bytes() > self.max_unsent_bytes:
                self.close(SLOW)

    def send_missed(self, frames: Iterable[bytes]) -> None:
        """Send frames that may be more than `max_unsent_bytes` together: in pieces, as the client reads them.

        They are taken from `frames` when they are written. Everything that is sent later follows them.
        """
        if self.state in (State.CLOSING, State.CLOSED):
            return
        if self._held is None:
            self._held = Held()
        self._held.add_missed(iter(frames))
        self._send_held()

    def discard_held(self) -> None:
        """Discard the frames for a client that is not open yet."""
        self._held = None

    def send_congested(
        self, channel: str, frames: Sequence[bytes], policy: SlowPolicy, keys: Sequence[str] | None = None
    ) -> int:
        """Handle publications by the channel's policy; return how many were dropped, here or in the backlog.

        Args:
            keys: of a map, one of each frame: `latest` is per key. The client is closed as slow (3008) if more than
                `max_unsent_bytes` wait then: a change that was dropped would leave it with an old value, unnoticed.
        """
        if self.state is not State.OPEN or policy is SlowPolicy.DISCONNECT:
            self.send(b"".join(frames))
            return 0
        if self._backlog is None:
            self._backlog = Backlog(max_bytes=self.max_unsent_bytes)
        if keys is None:
            dropped_count = self._backlog.add(channel, frames, only_latest=policy is SlowPolicy.LATEST)
        else:
            dropped_count = self._backlog.add_changes(channel, frames, keys)
        if self._backlog.is_over:
            self.close(SLOW)
        return dropped_count

    def forget_backlog(self, channel: str) -> None:
        """Forget the backlog of a subscription that has ended.

        Once the client has subscribed again it would come after newer publications, and after newer values of a map.
        """
        if self._backlog is not None:
            self._backlog.forget(channel)

    def pause_reading(self, reason: Pause) -> None:
        """Read nothing more from the client until this and every other reason has ended."""
        self._pauses |= reason
        self.transport.pause_reading()

    def resume_reading(self, reason: Pause) -> None:
        """End a reason for the pause; read again if it was the last."""
        if reason in self._pauses:
            self._pauses &= ~reason
            if not self._pauses:
                self.transport.resume_reading()

    def await_pong(self) -> bool:
        """Count a ping; return whether to send it: not before authentication, which has a deadline of its own."""
        if self.state is State.CONNECTING:
            return False
        self.awaited_pongs += 1
        return True

    def on_congested(self) -> None:
        """Note that the client reads more slowly than the transport is written to."""
        self.is_congested = True
        self.written_while_congested_bytes = 0

    def on_drained(self) -> None:
        """Note that the client has caught up; send more of what it missed, and then the backlog."""
        self.is_congested = False
        self._send_held()
        if self._when_drained is not None and not self.is_congested:
            call, self._when_drained = self._when_drained, None
            call()
        if self._backlog is None or self.is_congested:
            return
        backlog, self._backlog = self._backlog, None
        missed_count, frames = backlog.drain()
        if missed_count:
            frames.insert(0, self.encoding.missed(missed_count))
        if frames and self.state is State.OPEN:
            # Not `send`: backlog and unsent bytes, each within its bound, may together exceed that of the unsent bytes.
            self.transport.write(b"".join(frames))

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call a function once, instead of an earlier one, when a congested client has caught up."""
        self._when_drained = call

    def open(self) -> None:
        """Note that the handshake is accepted, and send the publications since the subscription."""
        if self.state is not State.CONNECTING:
            return
        self.state = State.OPEN
        self.opened_at_s = time.monotonic()
        self._send_held()

    def close(self, disconnect: Disconnect) -> None:
        """Begin to close the connection, once; the transport then reports its end."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self.state = State.CLOSING
        self.disconnect = disconnect
        self._held = self._backlog = None
        self.transport.close(disconnect)

    def on_closed(self) -> None:
        """Note that the transport has ended."""
        self.state = State.CLOSED
        self._held = self._backlog = None

    def _hold(self, data: bytes) -> None:
        if self.state not in (State.CONNECTING, State.OPEN):
            return
        if self._held is None:
            self._held = Held()
        self._held.add(data)
        if self._held.sent_bytes > self.max_unsent_bytes:
            self.close(SLOW)

    def _send_held(self) -> None:
        """Write the held frames, piece by piece, until the client is congested."""
        piece_bytes = min(HIGH_WATER_BYTES, self.max_unsent_bytes) // 2
        while self._held is not None and self.state is State.OPEN and not self.is_congested:
            piece = self._held.next_piece(piece_bytes)
            if piece:
                self.transport.write(piece)
            else:
                self._held = None
