"""The examples of docs/applications.md, executed unchanged: only ports are those of the test."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from roomcast.hooks.interface import Caller
from roomcast.hooks.webhook_sender import sign
from tests.support.bare_machine import missing
from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.processes import Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SECRET = "0123456789abcdef0123456789abcdef"
ADA = {"Cookie": "session=ada"}


def example(language: str, containing: str) -> str:
    """Return the page's one code block of this language with this in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "applications.md").read_text(), re.DOTALL)
    block: str
    (block,) = [block for block in blocks if containing in block]
    return block


def settings_in(text: str, *, port: int = 0) -> dict[str, str]:
    """Return the exports of an example, as settings of a test's cluster."""
    exported = re.findall(r"ROOMCAST_(\w+)=(\S+)", text)
    assert exported
    return {name.lower(): value.replace(":3000", f":{port}") for name, value in exported}


class Client:
    """A client of the Centrifuge protocol, by hand."""

    def __init__(self, node: NodeProcess, headers: dict[str, str]) -> None:
        self._connecting = connect(
            node.ws("/connection/websocket"), additional_headers=headers, compression=None, proxy=None
        )
        self._id = 0

    async def __aenter__(self) -> Client:
        self._socket = await self._connecting
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()

    async def ask(self, **command: Any) -> dict[str, Any]:  # Any: JSON
        self._id += 1
        await self._socket.send(orjson.dumps({"id": self._id, **command}).decode())
        while True:
            for line in str(await receive(self._socket)).splitlines():
                reply: dict[str, Any] = orjson.loads(line)
                if reply.get("id") == self._id:
                    return reply


async def assert_the_application_takes_part(node: NodeProcess) -> None:
    async with Client(node, ADA) as ada:
        connected = (await ada.ask(connect={}))["connect"]
        assert "room:news" in connected["subs"]
        assert (await ada.ask(rpc={"method": "add", "data": [1, 2, 3]}))["rpc"] == {"data": 6}
        assert (await ada.ask(rpc={"method": "x"}))["error"] == {"code": 404, "message": "no such procedure"}
    async with Client(node, {}) as nobody:
        with pytest.raises(ConnectionClosed) as closed:
            await nobody.ask(connect={})
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4501, "log in first")


async def assert_plain_clients_are_decided_about(node: NodeProcess) -> None:
    async with http_client() as http:
        assert (await http.get(node.http("/poll/rooms/news"), headers=ADA)).status_code == 200
        refused = await http.get(node.http("/poll/rooms/news"))
        assert (refused.status_code, refused.json()["error"]) == (403, {"code": 4501, "message": "log in first"})
    async with plain(node, {}) as nobody:
        with pytest.raises(ConnectionClosed) as closed:
            await receive(nobody)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4501, "log in first")


def plain(node: NodeProcess, headers: dict[str, str]) -> connect:
    return connect(node.ws("/ws/rooms/news"), additional_headers=headers, compression=None, proxy=None)


async def test_handlers_in_python(redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "handlers.py").write_text(example("python", "# handlers.py"))
    settings = settings_in(example("sh", "ROOMCAST_ON_CONNECT"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    with Cluster(redis_url, prefix, secret=SECRET, **settings) as cluster:
        node = cluster.start_node()
        await assert_the_application_takes_part(node)
        async with Client(node, ADA) as ada:
            await ada.ask(connect={})
            await ada.ask(subscribe={"channel": "room:a", "recover": True})
            assert (await ada.ask(publish={"channel": "room:a", "data": "hi"}))["publish"] == {}
            refused = await ada.ask(publish={"channel": "room:a", "data": "spam"})
            assert refused["error"] == {"code": 400, "message": "no spam"}
            history = (await ada.ask(history={"channel": "room:a", "limit": 10}))["history"]
        assert [one["data"] for one in history["publications"]] == [{"from": "ada", "text": "hi"}]
        await assert_plain_clients_are_decided_about(node)
        async with plain(node, ADA) as ada:
            for text in ("spam", '"spam"', "hello", '"hello"'):
                await ada.send(text)
            assert [await receive(ada) for _ in range(2)] == ['{"from":"ada","text":"hello"}'] * 2
        assert node.faults() == []


async def test_a_node_with_a_handler_that_is_not_there_refuses_to_start(redis_url: str, prefix: str) -> None:
    command = [sys.executable, "-m", "roomcast", "node", "--port", "0"]
    environment = {**os.environ, "ROOMCAST_ON_RPC": "nowhere:on_rpc", "ROOMCAST_INSECURE": "true"}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "ROOMCAST_ON_RPC: cannot import 'nowhere'" in done.stderr


@contextmanager
def running(command: list[str], directory: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, cwd=directory, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def uvicorn(name: str, source: str, directory: Path, port: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    (directory / f"{name}.py").write_text(source)
    command = [sys.executable, "-m", "uvicorn", f"{name}:app", "--port", str(port), "--no-access-log"]
    with running(command, directory, **environment) as process:
        yield process


async def post(url: str, body: bytes, signature: str) -> int:
    """Return the status."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        headers = {b"X-Roomcast-Signature": signature.encode("latin-1")}
        return (await http.post(url, content=body, headers=headers)).status_code


async def until_listening(url: str) -> None:
    async def answers() -> bool:
        try:
            return await post(url, b"{}", "") > 0
        except httpx.HTTPError:
            return False

    await eventually(answers)


async def test_an_application_over_http(redis_url: str, prefix: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = settings_in(example("sh", "ROOMCAST_PROXY_URL"), port=port)
    with uvicorn("app", example("python", "# app.py"), tmp_path, port):
        await until_listening(f"http://127.0.0.1:{port}/roomcast/connect")
        with Cluster(redis_url, prefix, secret=SECRET, **settings) as cluster:
            node = cluster.start_node()
            await assert_the_application_takes_part(node)
            await assert_plain_clients_are_decided_about(node)
            assert node.faults() == []


async def test_webhooks_reach_the_receiver_in_python(redis_url: str, prefix: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/webhooks"
    source = example("python", "# receiver.py")
    with uvicorn("receiver", source, tmp_path, port, ROOMCAST_WEBHOOK_SECRET=SECRET) as receiver:
        await until_listening(url)
        await assert_receiver(receiver, url, redis_url, prefix)


async def test_webhooks_reach_the_receiver_in_javascript(redis_url: str, prefix: str, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        missing("Node.js is not installed")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/webhooks"
    (tmp_path / "receiver.mjs").write_text(example("javascript", "// receiver.mjs"))
    environment = {"ROOMCAST_WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    with running(["node", "receiver.mjs"], tmp_path, **environment) as receiver:
        await until_listening(url)
        await assert_receiver(receiver, url, redis_url, prefix)


async def assert_receiver(receiver: subprocess.Popen[str], url: str, redis_url: str, prefix: str) -> None:
    now_s, body = int(time.time()), b'{"events":[]}'
    assert await post(url, body, sign(body, SECRET, time_s=now_s)) < 300
    for signature in (
        "",
        "t,v1",
        f"t={now_s},v1=ö",
        sign(body, SECRET, time_s=now_s - 330),
        sign(body, SECRET, time_s=now_s + 330),
        sign(body + b" ", SECRET, time_s=now_s),
        sign(body, SECRET[::-1], time_s=now_s),
    ):
        assert await post(url, body, signature) == 401, signature
    settings = {"webhook_url": url, "webhook_secret": SECRET, "insecure": "true"}
    with Cluster(redis_url, prefix, **settings) as cluster:
        node = cluster.start_node()
        cluster.start_worker("webhooks")
        async with Client(node, {}) as nobody:
            client = (await nobody.ask(connect={}))["connect"]["client"]
            await nobody.ask(subscribe={"channel": "room:a"})
            told = [await line_of(receiver) for _ in range(2)]
        told += [await line_of(receiver) for _ in range(2)]
    assert sorted(told[:2]) == sorted([f"connect {client}", "occupied room:a"])
    assert sorted(told[2:]) == sorted([f"disconnect {client}", "vacated room:a"])


async def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(15):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


def test_handlers_of_maps_answer_as_their_comments_say(tmp_path: Path) -> None:
    file = tmp_path / "map_handlers.py"
    file.write_text(example("python", "on_map_publish"))
    names = runpy.run_path(str(file))
    ada = Caller("n1-7", "websocket", user="ada")
    set_seat = names["MapPublishEvent"](ada, "state:seats-1", "7")
    free_seat = names["MapRemoveEvent"](ada, "state:seats-1", "7")

    assert asyncio.run(names["on_map_publish"](set_seat)).key_mode is names["KeyMode"].IF_NEW
    assert asyncio.run(names["on_map_publish"](set_seat._replace(channel="state:board"))).tags == {"by": "ada"}
    with pytest.raises(names["ApplicationError"]):
        asyncio.run(names["on_map_remove"](free_seat))
    asyncio.run(names["on_map_remove"](free_seat._replace(channel="state:board")))
