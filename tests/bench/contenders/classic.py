"""The connection manager that most FastAPI chats begin with; the server itself is classic_server.py."""

from __future__ import annotations

import sys

from tests.bench.bus import Bus


class Classic:
    """Implements `Contender`."""

    name = "classic"
    path = "/ws"

    def command(self, port: int, bus: Bus) -> list[str]:
        return [sys.executable, "-m", "tests.bench.contenders.classic_server", str(port), bus.url, bus.topic]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {}
