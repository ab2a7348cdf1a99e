"""The nodes embedded under another ASGI server: what `transports.websocket.portable` is kept for."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from hypercorn.asyncio import serve
from hypercorn.config import Config
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from roomcast.app import create_app
from roomcast.config import Settings
from roomcast.web.client_server import ClientServer
from roomcast.web.state import find_in
from tests.support.processes import eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


class Embedded:
    """A node in an application of its own."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.stopping = asyncio.Event()
        self.port = 0

    def open(self, path: str) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, compression=None)

    async def is_ready(self) -> bool:
        async with http_client() as client:
            return (await client.get(f"http://127.0.0.1:{self.port}/readyz")).is_success

    async def until_stopping(self) -> None:
        """Wait for the end, then close the clients, as `roomcast node` does on SIGTERM: hypercorn would cut them."""
        await self.stopping.wait()
        find_in(self.app, ClientServer).node.drain()


@asynccontextmanager
async def embedded(redis_url: str, prefix: str) -> AsyncIterator[Embedded]:
    settings = Settings(redis_url=redis_url, prefix=prefix, insecure=True)
    node = Embedded(create_app(settings, node_id="embedded", on_failure=lambda: None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        node.port = listener.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.graceful_timeout = 5.0
        running = asyncio.create_task(serve(node.app, config, shutdown_trigger=node.until_stopping))  # type: ignore[arg-type]  # Starlette's types
        try:
            await eventually(node.is_ready)
            yield node
        finally:
            node.stopping.set()
            await running


async def reply(client: ClientConnection) -> Any:
    return json.loads(await receive(client))


async def test_clients_under_another_server_receive_publications_and_the_shutdown(
    redis_url: str, prefix: str, client: Redis
) -> None:
    async with embedded(redis_url, prefix) as node:
        plain = await node.open("/ws/rooms/a")
        centrifuge = await node.open("/connection/websocket")
        await centrifuge.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"room:a"}}')
        assert (await reply(centrifuge))["connect"]["client"]
        assert "subscribe" in await reply(centrifuge)

        await client.publish(f"{prefix}room:a", '{"text":"from a service"}')
        assert await receive(plain) == '{"text":"from a service"}'
        push = await reply(centrifuge)
        await plain.send("from a client")
        assert await receive(plain) == "from a client"
        pushed = (await reply(centrifuge))["push"]["pub"]

        node.stopping.set()
        await asyncio.wait_for(asyncio.gather(plain.wait_closed(), centrifuge.wait_closed()), 5)

    assert push["push"]["pub"]["data"] == {"text": "from a service"}
    assert (pushed["data"], pushed["offset"]) == ("from a client", 1)
    assert [(each.close_code, each.close_reason) for each in (plain, centrifuge)] == [(3001, "shutdown")] * 2


async def test_probes_and_caches_are_answered_under_another_server(redis_url: str, prefix: str) -> None:
    async with embedded(redis_url, prefix) as node, http_client() as http:
        start = f"http://127.0.0.1:{node.port}"
        for method, path, status in (
            ("GET", "/readyz", 200),
            ("HEAD", "/readyz", 200),
            ("HEAD", "/sse/rooms/a", 200),
            ("OPTIONS", "/", 200),
            ("GET", "/ws/rooms/a", 426),
            ("GET", "/nowhere", 404),
        ):
            answer = await http.request(method, start + path)
            assert answer.status_code == status, path
            assert answer.headers["cache-control"].startswith("no-store")
            assert bool(answer.content) is (method == "GET")
        with pytest.raises(InvalidStatus) as refused:
            await node.open("/ws/rooms/%00")
        assert refused.value.response.headers["cache-control"] == "no-store"
