"""HTTP as probes, proxies and caches use it, on a real node."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.processes import API_KEY, Cluster, NodeProcess, http_client

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

STREAMS = (
    ("GET", "/sse/rooms/a"),
    ("GET", "/sse/dashboard-feed"),
    ("GET", '/connection/sse?cf_connect={"id":1,"connect":{}}'),
    ("POST", "/connection/sse"),
    ("POST", "/connection/http_stream"),
)
READS = (
    ("/healthz", 200),
    ("/readyz", 200),
    ("/metrics", 200),
    ("/", 200),
    ("/docs", 200),
    ("/redoc", 200),
    ("/openapi.json", 200),
    ("/web/chat.js", 200),
    ("/static-offline-docs/swagger-ui.css", 200),
    ("/rooms/a/history", 200),
    ("/rooms/a/presence", 200),
    ("/rooms/a/history?limit=x", 400),
    ("/poll/rooms/a?timeout=0", 200),
    ("/sse/rooms/a", 200),
    ("/api/publish", 405),
    ("/nowhere", 404),
    ("/web/nowhere", 404),
)
SOCKETS = ("/ws", "/ws/7", "/ws/rooms/a", "/dashboard-feed", "/connection/websocket")


@pytest.fixture(scope="module")
def node(redis_server: object) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"  # type: ignore[attr-defined]
    with Cluster(url, "http:", keep_alive_s="1") as cluster:
        yield cluster.start_node()


async def head_of(node: NodeProcess, method: str, path: str, **headers: str) -> httpx.Response:
    """Return an answer without its body, which may stream."""
    body = b'{"id":1,"connect":{}}\n' if method == "POST" else None
    async with http_client() as http, http.stream(method, node.http(path), headers=headers, content=body) as answer:
        return answer


@pytest.mark.parametrize(("method", "path"), STREAMS)
async def test_proxies_may_not_compress_streams(node: NodeProcess, method: str, path: str) -> None:
    answer = await head_of(node, method, path)

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store, no-transform")


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()


@pytest.mark.parametrize(("method", "path"), STREAMS)
def test_streams_pass_a_proxy_that_compresses(node: NodeProcess, centrifuge_js: Path, method: str, path: str) -> None:
    command = ["node", str(centrifuge_js / "compressing_proxy.mjs"), str(node.port)]
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert proxy.stdout is not None
    with proxy, ended(proxy), closing(HTTPConnection("127.0.0.1", int(proxy.stdout.readline()), timeout=5)) as client:
        body = '{"id":1,"connect":{}}\n' if method == "POST" else None
        client.request(method, quote(path, safe="/?="), body, {"Accept-Encoding": "gzip"})
        with client.getresponse() as answer:
            assert "content-encoding" not in answer.headers
            if path != "/sse/dashboard-feed":  # silent without its worker
                assert answer.readline()


@pytest.mark.parametrize(("path", "status"), READS)
async def test_head_is_answered_as_get_without_the_body(node: NodeProcess, path: str, status: int) -> None:
    get = await head_of(node, "GET", path)
    async with asyncio.timeout(2), http_client() as http:
        head = await http.head(node.http(path))

    assert (head.status_code, head.content) == (status, b"")
    assert set(head.headers) == set(get.headers) - {"transfer-encoding"}
    assert head.headers.get("content-type") == get.headers.get("content-type")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("*", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
        ("/web/chat.js", "GET, HEAD, OPTIONS"),
        ("/ws/rooms/a", "GET, HEAD, OPTIONS"),
        ("/api/publish", "POST, OPTIONS"),
        ("/connection/sse", "GET, HEAD, POST, OPTIONS"),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_options_names_the_methods_of_an_endpoint(
    node: NodeProcess, path: str, allowed: str, version: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    host = "Host: x\r\nConnection: close\r\n" if version == "1.1" else ""  # HAProxy's has none
    writer.write(f"OPTIONS {path} HTTP/{version}\r\n{host}\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"\r\nallow: {allowed}\r\n" in head.decode() + "\r\n"
    assert body == b""


async def test_a_method_that_an_endpoint_does_not_have_is_refused_with_those_that_it_has(node: NodeProcess) -> None:
    for method, path, allowed in (
        ("DELETE", "/healthz", "GET, HEAD, OPTIONS"),
        ("GET", "/emulation", "POST, OPTIONS"),
        ("POST", "/ws/rooms/a", "GET, HEAD, OPTIONS"),
        ("POST", "/web/chat.js", "GET, HEAD, OPTIONS"),
        ("PUT", "/connection/sse", "GET, HEAD, POST, OPTIONS"),
    ):
        answer = await head_of(node, method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), path
    assert (await head_of(node, "OPTIONS", "/nowhere")).status_code == 404


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}, {"Upgrade": "websocket"}],
)
async def test_a_websocket_endpoint_says_that_the_handshake_is_missing(
    node: NodeProcess, path: str, headers: dict[str, str]
) -> None:
    async with http_client() as http:
        answer = await http.get(node.http(path), headers=headers)
        nowhere = await http.get(node.http(f"{path}/rooms/of/nobody"), headers=headers)

    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert "Upgrade" in answer.json()["detail"]
    assert nowhere.status_code == 404
    with suppress(InvalidStatus):  # a handshake is what it was
        async with node.connect(path):
            pass


@pytest.mark.parametrize("path", ["/nowhere", "/healthz", "/api/publish", "/sse/rooms/a"])
async def test_a_websocket_without_an_endpoint_is_not_found(node: NodeProcess, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await node.connect(path)

    assert refused.value.response.status_code == 404
    assert node.faults() == []


@pytest.mark.parametrize("path", [*(path for path, _ in READS), *SOCKETS, "/healthz/"])
async def test_no_cache_keeps_an_answer(node: NodeProcess, path: str) -> None:
    answer = await head_of(node, "GET", path)

    kept = "no-cache" if path == "/" or path.startswith(("/web/c", "/static-offline-docs/s")) else "no-store"
    assert answer.headers["cache-control"].partition(",")[0] == kept


async def test_no_cache_keeps_an_error_or_a_refused_handshake(node: NodeProcess) -> None:
    for path in ("/ws/rooms/%00", "/ws/rooms/a?envelope=7", "/nowhere"):
        with pytest.raises(InvalidStatus) as refused:
            await node.connect(path)
        assert refused.value.response.headers["cache-control"] == "no-store"
    async with http_client() as http:
        for body, key in (("{", API_KEY), ("{}", API_KEY), ("{}", "wrong")):
            answer = await http.post(node.http("/api/publish"), content=body, headers={"X-API-Key": key})
            assert answer.headers["cache-control"] == "no-store"


def test_an_idle_connection_is_kept_as_long_as_the_setting_says(node: NodeProcess) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as client, client.makefile("rb") as answer:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        while answer.readline() != b"\r\n":
            pass
        assert answer.read(15) == b'{"status":"ok"}'
        client.settimeout(0.8)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        assert client.recv(1) == b""
