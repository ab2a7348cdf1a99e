"""The experiment that `roomcast dev` suggests: open the balancer's address, kill a node, miss nothing."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.support.dev_cluster import START_TIMEOUT_S, DevCluster
from tests.support.processes import eventually, http_client

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

ROOM = "promise"


class Subscriber:
    """A client that reconnects with its position, as the documentation says."""

    def __init__(self, address: str) -> None:
        self.received: list[int] = []
        self.connection_count = 0
        self.unrecovered_count = 0
        self._url = f"ws://{address}/ws/rooms/{ROOM}?envelope=1"
        self._since = ""

    async def run(self) -> None:
        while True:
            try:
                async with connect(self._url + self._since, proxy=None, ping_interval=None) as socket:
                    self.connection_count += 1
                    async for frame in socket:
                        self._take(json.loads(frame))
            except (OSError, ConnectionClosed, InvalidHandshake, InvalidMessage):
                await asyncio.sleep(0.01)

    def _take(self, frame: dict[str, object]) -> None:
        if "offset" not in frame:  # a client joined or left
            return
        self._since = f"&since={frame['offset']}&epoch={frame['epoch']}"
        if "data" in frame:
            assert isinstance(frame["data"], int)
            self.received.append(frame["data"])
        elif frame.get("recovered") is False:
            self.unrecovered_count += 1


class Publisher:
    """Publishes 1, 2, 3 ... through the balancer; repeats a failed request with its idempotency key."""

    def __init__(self, address: str, api_key: str) -> None:
        self.count = 0
        self._url = f"http://{address}/api/publish"
        self._headers = {"X-API-Key": api_key}

    async def run(self) -> None:
        async with http_client(headers=self._headers, timeout=5.0, trust_env=False) as http:
            while True:
                await self._publish(http, self.count + 1)
                self.count += 1
                await asyncio.sleep(0.005)

    async def publishes(self, more: int) -> None:
        """Wait until that many more are published."""
        count = self.count + more
        await eventually(lambda: is_more(self.count, count - 1), within_s=START_TIMEOUT_S)

    async def _publish(self, http: httpx.AsyncClient, number: int) -> None:
        body = {"channel": f"room:{ROOM}", "data": number, "idempotency_key": str(number)}
        while True:
            try:
                answer = await http.post(self._url, json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.01)
                continue
            if answer.status_code == 200 and "result" in answer.json():
                return
            assert answer.status_code in {200, 503}, answer.text
            await asyncio.sleep(0.01)


async def test_who_opens_the_balancer_misses_nothing_when_either_node_is_killed() -> None:
    with DevCluster() as dev:
        greeting = await asyncio.to_thread(dev.greeting)
        found = re.search(r"Open this +http://(\S+)/ .*API key +(\S+)", greeting, re.DOTALL)
        assert found is not None
        address, api_key = found.groups()
        subscriber, publisher = Subscriber(address), Publisher(address, api_key)
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(subscriber.run())
            await eventually(lambda: is_more(subscriber.connection_count, 0))
            publishing = group.create_task(publisher.run())
            for number in (1, 2):  # one of them has the subscriber
                await publisher.publishes(30)
                dev.nodes()[number - 1].kill()
                await comes_back(dev, number)
                await uses(dev.nodes()[number - 1], address)
            await publisher.publishes(30)
            publishing.cancel()
            # The last one may be under way: it was published, or it was not.
            await eventually(lambda: is_more(len(subscriber.received), publisher.count - 1))
            listening.cancel()

    assert subscriber.received == list(range(1, len(subscriber.received) + 1))
    assert len(subscriber.received) in {publisher.count, publisher.count + 1}
    assert subscriber.connection_count > 1
    assert subscriber.unrecovered_count == 0


async def comes_back(dev: DevCluster, number: int) -> None:
    port = dev.port + number - 1
    line = rf"^node {number} \(port {port}\) was killed \(SIGKILL\); restarted \(pid (\d+)\)$"
    told = await asyncio.to_thread(dev.wait_for, line)
    assert dev.nodes()[number - 1].pid == int(told[1])


async def uses(node: psutil.Process, address: str) -> None:
    """Wait until a new connection to the balancer is one to the node."""

    async def has_another() -> bool:
        before = clients_of(node)
        async with connect(f"ws://{address}/ws", proxy=None):
            return bool(clients_of(node) - before)

    await eventually(has_another)


def clients_of(node: psutil.Process) -> set[int]:
    """Return the ports of the clients that a node has."""
    connections = node.net_connections("tcp")
    port = next(each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN)
    return {
        each.raddr.port for each in connections if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port
    }


async def is_more(count: int, than: int) -> bool:
    return count > than
