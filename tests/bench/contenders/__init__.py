"""The servers that are measured beside each other. Another one is another file here and another line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tests.bench.bus import Bus
from tests.bench.contenders.classic import Classic
from tests.bench.contenders.ours import Ours

__all__ = ["CONTENDERS", "Contender"]


class Contender(Protocol):
    """A server process that gives each message published to `Bus.topic` to every WebSocket on `path`."""

    name: str
    path: str

    def command(self, port: int, bus: Bus) -> list[str]:
        """Return the command that runs the server on a loopback port, in the foreground, until SIGTERM."""

    def environment(self, bus: Bus) -> dict[str, str]:
        """Return the variables that the command needs beside the usual ones."""


CONTENDERS: Mapping[str, Contender] = {contender.name: contender for contender in (Ours(), Classic())}
