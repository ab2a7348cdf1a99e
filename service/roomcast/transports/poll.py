"""The transport of one poll."""

from __future__ import annotations

from typing_extensions import override

from roomcast.transports.write_buffer import WriteBuffer


class PollTransport(WriteBuffer):
    """The `Transport` of one poll, whose answer drains it.

    If the node closes it, the answer has the publications so far: the client polls again anyway, maybe another node.
    """

    name = "poll"

    @override
    def close_code(self) -> int:
        return 1000
