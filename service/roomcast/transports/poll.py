"""The transport of one poll."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.transports.write_buffer import PendingWrites

if TYPE_CHECKING:
    from roomcast.model.errors import Disconnect


class PollTransport(PendingWrites):
    """The `Transport` of one poll: what is written waits here for its answer."""

    name = "poll"

    def pause_reading(self) -> None:
        """See `Transport.pause_reading`; a poll is never read."""

    def resume_reading(self) -> None:
        """See `Transport.resume_reading`; a poll is never read."""

    def close(self, disconnect: Disconnect) -> None:  # noqa: ARG002  (as in Transport)
        """Answer with what there is: the client polls again anyway, maybe another node."""
        self.end()

    def close_code(self) -> int:
        """See `Transport.close_code`."""
        return 1000
