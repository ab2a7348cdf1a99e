"""The interface of a measured server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tests.bench.bus import Bus
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet
from tests.bench.place import Place


@dataclass(frozen=True, slots=True)
class Echo:
    """Where a server answers each text `x` with `before` + `x`."""

    path: str
    before: bytes = b""


class Contender(Protocol):
    """A server process that gives each message published through its outlet to every WebSocket of its dialogue.

    echo, maps: None if it has none.
    can_publish: its WebSocket clients can publish too, as `Dialogue.publication` says it.
    shares_redis: several of it on one Redis are one cluster.
    """

    name: str
    echo: Echo | None
    maps: Maps | None
    can_publish: bool
    shares_redis: bool

    def missing(self) -> str | None:
        """Return the name of a missing requirement, or None if it can run."""

    def version(self) -> dict[str, str]:
        """Return the names and versions of its software that is not in the project's own environment."""

    def command(self, place: Place, bus: Bus) -> list[str]:
        """Return the command that runs the server in the foreground until SIGTERM; write its files before."""

    def environment(self, bus: Bus) -> dict[str, str]:
        """Return the variables that the command needs beside the usual ones."""

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        """Return how a client subscribes, and publishes messages of this size."""

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        """Return how a service publishes messages of this size."""
