"""The server API as a client of maps calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import API_KEY, Cluster, NodeProcess, http_client


class MapApi:
    """Calls methods of one node."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(self, method: str, channel: str, **wanted: Any) -> Any:
        """Return the result of a method."""
        answer = await self.answer(method, {"channel": channel, **wanted})
        assert list(answer) == ["result"], answer
        return answer["result"]

    async def error(self, method: str, **wanted: Any) -> int:
        """Return the code of the error of a method."""
        answer = await self.answer(method, wanted)
        assert list(answer) == ["error"], answer
        code: int = answer["error"]["code"]
        return code

    async def answer(self, method: str, wanted: Any) -> Any:
        response = await self.client.post(f"/api/{method}", json=wanted)
        assert response.status_code == 200
        return response.json()

    async def entries(self, channel: str, **wanted: Any) -> list[Any]:
        """Return entries without their times."""
        found: list[Any] = (await self("map_read_state", channel, **{"limit": -1, **wanted})).get("entries", [])
        return [{name: value for name, value in entry.items() if name != "time"} for entry in found]


NAMESPACES = """
[short]
type = "map"
map = {mode = "persistent", max_keys = 3}
history_size = 3
history_ttl_s = 60

[seen]
type = "map"
map = {mode = "persistent"}
presence = true

[brief]
type = "map"
map = {mode = "recoverable", key_ttl_s = 0.1}
"""


@contextmanager
def map_node(redis_port: int, folder: Path, prefix: str) -> Iterator[NodeProcess]:
    """Run a node with NAMESPACES; its values have at most 1,000 bytes."""
    file = folder / "namespaces.toml"
    file.write_text(NAMESPACES)
    settings = {"namespaces_file": str(file), "max_message_bytes": "1000"}
    with Cluster(f"redis://127.0.0.1:{redis_port}/0", prefix, **settings) as cluster:
        yield cluster.start_node()
        assert cluster.nodes[0].faults() == []


@asynccontextmanager
async def map_api(node: NodeProcess) -> AsyncIterator[MapApi]:
    """Return the API of a node."""
    async with http_client(base_url=node.http(""), headers={"X-API-Key": API_KEY}, timeout=30) as client:
        yield MapApi(client)
