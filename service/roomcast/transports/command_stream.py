"""One half of a connection over HTTP: the response with replies and pushes. Commands come in other requests."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from roomcast.model.errors import Disconnect
from roomcast.transports.write_buffer import PingedBuffer


class CommandStream(PingedBuffer):
    """The `Transport` of a client that sends its commands to `/emulation`; the heartbeat pings it.

    Args:
        name: as in metrics: http_stream or sse.
        ping: the bytes of a ping.
        goodbye: returns the last bytes for a disconnect: there is no close frame.
    """

    def __init__(self, name: str, *, ping: bytes, goodbye: Callable[[Disconnect], bytes]) -> None:
        super().__init__()
        self.name = name
        self._ping = ping
        self._goodbye = goodbye
        self._disconnect: Disconnect | None = None

    @override
    def ping(self) -> None:
        if self.connection is not None and self.connection.await_pong():
            self.has_answered = False
            self.write(self._ping)

    @override
    def pause_reading(self) -> None:
        """Do nothing: each request has a limit of its own."""

    @override
    def resume_reading(self) -> None: ...

    @override
    def close(self, disconnect: Disconnect) -> None:
        if self._disconnect is None:
            self._disconnect = disconnect
            self.write(self._goodbye(disconnect))
            self.end()

    @override
    def close_code(self) -> int:
        """Return 1001 for a client that disconnects: it sends no code."""
        return 1001 if self._disconnect is None else self._disconnect.code
