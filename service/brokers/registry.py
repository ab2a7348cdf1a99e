"""Which nodes live and how many clients they hold: a key per node with a TTL, and a set of their names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from service.brokers.client import OUTAGES, outage_reason
from service.brokers.scripts import run_pipeline
from service.errors import BrokerUnavailable

if TYPE_CHECKING:
    from service.brokers.client import Client
    from service.brokers.scripts import Command


class NodeRegistry:
    """The nodes' own reports in Redis. A node that was killed is gone when its key's TTL has passed.

    Keys: `<prefix>nodes` (set of node ids), `<prefix>node:<id>` (connection count, TTL).
    """

    def __init__(self, client: Client, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def report(self, node_id: str, connection_count: int, *, ttl_s: float) -> None:
        """Say that a node lives and how many clients it holds. Raises: BrokerUnavailable."""
        await self._run(
            ("SADD", f"{self._prefix}nodes", node_id),
            ("SET", self._key(node_id), connection_count, "PX", math.ceil(ttl_s * 1000)),
        )

    async def retire(self, node_id: str) -> None:
        """Say that a node ends. Raises: BrokerUnavailable."""
        await self._run(("SREM", f"{self._prefix}nodes", node_id), ("DEL", self._key(node_id)))

    async def connection_counts(self) -> dict[str, int]:
        """Return the connection count of every living node, by node id. Raises: BrokerUnavailable."""
        (found,) = await self._run(("SMEMBERS", f"{self._prefix}nodes"))
        members = list(found)
        counts = await self._run(*[("GET", self._key(_text(member))) for member in members])
        living: dict[str, int] = {}
        strangers = []  # dead, or nothing that a node wrote
        for member, count in zip(members, counts, strict=True):
            if isinstance(count, bytes) and count.isdigit():
                living[_text(member)] = int(count)
            else:
                strangers.append(member)
        if strangers:
            await self._run(("SREM", f"{self._prefix}nodes", *strangers))
        return living

    async def _run(self, *commands: Command) -> list[Any]:  # Any: redis-py's replies
        try:
            replies = await run_pipeline(self._client, commands, ())
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc
        for reply in replies:
            if isinstance(reply, OUTAGES):
                raise BrokerUnavailable(outage_reason(reply)) from reply
        return replies

    def _key(self, node_id: str) -> str:
        return f"{self._prefix}node:{node_id}"


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode(errors="replace")
