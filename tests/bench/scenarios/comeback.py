"""Reconnecting clients: to another node after theirs was killed, and one by one to rooms that were not read before."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.redis_access.client import connect
from roomcast.tasks import end
from tests.bench import subscribers
from tests.bench.companions import Companion, companion
from tests.bench.contenders import Contender
from tests.bench.dialogue import handshake
from tests.bench.figures import Column, Figures, Row
from tests.bench.messages import MARK, message
from tests.bench.place import HOST
from tests.bench.scenarios.broadcast import open_subscribers
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import running_server
from tests.bench.usage import Meter

_MISSED_COUNT = 50
_ALONE_MISSED_COUNT = 100
_ALONE_ROOM_COUNT = 50
_AT_ONCE = 500
_DEADLINE_S = 60.0
_ANSWER_TIMEOUT_S = 60.0
_BUFFER_BYTES = 256 * 1024


class Comeback:
    """Implements `Scenario`."""

    name = "comeback"
    title = f"Clients of a killed node come back to another one, {_MISSED_COUNT} messages behind"
    columns = (
        Column("all caught up s", "caught_up_s", 1),
        Column("lost", "lost_count", 0, max),
        Column("twice/disorder", "other_count", 0, max),
        Column("Redis CPU %", "redis_percent"),
        Column("server CPU %", "server_percent"),
        Column(f"{_ALONE_MISSED_COUNT} messages to one client ms", "alone_ms", 2),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [f"{bench.connection_count:,} clients"]

    def takes(self, contender: Contender) -> bool:
        return contender.name == "ours"

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        count = bench.connection_count
        with ExitStack() as stack:
            killed = stack.enter_context(running_server(contender, bench.bus, bench.cores))
            other = stack.enter_context(running_server(contender, bench.bus, bench.cores))
            (position,) = asyncio.run(_publish(bench, ["room:bench"], range(1)))
            dialogue = dataclasses.replace(
                contender.dialogue(bench.bus, bench.size_bytes), path="/ws/rooms/bench?envelope=1"
            )
            with companion(
                "load client", subscribers.run, port=killed.place.port, dialogue=dialogue, size_bytes=bench.size_bytes
            ) as client:
                open_subscribers(client, count, at_once=_AT_ONCE)
                os.kill(killed.pid, signal.SIGKILL)
                asyncio.run(_publish(bench, ["room:bench"], range(1, _MISSED_COUNT + 1)))
            since = f"since={position.offset}&epoch={position.epoch}"
            dialogue = dataclasses.replace(dialogue, path=f"{dialogue.path}&{since}")
            client = stack.enter_context(
                companion(
                    "load client",
                    subscribers.run,
                    port=other.place.port,
                    dialogue=dialogue,
                    size_bytes=bench.size_bytes,
                )
            )
            meter = Meter(bench.cores, server_pids=[other.pid], load_pids=[client.pid, bench.bus.pid])
            before = meter.read()
            open_subscribers(client, count, at_once=_AT_ONCE)
            expected_count = count * _MISSED_COUNT
            _wait_for(client, expected_count)
            after = meter.read()
            client.send(subscribers.Finish(since_ns=0))
            received = client.receive(subscribers.Received, within_s=_ANSWER_TIMEOUT_S)
            alone_ms = _time_alone(bench, other.place.port)
        took_s = after.at_s - before.at_s
        redis_s = (after.load_s - after.client_s) - (before.load_s - before.client_s)
        return {
            "caught_up_s": took_s,
            "lost_count": expected_count - received.in_order_count,
            "other_count": received.other_count,
            "ended_count": received.ended_count,
            "redis_percent": redis_s * 100 / took_s,
            "server_percent": (after.server_s - before.server_s) * 100 / took_s,
            "alone_ms": alone_ms,
        }


async def _publish(bench: Bench, channels: Sequence[str], numbers: range) -> list[Position]:
    """Publish numbered messages to each channel; return the newest position of each."""
    found: list[Position] = []
    async with connect(bench.bus.url, timeout_s=5.0, client_name="bench") as client:
        broker = RedisBroker(client, prefix=bench.bus.prefix, node_id="bench", max_message_bytes=bench.size_bytes)
        running = asyncio.create_task(broker.run(_Deaf()))
        for channel in channels:
            for number in numbers:
                data = message(number, time.monotonic_ns(), size_bytes=bench.size_bytes)
                published = await broker.publish(Publication(channel, data), DEFAULTS["room"])
            assert published.position is not None
            found.append(published.position)
        await end(running)
    return found


class _Deaf:
    """The `Sink` of a broker that only publishes."""

    def on_event(self, event: object) -> None:
        """Nothing is subscribed."""

    def on_malformed(self, channel: str, reason: str) -> None:
        """Nothing is subscribed."""

    def on_disconnected(self) -> None:
        """Nothing is subscribed."""

    def on_connected(self, *, is_again: bool) -> None:
        """Nothing is subscribed."""


def _wait_for(client: Companion, expected_count: int) -> None:
    deadline_s = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline_s:
        client.send(subscribers.Count())
        if client.receive(int, within_s=_ANSWER_TIMEOUT_S) >= expected_count:
            return
        time.sleep(0.02)


def _time_alone(bench: Bench, port: int) -> float:
    """Return the median time, in ms, from a request to the last missed message, in rooms that were not read before."""
    channels = [f"room:alone-{number}" for number in range(_ALONE_ROOM_COUNT)]
    firsts = asyncio.run(_publish(bench, channels, range(1)))
    asyncio.run(_publish(bench, channels, range(1, _ALONE_MISSED_COUNT + 1)))
    took_ms = []
    for channel, first in zip(channels, firsts, strict=True):
        path = f"/ws/rooms/{channel.removeprefix('room:')}?envelope=1&since={first.offset}&epoch={first.epoch}"
        with socket.create_connection((HOST, port), timeout=_ANSWER_TIMEOUT_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            started_s = time.perf_counter()
            connection.sendall(handshake(path, port))
            heard = b""
            while heard.count(MARK) < _ALONE_MISSED_COUNT:
                heard += connection.recv(_BUFFER_BYTES)
            took_ms.append((time.perf_counter() - started_s) * 1000)
    return median(took_ms)
