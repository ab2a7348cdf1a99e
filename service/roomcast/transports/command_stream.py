"""One half of a connection over HTTP: the response with replies and pushes. Commands come in other requests."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from roomcast.model.errors import Disconnect
from roomcast.transports.write_buffer import PingedBuffer


class CommandStream(PingedBuffer):
    """The `Transport` of a client that sends its commands to `/emulation`.

    Args:
        name: as in metrics: http_stream or sse.
        goodbye: returns the last bytes for a disconnect: there is no close frame.
    """

    def __init__(self, name: str, goodbye: Callable[[Disconnect], bytes]) -> None:
        super().__init__()
        self.name = name
        self._goodbye = goodbye

    @override
    def goodbye(self, disconnect: Disconnect) -> bytes:
        return self._goodbye(disconnect)
