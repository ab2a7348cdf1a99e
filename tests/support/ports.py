"""Free ports for servers that cannot choose their own."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

HOST = "127.0.0.1"
# Below the ports that Linux and macOS give to outgoing connections: those of other tests, which run at the same time,
# would take a port again before its server has it, or while its server is down.
_PORTS = range(10_000, 32_000)
_chance = random.SystemRandom()  # hypothesis seeds the other one


def free_ports(count: int) -> list[int]:
    """Return ports that are free now and follow each other."""
    while True:
        first = _chance.choice(_PORTS)
        ports = [*range(first, first + count)]
        with ExitStack() as stack, suppress(OSError):
            for port in ports:
                stack.enter_context(socket.create_server((HOST, port)))
            return ports
