"""`roomcast dev`, which is `make run`: it starts a cluster, restarts processes that end, and leaves none behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import jwt
import psutil
import pytest
from websockets.sync.client import connect

from tests.support.command_line import assert_one_line, roomcast
from tests.support.dev_cluster import START_TIMEOUT_S, DevCluster
from tests.support.ports import free_ports
from tests.support.processes import bare_environment

pytestmark = pytest.mark.redis


def assert_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


@pytest.mark.parametrize(
    ("number", "is_ignoring_sigint"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)],
)
def test_two_nodes_share_a_room_and_one_signal_ends_every_process(
    number: signal.Signals, is_ignoring_sigint: bool
) -> None:
    with DevCluster(is_ignoring_sigint=is_ignoring_sigint) as dev:
        greeting = dev.greeting()
        balancer, *nodes = re.findall(r"http://(127.0.0.1:\d+)/ ", greeting)
        assert nodes == [f"127.0.0.1:{dev.port}", f"127.0.0.1:{dev.port + 1}"]
        assert re.findall(r"pid (\d+)", greeting) == [str(node.pid) for node in dev.nodes()]
        assert f"kill -9 {dev.nodes()[0].pid}\n" in greeting
        family = dev.family()
        assert len(family) == 4  # Redis, two nodes, the worker
        with (
            connect(f"ws://{nodes[0]}/ws/rooms/lobby", proxy=None) as ada,
            connect(f"ws://{nodes[1]}/ws/rooms/lobby", proxy=None) as bob,
            connect(f"ws://{balancer}/ws/rooms/lobby", proxy=None) as eve,
            connect(f"ws://{balancer}/dashboard-feed", proxy=None) as dashboard,
        ):
            ada.send("hi")
            assert bob.recv(timeout=START_TIMEOUT_S) == "hi"
            assert eve.recv(timeout=START_TIMEOUT_S) == "hi"
            with connect(f"ws://{balancer}/connection/websocket", proxy=None) as news:
                news.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"news"}}')  # without a namespace
                assert "subscribe" in str(news.recv(timeout=START_TIMEOUT_S)) + str(news.recv(timeout=START_TIMEOUT_S))
            assert "cpu_usage" in str(dashboard.recv(timeout=START_TIMEOUT_S))

            if number is signal.SIGINT:
                os.killpg(dev.process.pid, number)  # as a terminal does: to every process of the group
            else:
                dev.process.send_signal(number)
            assert dev.end() == 0

    assert dev.output.removeprefix(greeting).split() == ["Ending", "..."]
    assert_gone(family)


def test_each_run_has_a_secret_with_which_the_greeting_s_command_makes_tokens() -> None:
    with DevCluster() as dev:
        found = re.search(r"export (ROOMCAST_SECRET)=([0-9a-f]{64})\n +\S+ (token --user 42)\n", dev.greeting())
        assert found is not None
        name, secret, command = found.groups()
        environments = [node.environ() for node in dev.nodes()]

    made = subprocess.run(
        [sys.executable, "-m", "roomcast", *command.split()],
        env=bare_environment() | {name: secret},
        capture_output=True,
        text=True,
        check=True,
    )
    assert jwt.decode(made.stdout.strip(), secret, algorithms=["HS256"])["sub"] == "42"
    assert [environment["ROOMCAST_SECRET"] for environment in environments] == [secret, secret]
    assert [environment["ROOMCAST_ANONYMOUS"] for environment in environments] == ["true", "true"]


@pytest.mark.parametrize(
    "settings", [{"ROOMCAST_INSECURE": "true"}, {"ROOMCAST_SECRET": "s3cret" * 8, "ROOMCAST_ANONYMOUS": "false"}]
)
def test_a_run_takes_what_is_set_and_shows_no_secret_of_it(settings: dict[str, str]) -> None:
    with DevCluster(settings) as dev:
        greeting = dev.greeting()
        environment = dev.nodes()[0].environ()

    assert "ROOMCAST_SECRET" not in greeting
    for name in ("ROOMCAST_SECRET", "ROOMCAST_ANONYMOUS"):
        assert environment.get(name) == settings.get(name)
    assert ("node.insecure" in greeting) is ("ROOMCAST_INSECURE" in settings)


def test_ports_in_use_are_one_line_with_options_that_help() -> None:
    port = free_ports(2)[0]
    with socket.create_server(("127.0.0.1", port + 1)), socket.create_server(("127.0.0.1", 0)) as other:
        other_port = other.getsockname()[1]
        options = ["dev", "--port", str(port), "--balancer-port"]
        one = f"roomcast: port {port + 1} is in use; "
        assert_one_line(roomcast(*options, "0"), 1, one, f" dev --port {port + 100}\n")
        both = f"ports {port + 1}, {other_port} are in use"
        assert_one_line(roomcast(*options, str(other_port)), 1, both, f"--balancer-port {other_port + 100}\n")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1 port 8000: Cannot assign"),
        (["--host", "nowhere.invalid"], "cannot listen on nowhere.invalid port 8000: "),
    ],
)
def test_an_address_that_is_not_of_this_machine_is_one_line(options: list[str], part: str) -> None:
    assert_one_line(roomcast("dev", *options), 1, part, "--host")


@pytest.mark.parametrize("options", [["--port", "65535"], ["--balancer-port", "8001"]])
def test_ports_that_cannot_be_are_wrong_use(options: list[str]) -> None:
    assert_one_line(roomcast("dev", *options), 2, "(see: roomcast dev --help)")


class Ready(BaseHTTPRequestHandler):
    """Answers as a node does that is ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_process_that_takes_a_port_meanwhile_is_not_taken_for_a_node() -> None:
    with DevCluster() as dev:
        wait_until(lambda: any("valkey" in child.name() for child in dev.family()))  # the ports were free until then
        with HTTPServer(("127.0.0.1", dev.port), Ready) as intruder:
            Thread(target=intruder.serve_forever, daemon=True).start()
            code = dev.end()
            intruder.shutdown()

    assert code == 1
    assert "is running" not in dev.output
    assert f"node 1 (port {dev.port}) ended (exit code 1)\n" in dev.output


STEPS: dict[str, Callable[[DevCluster], bool]] = {
    "Redis starts": lambda dev: len(dev.family()) > 0,
    "a node starts": lambda dev: len(dev.family()) > 1,
    "all have started": lambda dev: len(dev.family()) == 4,
}


@pytest.mark.parametrize("step", STEPS)
def test_a_signal_while_it_starts_ends_all_of_it_without_a_complaint(step: str) -> None:
    with DevCluster() as dev:
        wait_until(lambda: STEPS[step](dev))
        family = dev.family()
        dev.process.send_signal(signal.SIGINT)
        assert dev.end() == 0

    assert dev.output.split() == ["Ending", "..."]
    assert_gone(family)


def test_the_worker_is_restarted() -> None:
    with DevCluster() as dev:
        dev.greeting()
        worker = dev.child("worker metrics")
        worker.kill()
        told = dev.wait_for(r"^the metrics worker was killed \(SIGKILL\); restarted \(pid (\d+)\)$")
        assert dev.child("worker metrics").pid == int(told[1]) != worker.pid


def test_redis_is_restarted_with_its_data() -> None:
    with DevCluster() as dev:
        url = re.search(r"Redis +(\S+)", dev.greeting())
        assert url is not None
        settings = {"redis_url": url[1]}
        assert "at offset 1;" in roomcast("publish", "room:a", "1", **settings).stdout
        dev.child("valkey-server").kill()
        told = dev.wait_for(r"^Redis \(port \d+\) was killed \(SIGKILL\); restarted with its data \(pid (\d+)\)$")
        assert dev.child("valkey-server").pid == int(told[1])
        # Not 1 again: the data is there. After a start of Redis the offsets continue at a distance.
        assert re.search(r"at offset \d{10,13};", roomcast("publish", "room:a", "2", **settings).stdout)


def test_a_node_that_dies_at_once_again_and_again_ends_all_of_it_with_its_exit_code(tmp_path: Path) -> None:
    handlers = tmp_path / "handlers.py"
    handlers.write_text("def on_rpc(request): ...")
    with DevCluster({"ROOMCAST_ON_RPC": "handlers:on_rpc", "PYTHONPATH": str(tmp_path)}) as dev:
        dev.greeting()
        family = dev.family()
        handlers.write_text("import os; os._exit(7)")
        dev.nodes()[1].kill()
        assert dev.end() == 7

    name = f"node 2 (port {dev.port + 1})"
    assert f"{name} ended (exit code 7) before it was ready; next start in 0.5 s\n" in dev.output
    assert dev.output.endswith(f"roomcast: {name} ended (exit code 7), at once after each of 5 restarts; giving up\n")
    assert_gone(family)


def test_a_node_that_cannot_start_ends_all_of_it_with_its_exit_code() -> None:
    with DevCluster({"ROOMCAST_ON_RPC": "nowhere:on_rpc"}) as dev:
        assert dev.end() == 2

    assert "nowhere" in dev.output
    assert dev.output.endswith(f"roomcast: node 1 (port {dev.port}) ended (exit code 2)\n")
    assert "is running" not in dev.output


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_nothing_is_left_of_it_when_it_is_killed() -> None:
    """Also of what it has restarted; all of it ends as on SIGTERM."""
    with DevCluster() as dev:
        dev.greeting()
        dev.child("metrics").kill()
        dev.wait_for("the metrics worker was killed .*; restarted")
        family = dev.family()
        assert len(family) == 4

        dev.process.kill()

        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
        dev.end()
