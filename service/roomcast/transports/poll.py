"""The transport of one poll."""

from __future__ import annotations

from typing_extensions import override

from roomcast.model.errors import Disconnect
from roomcast.transports.write_buffer import WriteBuffer


class PollTransport(WriteBuffer):
    """The `Transport` of one poll, whose answer drains it.

    If the node closes it, the answer has the publications so far: the client polls again anyway, maybe another node.
    """

    name = "poll"

    @property
    def final_disconnect(self) -> Disconnect | None:
        """Return why the node has closed it, if its client should not poll again."""
        return self._disconnect if self._disconnect is not None and self._disconnect.is_final else None

    @override
    def close_code(self) -> int:
        return 1000
