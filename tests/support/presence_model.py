"""Nodes' presence, step by step on a real server, beside a model of who is where."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable

from redis.asyncio import Redis

from roomcast.model.client_info import ClientInfo
from roomcast.model.publications import Membership
from roomcast.presence.interface import Counts
from roomcast.presence.node_registry import NodeKeys, NodeRegistry
from roomcast.presence.redis_presence import RedisPresence
from roomcast.redis_access.envelope import unpack
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from tests.support.fakes import Clock
from tests.support.presence import NAMESPACES

CHANNELS = ("room:a", "room:b", "quiet:a", "feed:a")
NAMES = ("members", "users", "tally", "nodes")
# Channels are checked this often here, so that a test takes a quarter of the steps: 20 s otherwise.
TURN_COUNT = 5
# A killed node is swept within 7 s, in other lists of which a check may have found it first.
HEALED_WITHIN_S = 2 + TURN_COUNT + 7


class SteppedNode:
    """A node of which a test takes each step; it is its own roster."""

    def __init__(self, client: Redis, prefix: str, node_id: str, clock: Clock) -> None:
        self.by_channel: dict[str, dict[str, ClientInfo]] = {}
        self.registry = NodeRegistry(client, prefix=prefix)
        self.presence = RedisPresence(client, self.registry, self, NAMESPACES, prefix=prefix, node_id=node_id)
        self.presence.sweeper._clock = clock
        self.is_suspended = False
        self.was_suspended = False

    def channels(self) -> Collection[str]:
        return self.by_channel.keys()

    def members(self, channel: str) -> Iterable[ClientInfo]:
        return self.by_channel.get(channel, {}).values() if NAMESPACES.of(channel).presence else ()

    def member_count(self, channel: str) -> int:
        return len(list(self.members(channel)))

    def subscribe(self, channel: str, info: ClientInfo) -> None:
        if channel not in self.by_channel:
            self.presence.occupy(channel)
            self.by_channel[channel] = {}
        self.by_channel[channel][info.client] = info
        if NAMESPACES.of(channel).presence:
            self.presence.join(channel, info)

    def unsubscribe(self, channel: str, client: str) -> None:
        del self.by_channel[channel][client]
        if NAMESPACES.of(channel).presence:
            self.presence.leave(channel, client)
        if not self.by_channel[channel]:
            del self.by_channel[channel]
            self.presence.vacate(channel)

    async def report(self) -> None:
        self.presence.reported(await self.registry.report(self.presence.lease, 0, ttl_s=600))

    async def second(self) -> None:
        """Do what a node does in a second."""
        await self.report()
        self.presence._changes.turn()
        await self.presence.write_round()
        await self.presence.write_round()
        await self.presence.sweeper.step()


class World:
    """Some nodes on one Redis, and what all of them should show."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self.client = client
        self.prefix = prefix
        self.keys = ChannelKeys(prefix)
        self.node_keys = NodeKeys(prefix)
        self.nodes: list[SteppedNode] = []
        self._clock = Clock()
        self._numbers = itertools.count(1)
        self._pubsub = client.pubsub()
        self.heard: defaultdict[str, list[str]] = defaultdict(list)  # of each client, its joins and leaves
        self.node_of: dict[str, SteppedNode] = {}
        self.is_damaged = False

    async def start(self) -> None:
        await self._pubsub.subscribe(*[self.keys.topic(channel) for channel in CHANNELS])
        for _ in range(2):
            await self.start_node()

    async def aclose(self) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py
        await self.client.aclose()

    async def start_node(self) -> None:
        self.nodes.append(SteppedNode(self.client, self.prefix, f"n{next(self._numbers)}", self._clock))
        await self.nodes[-1].report()

    @property
    def running(self) -> list[SteppedNode]:
        return [node for node in self.nodes if not node.is_suspended]

    def subscribe(self, node: SteppedNode, channel: str, user: str) -> None:
        client = f"c{next(self._numbers)}"
        self.node_of[client] = node
        node.subscribe(channel, ClientInfo(client, user, b'{"a":1}'))

    async def all_keys(self) -> list[bytes | str]:
        return await self.client.keys(f"*{self.prefix}*")

    async def put_foreign(self, key: str) -> None:
        await self.client.delete(key)
        await run_all(self.client, [("RPUSH", key, "x")], ())

    async def shift_clock(self, seconds: int) -> None:
        """Do to all keys what happens to them when Redis' clock is set."""
        for key in await self.all_keys():
            ttl_ms = await self.client.pttl(key)
            if ttl_ms > 0:
                await self.client.pexpire(key, max(0, ttl_ms - 1000 * seconds))

    async def pass_time(self, seconds: int = HEALED_WITHIN_S) -> None:
        for _ in range(seconds):
            self._clock.now_s += 1.0
            for node in self.running:
                await node.second()

    async def listen(self) -> None:
        await self._pubsub.ping()
        while (message := await self._pubsub.get_message(timeout=5.0)) is not None and message["type"] != "pong":
            if message["type"] == "message":
                event = unpack("x", message["data"], max_message_bytes=10_000)
                assert isinstance(event, Membership)
                for info in event.clients:
                    self.heard[info.client].append("join" if event.have_joined else "leave")

    def expected(self, channel: str) -> list[ClientInfo]:
        return sorted(info for node in self.running for info in node.members(channel))

    async def expire(self, channels: Collection[str]) -> None:
        """Let a minute pass for the keys of channels without a subscriber."""
        for channel in channels:
            if not any(channel in node.by_channel for node in self.running):
                for key in await self.client.keys("{" + self.keys.topic(channel) + "}:*"):
                    assert await self.client.pttl(key) > 0, key
                    await self.client.delete(key)

    async def check(self, channels: Collection[str]) -> None:
        """Check that every node shows who is there, and that no join or leave was published twice."""
        for channel in channels:
            members = self.expected(channel)
            counts = Counts(len(members), len({info.user for info in members}))
            for node in self.running:
                page = await node.presence.page(channel, limit=1000)
                assert sorted(page.clients) == members, channel
                assert await node.presence.count(channel) == counts, channel
            leases = {node.presence.lease.encode() for node in self.running if channel in node.by_channel}
            assert await self.client.smembers(self.keys.key(channel, "nodes")) == leases, channel
        await self.listen()
        for client, heard in self.heard.items():
            # A suspended node's clients leave without a notice if they are lost first, and join again.
            if self.is_damaged and self.node_of[client].was_suspended:
                continue
            usual = ["join", "leave"] * len(heard)
            assert heard == usual[: len(heard)], f"{client}: {heard}"
