"""The listener of a cluster: one listener for each shard, and channels that move between them with their slots."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import NamedTuple

import redis.asyncio
import structlog
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import SlotNotCoveredError
from typing_extensions import override

from roomcast.brokers.pubsub_channels import ChannelMoved
from roomcast.brokers.pubsub_listener import Listener, ListenerOptions, ListenerSink
from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, Client, connect_to_node, outage_reason
from roomcast.redis_access.topology import Topology, primaries
from roomcast.tasks import end

log = structlog.get_logger(__name__)

# The interval between reads of the topology, and the shortest pause before one that is needed at once.
_REFRESH_S = 2.0
_PAUSE_S = 0.1


def make_listener(client: Client, sink: ListenerSink, options: ListenerOptions) -> Listener | ShardedListener:
    """Return the listener for a client's shape of Redis."""
    if isinstance(client, RedisCluster):
        return ShardedListener(client, sink, options)
    return Listener(client, sink, options)


class _Shard(NamedTuple):
    client: redis.asyncio.Redis
    listener: Listener
    task: asyncio.Task[None]


class ShardedListener:
    """Keeps the wanted channels subscribed, each on the primary that has its slot.

    A gap in one shard's channels is reported when they are subscribed again, not before: until then they receive
    nothing, and the channels of other shards are complete.

    Methods are as in `Broker`.
    """

    def __init__(self, client: RedisCluster, sink: ListenerSink, options: ListenerOptions) -> None:
        self._cluster = client
        self._sink = sink
        self._options = options

        self._topology = Topology(client)
        self._shards: dict[str, _Shard] = {}  # by the name of its primary, host:port
        self._homes: dict[str, str | None] = {}  # wanted channel -> the shard that has its slot
        self._moving: dict[str, bool] = {}  # channel to subscribe on its new shard -> whether it was subscribed
        self._is_stale = asyncio.Event()
        self._placed = asyncio.Event()  # set, and replaced, when channels have been assigned to shards again
        self._has_connected = False
        self._reason_not_ready: str | None = "Redis is not connected yet"

    def reason_not_ready(self) -> str | None:
        """Return why nothing can be received now, or None."""
        if self._reason_not_ready is not None:
            return self._reason_not_ready
        for shard in self._shards.values():
            reason = shard.listener.reason_not_ready()
            if reason is not None and shard.listener.is_wanted():
                return reason
        return "a shard of the cluster is being replaced" if self._moving else None

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel; return once its shard has confirmed it. Raises: BrokerUnavailable."""
        self._homes.setdefault(channel, self._home_of(channel))
        try:
            async with asyncio.timeout(self._options.patience_s(self.reason_not_ready())):
                while not await self._try_subscribe(channel):
                    await self._placed.wait()
        except TimeoutError:
            reason = self.reason_not_ready() or "no shard of the cluster has the channel now"
            raise BrokerUnavailable(reason) from None

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel, after `linger_s`."""
        shard = self._shards.get(self._homes.pop(channel, None) or "")
        self._moving.pop(channel, None)
        if shard is not None:
            shard.listener.unsubscribe(channel)

    async def sync(self, channels: set[str]) -> set[str]:
        """Return those of the channels of which all that was published before was received."""
        by_home: dict[str, set[str]] = defaultdict(set)
        for channel in channels:
            home = self._homes.get(channel)
            if home is not None and channel not in self._moving:
                by_home[home].add(channel)
        synced = await asyncio.gather(*[self._shards[home].listener.sync(some) for home, some in by_home.items()])
        return {channel for some in synced for channel in some if self._homes.get(channel) in by_home}

    def reconnect(self) -> None:
        """Do nothing: a cluster says itself which server has a slot."""

    async def run(self) -> None:
        """Listen through every outage; end only when cancelled."""
        try:
            while True:
                self._is_stale.clear()
                await self._refresh()
                await self._place_shards()
                await self._subscribe_moved()
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
        """Read the cluster's slot map."""
        try:
            await self._topology.refresh()
        except OUTAGES as exc:
            if not self._shards:
                self._reason_not_ready = outage_reason(exc)
            self._is_stale.set()
            log.debug("broker.cluster_not_found", error=str(exc) or type(exc).__name__)

    async def _place_shards(self) -> None:
        """Start a listener on every primary, and assign each channel to the one that has its slot."""
        nodes = primaries(self._cluster)
        for name in nodes.keys() - self._shards.keys():
            self._start_shard(name, nodes[name])
        for channel, home in self._homes.items():
            new_home = self._home_of(channel)
            if new_home != home:
                self._homes[channel] = new_home
                self._moving[channel] = self._moving.get(channel, home is not None)
                if home is not None:
                    self._shards[home].listener.unsubscribe(channel)
        for name in self._shards.keys() - nodes.keys():
            await self._end_shard(name)
        for shard in self._shards.values():
            if shard.task.done():
                shard.task.result()  # raises: a listener ends only by an internal error
        if self._shards:
            self._reason_not_ready = None
        self._placed.set()
        self._placed = asyncio.Event()

    async def _subscribe_moved(self) -> None:
        """Subscribe to channels that have moved, and report a gap."""
        moved = list(self._moving)
        results = await asyncio.gather(*[self._try_subscribe(channel) for channel in moved], return_exceptions=True)
        again = [
            self._moving.pop(channel, False)
            for channel, is_subscribed in zip(moved, results, strict=True)
            if is_subscribed is True
        ]
        if any(again):
            self._report_gap()

    async def _try_subscribe(self, channel: str) -> bool:
        """Subscribe on the channel's shard; return False if it is unknown or has changed. Raises: BrokerUnavailable."""
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
            node = self._cluster.get_node_from_key(self._options.topic_of(channel))
        except SlotNotCoveredError:
            return None
        return node.name if node is not None and node.name in self._shards else None

    def _start_shard(self, name: str, node: ClusterNode) -> None:
        client = connect_to_node(node)
        listener = Listener(client, _ShardSink(self, name), self._options, self._on_moved)
        task = asyncio.create_task(listener.run(), name=f"listen {name}")
        task.add_done_callback(lambda _: self._is_stale.set())
        self._shards[name] = _Shard(client, listener, task)

    async def _end_shard(self, name: str) -> None:
        shard = self._shards.pop(name)
        await end(shard.task)
        await shard.client.aclose()

    def _on_moved(self, channel: str) -> None:
        if channel in self._homes:
            self._moving[channel] = True
        self._is_stale.set()

    def _report_gap(self) -> None:
        self._sink.on_disconnected()
        self._sink.on_connected(is_again=True)

    # What the listeners of the shards report, through `_ShardSink`.

    def on_message(self, name: str, channel: str, message: bytes) -> None:
        """Pass on a message, unless its channel has moved to another shard: then a gap is reported."""
        if self._homes.get(channel, name) == name:
            self._sink.on_message(channel, message)

    def on_connected(self, *, is_again: bool) -> None:
        """A shard is subscribed."""
        if is_again:
            self._report_gap()
        elif not self._has_connected:
            self._has_connected = True
            self._sink.on_connected(is_again=False)

    def on_disconnected(self) -> None:
        """A shard's connection is lost; it may have been replaced."""
        self._is_stale.set()


class _ShardSink(ListenerSink):
    """Receives the events of one shard's listener."""

    def __init__(self, listener: ShardedListener, name: str) -> None:
        self._listener = listener
        self._name = name

    @override
    def on_message(self, channel: str, message: bytes) -> None:
        self._listener.on_message(self._name, channel, message)

    @override
    def on_connected(self, *, is_again: bool) -> None:
        self._listener.on_connected(is_again=is_again)

    @override
    def on_disconnected(self) -> None:
        self._listener.on_disconnected()
