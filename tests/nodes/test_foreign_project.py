"""Roomcast in an application's project, which has packages named `service`, `workers` and `tests` itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from websockets.sync.client import connect

from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.processes import DEADLINE_S, bare_environment

COMMAND = str(Path(sys.executable).with_name("roomcast"))
HANDLERS = """
from roomcast import ConnectAnswer, ConnectEvent
from {package} import NAME

async def on_connect(event: ConnectEvent) -> ConnectAnswer:
    return ConnectAnswer(user="ada", data=f'"{{NAME}}"'.encode())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a project with handlers in a module and in its package `service`."""
    for package in ("service", "workers", "tests"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f'NAME = "{package} of the project"\n')
    (tmp_path / "handlers.py").write_text(HANDLERS.format(package="workers"))
    (tmp_path / "service" / "handlers.py").write_text(HANDLERS.format(package="service"))
    return tmp_path


def environment_of(settings: dict[str, str]) -> dict[str, str]:
    return bare_environment() | {f"ROOMCAST_{name.upper()}": value for name, value in settings.items()}


@contextmanager
def running(project: Path, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Run `roomcast ...` in the project; end it, and require that it ends well."""
    with subprocess.Popen(
        [COMMAND, *arguments],
        cwd=project,
        env=environment_of(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=2 * DEADLINE_S)
    assert process.returncode == 0, output


@pytest.mark.redis
@pytest.mark.parametrize(
    ("handler", "data"),
    [
        ("handlers:on_connect", "workers of the project"),
        ("service.handlers:on_connect", "service of the project"),
    ],
)
def test_dev_runs_with_the_project_s_handlers(project: Path, handler: str, data: str) -> None:
    port = free_ports(2)[0]
    with running(project, "dev", "--port", str(port), "--balancer-port", "0", on_connect=handler) as process:
        assert process.stdout is not None
        greeting: list[str] = []
        while "Ctrl-C ends all of it" not in "".join(greeting):
            greeting.append(process.stdout.readline())
            assert greeting[-1], f"it has ended: {greeting}"
        for node in (port, port + 1):
            with connect(f"ws://127.0.0.1:{node}/connection/websocket", proxy=None) as client:
                client.send('{"id": 1, "connect": {}}')
                assert orjson.loads(client.recv(DEADLINE_S))["connect"]["data"] == data
        with connect(f"ws://127.0.0.1:{port}/dashboard-feed", proxy=None) as dashboard:
            assert "cpu_usage" in str(dashboard.recv(timeout=DEADLINE_S)), "the metrics worker runs too"


@pytest.mark.redis
@pytest.mark.parametrize("worker", ["metrics", "ingest"])
def test_a_worker_runs_in_the_project(project: Path, redis_url: str, prefix: str, worker: str) -> None:
    settings = {"redis_url": redis_url, "prefix": prefix}
    deadline_s = time.monotonic() + DEADLINE_S
    with running(project, "worker", worker, **settings):
        while True:
            command = [COMMAND, "worker", worker, "--check"]
            check = subprocess.run(
                command, cwd=project, env=environment_of(settings), capture_output=True, text=True, check=False
            )
            if check.returncode == 0:
                break
            assert time.monotonic() < deadline_s, check.stderr


def test_the_wheel_installs_two_packages_with_all_their_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, tmp_path, ROOT], check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (wheel,) = tmp_path.glob("*.whl")

    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert names == {"roomcast", "roomcast_workers", f"roomcast-{wheel.name.split('-')[1]}.dist-info"}
    assert files == {
        path.relative_to(ROOT / source).as_posix()
        for source in ("service", "workers")
        for path in (ROOT / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
