"""`roomcast check` succeeds where a node would start and work, and only there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support.command_line import roomcast
from tests.support.processes import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

INFO = b"redis_version:%b\r\nredis_mode:standalone\r\n"


@asynccontextmanager
async def server_of_version(version: bytes) -> AsyncIterator[str]:
    """A server that answers PING and INFO, and OK to anything else; give its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while header := await reader.readline():
            words = []
            for _ in range(int(header[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            info = INFO % version
            replies = {b"PING": b"+PONG\r\n", b"INFO": b"$%d\r\n%b\r\n" % (len(info), info)}
            writer.write(replies.get(words[0], b"+OK\r\n"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


def test_it_prints_settings_with_secrets_masked_and_that_redis_answers(redis_url: str) -> None:
    result = roomcast("check", redis_url=redis_url, api_key="0123456789abcdef", insecure="true", redis_ulr="x", foo="1")

    assert result.returncode == 0
    assert f"ROOMCAST_REDIS_URL={redis_url}\n" in result.stdout
    assert "ROOMCAST_API_KEY=**********\n" in result.stdout
    assert "Redis answers in" in result.stdout
    assert "Valkey" in result.stdout
    assert result.stderr.splitlines() == [
        "ROOMCAST_FOO is set, but no setting has this name",
        "ROOMCAST_REDIS_ULR is set, but no setting has this name; did you mean ROOMCAST_REDIS_URL?",
    ]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({}, "ROOMCAST_SECRET is not set"),
        ({"insecure": "true", "on_connect": "no.such:handler"}, "ROOMCAST_ON_CONNECT: cannot import 'no.such'"),
        ({"insecure": "true", "on_rpc": "json:nothing"}, "ROOMCAST_ON_RPC: 'json:nothing' is not there"),
        ({"public_key_file": "nowhere.pem"}, "ROOMCAST_PUBLIC_KEY_FILE"),
        ({"insecure": "true", "namespaces_file": "nowhere.toml"}, "ROOMCAST_NAMESPACES_FILE"),
        ({"insecure": "true", "secret": "x" * 32}, "ROOMCAST_INSECURE"),
        ({"insecure": "true", "proxy_url": "http://127.0.0.1"}, "ROOMCAST_PROXY_EVENTS"),
    ],
)
def test_what_stops_a_node_stops_the_check_with_the_same_words(
    redis_url: str, settings: dict[str, str], part: str
) -> None:
    checked = roomcast("check", redis_url=redis_url, **settings)
    node = roomcast("node", "--port", "0", redis_url=redis_url, **settings)

    assert (checked.returncode, node.returncode) == (2, 2)
    assert part in checked.stderr
    assert checked.stderr.partition(" (see:")[0] == node.stderr.partition(" (see:")[0]


@pytest.mark.parametrize(("version", "is_too_old"), [(b"5.0.14", True), (b"6.0.20", True), (b"6.2.0", False)])
async def test_a_server_that_is_too_old_is_named(version: bytes, is_too_old: bool) -> None:
    async with server_of_version(version) as url:
        result = await asyncio.to_thread(roomcast, "check", redis_url=url, insecure="true", redis_timeout_s="0.3")

    assert result.returncode == 1
    assert (f"Redis {version.decode()} is too old: 6.2 or newer is needed" in result.stderr) is is_too_old


@pytest.mark.parametrize("command", ["xadd", "publish", "evalsha", "subscribe"])
async def test_a_server_with_which_no_node_could_work_is_an_error(
    client: Redis, redis_url: str, prefix: str, command: str
) -> None:
    user = prefix.removesuffix(":")
    await client.acl_setuser(
        user, enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"], commands=[f"-{command}"]
    )
    url = redis_url.replace("//", f"//{user}:x@")

    result = await asyncio.to_thread(roomcast, "check", redis_url=url, insecure="true")

    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "could not work with this server: Redis refuses a command (NOPERM)" in line


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with a handler in the working directory."""
    (tmp_path / "my_handlers.py").write_text("def on_rpc(event): ...", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("handlers")
def test_handlers_of_the_working_directory_are_found(redis_url: str) -> None:
    result = roomcast("check", redis_url=redis_url, insecure="true", on_rpc="my_handlers:on_rpc")

    assert (result.returncode, result.stderr) == (0, "")


def test_nodes_and_workers_warn_of_variables_that_are_no_settings(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, redis_ulr="x") as cluster:
        worker, node = cluster.start_worker(), cluster.start_node()
        warned = [worker.wait_for("settings.unknown_variable")]
        warned += [line for line in node.log if line["event"] == "settings.unknown_variable"]

    for line in warned:
        assert (line["level"], line["variable"], line["nearest"]) == (
            "warning",
            "ROOMCAST_REDIS_ULR",
            "ROOMCAST_REDIS_URL",
        )
    assert len(warned) == 2
