"""The transport of one poll."""

from __future__ import annotations

from typing_extensions import override

from roomcast.model.errors import Disconnect
from roomcast.transports.write_buffer import WriteBuffer


class PollTransport(WriteBuffer):
    """The `Transport` of one poll, whose answer drains it; it is never read."""

    name = "poll"

    @override
    def pause_reading(self) -> None: ...

    @override
    def resume_reading(self) -> None: ...

    @override
    def close(self, disconnect: Disconnect) -> None:
        """End the poll with the publications so far: the client polls again anyway, maybe another node."""
        self.end()

    @override
    def close_code(self) -> int:
        return 1000
