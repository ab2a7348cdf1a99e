"""The slot map of a cluster: which server has which slot, as far as this client knows."""

from __future__ import annotations

import asyncio
import random

from redis.asyncio.cluster import ClusterNode, RedisCluster

# Nodes are asked at random: after a frozen one the next attempt asks another.
_TIMEOUT_S = 1.0


def primaries(cluster: RedisCluster) -> dict[str, ClusterNode]:
    """Return the primaries of a used client that have slots, by name."""
    return {nodes[0].name: nodes[0] for nodes in cluster.nodes_manager.slots_cache.values()}


class Topology:
    """Keeps a client's slot map up to date. Its own commands follow MOVED, but do not find a primary's successor."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        # Seed nodes, for when all known nodes are gone.
        self._given = [(str(node.host), int(node.port)) for node in cluster.startup_nodes]

    async def refresh(self) -> None:
        """Read the slot map. Raises: one of OUTAGES."""
        await self._cluster.initialize()
        async with asyncio.timeout(_TIMEOUT_S):
            if not await self._is_up_to_date():
                await self._cluster.nodes_manager.initialize(additional_startup_nodes_info=self._given)

    async def _is_up_to_date(self) -> bool:
        """Ask one node whether slots have moved. Raises: one of OUTAGES."""
        # Not `initialize` directly: redis-py would reconnect to every node each time.
        known = self._cluster.nodes_manager.slots_cache
        asked = random.choice(self._cluster.get_nodes())  # noqa: S311
        ranges = await self._cluster.execute_command("CLUSTER SLOTS", target_nodes=asked)
        names = {
            slot: f"{host or asked.host}:{port}"
            for (first, last), nodes in ranges.items()
            for host, port in [nodes["primary"]]
            for slot in range(first, last + 1)
        }
        return names == {slot: nodes[0].name for slot, nodes in known.items()}
