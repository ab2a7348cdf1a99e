"""Listening in a cluster: one listener for each shard, and channels that move between them with their slots."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import SlotNotCoveredError

from roomcast.brokers.listener import ChannelMoved, Listener
from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, connect_to_node, outage_reason
from roomcast.tasks import end

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio
    from redis.asyncio.cluster import ClusterNode

    from roomcast.brokers.listener import Listening, Subscriptions
    from roomcast.redis_access.client import Client

log = structlog.get_logger(__name__)

# How often the topology is asked for when nothing calls for it, and the shortest pause when something does.
_REFRESH_S = 2.0
_PAUSE_S = 0.1
# Nodes are asked at random: one that is frozen is left for another.
_REFRESH_TIMEOUT_S = 1.0
# How long a subscription waits while a shard is away: see `Listener.patience_s`.
_PATIENCE_S = 1.0


def subscriptions(client: Client, listening: Listening, **options: Any) -> Subscriptions:  # Any: those of Listener
    """Return what listens on the shape of Redis that a client is of."""
    if isinstance(client, RedisCluster):
        return Shards(client, listening, **options)
    return Listener(client, listening, **options)


class _Shard(NamedTuple):
    client: redis.asyncio.Redis
    listener: Listener
    task: asyncio.Task[None]


class Shards:
    """Keeps the wanted channels subscribed, each on the primary that has its slot.

    What one shard's channels may have missed is told when they are heard again, not before: until then nothing comes in
    them, and what comes in those of the other shards can be trusted.

    Args: as for `Listener`; client: the cluster's.
    """

    def __init__(
        self,
        client: RedisCluster,
        listening: Listening,
        *,
        own_topic: str,
        topic_of: Callable[[str], str],
        timeout_s: float,
        quiet_s: float,
        linger_s: float,
    ) -> None:
        self._cluster = client
        self._listening = listening
        self._own_topic = own_topic
        self._topic_of = topic_of
        self._timeout_s = timeout_s
        self._quiet_s = quiet_s
        self._linger_s = linger_s

        # Nodes by which the cluster can be found again, should all that are known be gone.
        self._given = [(str(node.host), int(node.port)) for node in client.startup_nodes]
        self._shards: dict[str, _Shard] = {}  # by the name of its primary, host:port
        self._homes: dict[str, str | None] = {}  # wanted channel -> the shard that has its slot
        self._unheard: dict[str, bool] = {}  # channel to be subscribed where it is now -> whether it was heard before
        self._is_stale = asyncio.Event()
        self._placed = asyncio.Event()  # set, and replaced, when it is known anew which shard has which channel
        self._has_connected = False
        self._reason_not_ready: str | None = "Redis is not connected yet"

    def reason_not_ready(self) -> str | None:
        """See `Broker.reason_not_ready`."""
        if self._reason_not_ready is not None:
            return self._reason_not_ready
        for shard in self._shards.values():
            reason = shard.listener.reason_not_ready()
            if reason is not None and shard.listener.is_wanted():
                return reason
        return "a shard of the cluster is being replaced" if self._unheard else None

    async def subscribe(self, channel: str) -> None:
        """See `Broker.subscribe`."""
        self._homes.setdefault(channel, self._home_of(channel))
        patience_s = self._timeout_s if self.reason_not_ready() is None else min(_PATIENCE_S, self._timeout_s)
        try:
            async with asyncio.timeout(patience_s):
                while not await self._is_heard(channel):
                    await self._placed.wait()
        except TimeoutError:
            reason = self.reason_not_ready() or "no shard of the cluster has the channel now"
            raise BrokerUnavailable(reason) from None

    def unsubscribe(self, channel: str) -> None:
        """See `Broker.unsubscribe`."""
        shard = self._shards.get(self._homes.pop(channel, None) or "")
        self._unheard.pop(channel, None)
        if shard is not None:
            shard.listener.unsubscribe(channel)

    async def run(self) -> None:
        """Listen through every outage; end only when cancelled."""
        try:
            while True:
                self._is_stale.clear()
                await self._refresh()
                await self._place_shards()
                await self._hear_moved()
                await asyncio.sleep(_PAUSE_S)
                try:
                    async with asyncio.timeout(_REFRESH_S if self.reason_not_ready() is None else _PAUSE_S):
                        await self._is_stale.wait()
                except TimeoutError:
                    continue
        finally:
            for name in list(self._shards):
                await self._end_shard(name)

    async def _refresh(self) -> None:
        """Learn which node has which slot."""
        try:
            await self._cluster.initialize()
            async with asyncio.timeout(_REFRESH_TIMEOUT_S):
                if not await self._is_up_to_date():
                    await self._cluster.nodes_manager.initialize(additional_startup_nodes_info=self._given)
        except OUTAGES as exc:
            if not self._shards:
                self._reason_not_ready = outage_reason(exc)
            self._is_stale.set()
            log.debug("broker.cluster_not_found", error=str(exc) or type(exc).__name__)

    async def _is_up_to_date(self) -> bool:
        """Ask one node whether slots have moved. Raises: one of OUTAGES."""
        # Not `initialize` at once: that makes redis-py connect to every node anew, each time.
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

    async def _place_shards(self) -> None:
        """Have a listener on every primary, and each channel on the one that has its slot."""
        primaries: dict[str, ClusterNode] = {
            nodes[0].name: nodes[0] for nodes in self._cluster.nodes_manager.slots_cache.values()
        }
        for name in primaries.keys() - self._shards.keys():
            self._start_shard(name, primaries[name])
        for channel, home in self._homes.items():
            new_home = self._home_of(channel)
            if new_home != home:
                self._homes[channel] = new_home
                self._unheard[channel] = self._unheard.get(channel, home is not None)
                if home is not None:
                    self._shards[home].listener.unsubscribe(channel)
        for name in self._shards.keys() - primaries.keys():
            await self._end_shard(name)
        for shard in self._shards.values():
            if shard.task.done():
                shard.task.result()  # raises: a listener ends only by a fault of ours
        if self._shards:
            self._reason_not_ready = None
        self._placed.set()
        self._placed = asyncio.Event()

    async def _hear_moved(self) -> None:
        """Subscribe to channels that have moved, and tell that something may have been missed."""
        moved = list(self._unheard)
        heard = await asyncio.gather(*[self._is_heard(channel) for channel in moved], return_exceptions=True)
        again = [
            self._unheard.pop(channel, False)
            for channel, is_heard in zip(moved, heard, strict=True)
            if is_heard is True
        ]
        if any(again):
            self._tell_gap()

    async def _is_heard(self, channel: str) -> bool:
        """Return whether a wanted channel is subscribed now; False: it is not clear which shard has it.

        Raises: BrokerUnavailable.
        """
        home = self._homes.get(channel)
        if home is None:
            return False
        try:
            await self._shards[home].listener.subscribe(channel)
        except ChannelMoved:
            return False
        except BrokerUnavailable:
            if self._homes.get(channel) == home:
                raise
        return self._homes.get(channel) == home

    def _home_of(self, channel: str) -> str | None:
        try:
            node = self._cluster.get_node_from_key(self._topic_of(channel))
        except SlotNotCoveredError:
            return None
        return node.name if node is not None and node.name in self._shards else None

    def _start_shard(self, name: str, node: ClusterNode) -> None:
        client = connect_to_node(node)
        listener = Listener(
            client,
            _Ear(self, name),
            own_topic=self._own_topic,
            topic_of=self._topic_of,
            timeout_s=self._timeout_s,
            quiet_s=self._quiet_s,
            linger_s=self._linger_s,
            on_moved=self._on_moved,
        )
        task = asyncio.create_task(listener.run(), name=f"listen {name}")
        task.add_done_callback(lambda _: self._is_stale.set())
        self._shards[name] = _Shard(client, listener, task)

    async def _end_shard(self, name: str) -> None:
        shard = self._shards.pop(name)
        await end(shard.task)
        await shard.client.aclose()

    def _on_moved(self, channel: str) -> None:
        if channel in self._homes:
            self._unheard[channel] = True
        self._is_stale.set()

    def _tell_gap(self) -> None:
        self._listening.on_disconnected()
        self._listening.on_connected(is_again=True)

    # What the listeners tell, through `_Ear`.

    def on_message(self, name: str, channel: str, message: bytes) -> None:
        """Take a message; one of a channel that has moved on comes too late, and its gap is told."""
        if self._homes.get(channel, name) == name:
            self._listening.on_message(channel, message)

    def on_connected(self, *, is_again: bool) -> None:
        """Take note that a shard is heard."""
        if is_again:
            self._tell_gap()
        elif not self._has_connected:
            self._has_connected = True
            self._listening.on_connected(is_again=False)

    def on_disconnected(self) -> None:
        """Take note that a shard is not heard; it may have been replaced."""
        self._is_stale.set()


class _Ear:
    """Implements `Listening` for one shard's listener."""

    def __init__(self, shards: Shards, name: str) -> None:
        self._shards = shards
        self._name = name

    def on_message(self, channel: str, message: bytes) -> None:
        self._shards.on_message(self._name, channel, message)

    def on_connected(self, *, is_again: bool) -> None:
        self._shards.on_connected(is_again=is_again)

    def on_disconnected(self) -> None:
        self._shards.on_disconnected()
