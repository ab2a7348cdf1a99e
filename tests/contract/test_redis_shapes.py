"""Servers of every shape: each takes writes, fails over, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import until
from tests.support.redis_shapes import SHAPES, Single

pytestmark = pytest.mark.redis


def servers_in(folder: Path) -> Sequence[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if child.is_running() and child.cwd().startswith(str(folder))]


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_shape_takes_writes_and_ends_with_its_block(shape: str, tmp_path: Path) -> None:
    with SHAPES[shape](tmp_path) as servers, servers.client() as client:
        assert client.set("a", "1")
        assert client.get("a") == b"1"
        assert servers_in(tmp_path)

    assert servers_in(tmp_path) == []


def test_a_cluster_has_another_primary_after_a_failover(tmp_path: Path) -> None:
    with Cluster(tmp_path) as servers:
        before = {server.port for server in servers.primaries()}

        servers.failover()

        until(lambda: bool({server.port for server in servers.primaries()} - before), within_s=15.0)
        servers.wait_until_whole()


def test_a_shape_that_does_not_come_about_leaves_no_server_behind(tmp_path: Path) -> None:
    class Broken(Single):
        def _form(self) -> None:
            super()._form()
            raise RuntimeError("not so")

    with pytest.raises(RuntimeError, match="not so"), Broken(tmp_path):
        pass

    assert servers_in(tmp_path) == []
