"""The nodes of a run: each in a slot with its own way to Redis, killed and started again."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.chaos.proxy import Proxy
from tests.support.processes import NodeProcess


class Slot:
    """A place for one node.

    Args:
        proxy: between the node and Redis, in shapes that allow one.
    """

    def __init__(self, environment: Mapping[str, str], module: str, proxy: Proxy | None) -> None:
        self._environment = dict(environment)
        self._module = module
        self.proxy = proxy
        self.ended: list[NodeProcess] = []  # for their logs
        self.node: NodeProcess

    async def start(self) -> None:
        """Start a node; return once it listens."""
        self.node = await asyncio.to_thread(NodeProcess, self._environment, module=self._module)

    async def kill(self) -> None:
        """Kill the node with SIGKILL."""
        self.node.kill(signal.SIGKILL)
        await self.end()

    async def end(self) -> None:
        """End the node as an operator would."""
        node = self.node
        await asyncio.to_thread(node.end)
        self.ended.append(node)


class Fleet:
    """All nodes, and the random choice that a balancer would make."""

    def __init__(self, slots: Sequence[Slot], chance: random.Random) -> None:
        self.slots = slots
        self._chance = chance

    def any_node(self) -> NodeProcess:
        """Return a node; it may be one that was just killed, as a balancer's may be."""
        return self._chance.choice(self.slots).node

    def lead_to(self, redis_port: int) -> None:
        """Connect the nodes' new connections to another server."""
        for slot in self.slots:
            assert slot.proxy is not None
            slot.proxy.lead_to(redis_port)

    def faults(self) -> list[dict[str, Any]]:
        """Return the log lines of all nodes that should not be there."""
        return [line for slot in self.slots for node in [*slot.ended, slot.node] for line in node.faults()]


@asynccontextmanager
async def running_fleet(
    environment: Mapping[str, str], *, node_count: int, redis_port: int | None, module: str, chance: random.Random
) -> AsyncIterator[Fleet]:
    """Run nodes.

    Args:
        redis_port: of the one server to which each node goes by a proxy; None: they go straight, to the URL that the
            environment has.
    """
    async with AsyncExitStack() as stack:
        slots = []
        for _ in range(node_count):
            if redis_port is None:
                slot = Slot(environment, module, None)
            else:
                proxy = await stack.enter_async_context(Proxy(redis_port))
                url = f"redis://127.0.0.1:{proxy.port}/0"
                slot = Slot({**environment, "ROOMCAST_REDIS_URL": url}, module, proxy)
            slots.append(slot)

        async def start(slot: Slot) -> None:
            await slot.start()
            stack.push_async_callback(slot.end)

        # All are awaited: if one fails to start, the others end with the stack.
        for failure in await asyncio.gather(*map(start, slots), return_exceptions=True):
            if failure is not None:
                raise failure
        yield Fleet(slots, chance)
