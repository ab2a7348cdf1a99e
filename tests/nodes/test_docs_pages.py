"""The pages of the HTTP API, and paths below a proxy's prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from starlette.routing import Mount, Route, WebSocketRoute

from roomcast.app import _ROUTERS, create_app
from roomcast.config import Settings
from roomcast.config_types import OWN_PATHS
from tests.support.processes import Cluster, NodeProcess, http_client

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PATHS = (
    ("/healthz", 200),
    ("/", 200),
    ("/docs", 200),
    ("/redoc", 200),
    ("/web/chat.js", 200),
    ("/static-offline-docs/swagger-ui.css", 200),
    ("/rooms/a/history", 200),
    ("/poll/rooms/a?timeout=0", 200),
    ("/api/publish", 405),
    ("/nowhere", 404),
    ("/web/nowhere", 404),
    ("/ws/rooms/a", 426),
    ("/connection/websocket", 426),
)


@pytest.fixture(scope="module")
def node(redis_server: object) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"  # type: ignore[attr-defined]
    with Cluster(url, "pages:", root_path="/rt/") as cluster:
        yield cluster.start_node()


async def test_the_pages_load_below_any_prefix_that_a_proxy_strips(node: NodeProcess) -> None:
    async with http_client() as http:
        for page in ("/docs", "/redoc", "/"):
            text = (await http.get(node.http(page))).text
            found = re.findall(r"""(?:src|href|spec-url)="([^"#]+)"|url: '([^']+)'""", text)
            references = [one or other for one, other in found if not one.startswith("data:")]
            assert len(references) >= 3, page
            for reference in references:
                url = urljoin(f"http://app.test/rt{page}", reference)
                assert url.startswith("http://app.test/rt/"), reference
                answer = await http.get(node.http(url.removeprefix("http://app.test/rt")))
                assert answer.status_code == 200, reference
        assert b"https://cdn." not in (await http.get(node.http("/static-offline-docs/redoc.standalone.js"))).content


@pytest.mark.parametrize("start", ["", "/rt"], ids=["stripped", "not stripped"])
async def test_everything_is_found_below_the_prefix_of_the_settings(node: NodeProcess, start: str) -> None:
    async with node.connect(f"{start}/ws") as echo, http_client() as http:
        await echo.send("x")
        assert await echo.recv() == "Message received: x"
        for path, status in PATHS:
            assert (await http.get(node.http(start + path))).status_code == status, path
        assert (await http.get(node.http(f"{start}/openapi.json"))).json()["servers"] == [{"url": "/rt"}]
        assert (await http.options(node.http(f"{start}/healthz"))).status_code == 200
        redirect = await http.get(node.http(f"{start}/docs/"))
        assert redirect.headers["location"] == node.http("/rt/docs")


def test_the_paths_of_the_nodes_are_known_to_the_settings() -> None:
    app = create_app(Settings(insecure=True), node_id="n", on_failure=lambda: None)
    routes = [*app.routes, *(route for router in _ROUTERS for route in router.routes)]
    paths = [route.path for route in routes if isinstance(route, Route | WebSocketRoute | Mount)]

    assert {path.split("/")[1] for path in paths} - {""} == OWN_PATHS
