"""The interface of all transports."""

from __future__ import annotations

from typing import Protocol

from roomcast.model.errors import Disconnect


class Transport(Protocol):
    """Carries bytes to and from one client. All calls return at once; none of them raises."""

    __slots__ = ()

    name: str

    def write(self, data: bytes) -> None:
        """Write framed bytes, in order; without effect once the client has disconnected."""

    def unsent_bytes(self) -> int:
        """Return how many bytes are not written to the kernel yet."""

    def pause_reading(self) -> None:
        """Read nothing more from the client until `resume_reading`."""

    def resume_reading(self) -> None:
        """Read from the client again."""

    def close(self, disconnect: Disconnect) -> None:
        """Send the client the code and reason, if the transport can, and close the connection soon."""

    def close_code(self) -> int:
        """Return the code with which either side closed the connection; 1006 if it was lost."""


# Above the high mark a client counts as congested, until its unsent bytes are below the low one.
HIGH_WATER_BYTES = 64 * 1024
LOW_WATER_BYTES = 16 * 1024
