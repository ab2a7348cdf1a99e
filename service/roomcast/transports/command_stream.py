"""One half of a connection over HTTP: the response that carries replies and pushes; commands come by other requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.transports.write_buffer import PendingWrites

if TYPE_CHECKING:
    from collections.abc import Callable

    from roomcast.model.errors import Disconnect


class CommandStream(PendingWrites):
    """The `Transport` of a client whose commands come through `/emulation`; the heartbeat asks whether it lives.

    Args:
        name: as in metrics: http_stream or sse.
        ping: what asks the client.
        goodbye: makes of a disconnect the last that the client gets: there is no close frame.
    """

    def __init__(self, name: str, *, ping: bytes, goodbye: Callable[[Disconnect], bytes]) -> None:
        super().__init__()
        self.name = name
        self.has_been_heard = True
        self.is_reading = True
        self.heartbeat_slot = 0
        self._ping = ping
        self._goodbye = goodbye
        self._disconnect: Disconnect | None = None

    def ping(self) -> None:
        """See `Pinged.ping`."""
        if self.connection is not None and self.connection.await_pong():
            self.has_been_heard = False
            self.write(self._ping)

    def give_up(self, disconnect: Disconnect) -> None:
        """See `Pinged.give_up`."""
        self.close(disconnect)

    def abort(self, disconnect: Disconnect) -> None:
        """See `Pinged.abort`; the response ends, and its server sees to the rest."""
        self.close(disconnect)

    def written_while_congested_bytes(self) -> int:
        """See `Pinged.written_while_congested_bytes`; whoever writes the response has a deadline of its own."""
        return 0

    def pause_reading(self) -> None:
        """See `Transport.pause_reading`; requests are bounded one by one."""

    def resume_reading(self) -> None:
        """See `Transport.resume_reading`."""

    def close(self, disconnect: Disconnect) -> None:
        """See `Transport.close`."""
        if self._disconnect is None:
            self._disconnect = disconnect
            self.write(self._goodbye(disconnect))
            self.end()

    def close_code(self) -> int:
        """See `Transport.close_code`; a client that goes does not say so."""
        return 1001 if self._disconnect is None else self._disconnect.code
