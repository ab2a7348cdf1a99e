"""The way to one client: the interface of all transports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from roomcast.model.errors import Disconnect


class Transport(Protocol):
    """The way to one client. All calls are synchronous and return at once; none of them raises."""

    __slots__ = ()

    name: str

    def write(self, data: bytes) -> None:
        """Pass on framed bytes, in order; nothing happens once the client is gone."""

    def unsent_bytes(self) -> int:
        """Return how much the client has not taken yet (the kernel's own buffer not counted)."""

    def pause_reading(self) -> None:
        """Read nothing more from the client until `resume_reading`."""

    def resume_reading(self) -> None:
        """Read from the client again."""

    def close(self, disconnect: Disconnect) -> None:
        """Tell the client the code and reason, as far as the transport can, and end the connection soon."""

    def close_code(self) -> int:
        """Return the code with which the connection ended, whoever ended it; 1006 for a client that vanished."""


# Above the high mark a client counts as congested, until its unsent bytes are below the low one.
HIGH_WATER_BYTES = 64 * 1024


LOW_WATER_BYTES = 16 * 1024
