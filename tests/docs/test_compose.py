"""The compose project, as a user runs it: built, started with three nodes, used through the balancer."""

from __future__ import annotations

import faulthandler
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.paths import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker")]

COMPOSE_FILE = ROOT / "compose.yaml"
NODE_COUNT = 3
CLIENT_COUNT = 12
# The balancer chooses at random: that this many leave a node out happens once in 10^10 runs.
MAX_CLIENT_COUNT = 60
DEADLINE_S = 20.0
# Images are pulled and packages downloaded where nothing is cached yet.
BUILD_DEADLINE_S = 600.0

LOBBY = "/ws/rooms/lobby"
# Without urllib.request, which would ask a proxy of the environment.
READ_METRICS = (
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000); c.request('GET', '/metrics'); "
    "print(c.getresponse().read().decode())"
)


def run(*command: str, environment: dict[str, str] | None = None, timeout_s: float = 60.0) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Project:
    """One run of compose.yaml under a name of its own, isolated from other containers of the machine."""

    name: str
    port: int
    api_key: str
    secret: str

    def compose(self, *arguments: str, timeout_s: float = 60.0) -> str:
        # No .env file, override or variable of this shell may change the project.
        ours = ("ROOMCAST_", "COMPOSE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment["ROOMCAST_PORT"] = f"127.0.0.1:{self.port}"
        environment["ROOMCAST_API_KEY"] = self.api_key
        environment["ROOMCAST_SECRET"] = self.secret
        options = ["-p", self.name, "--env-file", os.devnull, "-f", str(COMPOSE_FILE)]
        return run("docker", "compose", *options, *arguments, environment=environment, timeout_s=timeout_s)

    def up(self, *options: str, node_count: int = NODE_COUNT) -> None:
        self.compose("up", "-d", "--wait", "--scale", f"node={node_count}", *options, timeout_s=BUILD_DEADLINE_S)

    def logs(self, *services: str) -> str:
        # Compose 2.26 begins some lines with "erase this line" in spite of --ansi.
        return self.compose("logs", "--no-color", "--no-log-prefix", *services).replace("\x1b[2K", "")

    def connect(self, path: str) -> ClientConnection:
        uri = f"ws://127.0.0.1:{self.port}{path}"
        return connect(uri, proxy=None, compression=None, ping_interval=None, open_timeout=DEADLINE_S)

    def client_counts(self) -> Counter[str]:
        """Return how many WebSockets each running node holds, by container."""
        counts: Counter[str] = Counter()
        for node in self.compose("ps", "-q", "node").split():
            metrics = run("docker", "exec", node, "python", "-c", READ_METRICS)
            found = re.search(r'^roomcast_connections\{transport="websocket"\} (\S+)$', metrics, re.MULTILINE)
            assert found, metrics
            counts[node] = int(float(found[1]))
        return counts

    def spread_clients(self, stack: ExitStack) -> tuple[list[ClientConnection], Counter[str]]:
        """Open clients in the lobby until every node has one; return them, and how many each node has."""
        clients: list[ClientConnection] = []
        while True:
            clients.extend(stack.enter_context(self.connect(LOBBY)) for _ in range(CLIENT_COUNT))
            # Clients of an earlier test may still be on their way out.
            wait_until(lambda: sum(self.client_counts().values()) == len(clients), "only this test's clients are there")
            counts = self.client_counts()
            if min(counts.values()) > 0:
                return clients, counts
            assert len(clients) < MAX_CLIENT_COUNT, f"the balancer does not reach every node: {counts}"

    def request(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:  # Any: JSON
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def publish(self, channel: str, data: object, **headers: str) -> tuple[int, Any]:  # Any: JSON
        headers["X-API-Key"] = self.api_key
        return self.request("POST", "/api/publish", {"channel": channel, "data": data}, **headers)


def new_project() -> Project:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return Project(f"roomcast-test-{secrets.token_hex(4)}", port, secrets.token_hex(16), secrets.token_hex(32))


@pytest.fixture(scope="module")
def project(docker: None) -> Iterator[Project]:
    # pytest's dump of all stacks is for tests that hang; the first build may take longer, and has its own deadline.
    faulthandler.cancel_dump_traceback_later()
    project = new_project()
    try:
        try:
            project.up("--build")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{project.logs()[-8000:]}") from None
        yield project
    finally:
        project.compose("down", "-v", "--remove-orphans", "--rmi", "local", "--timeout", "5", timeout_s=120.0)


def received(clients: list[ClientConnection]) -> list[str | bytes]:
    return [client.recv(timeout=DEADLINE_S) for client in clients]


def test_compose_file_is_valid_publishes_one_port_and_holds_no_secret() -> None:
    project = Project("roomcast-test", 8080, api_key="", secret="")

    config = json.loads(project.compose("config", "--format", "json"))

    services = config["services"]
    assert set(services) == {"redis", "node", "worker", "ingest", "balancer"}
    assert [name for name, service in services.items() if service.get("ports")] == ["balancer"]
    assert services["node"]["environment"]["ROOMCAST_API_KEY"] == ""
    assert services["node"]["environment"]["ROOMCAST_SECRET"] == ""
    assert all(service.get("healthcheck") and service.get("restart") for service in services.values())


def test_without_a_secret_compose_says_how_to_make_one() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ROOMCAST_", "COMPOSE_"))}
    command = ["docker", "compose", "--env-file", os.devnull, "-f", str(COMPOSE_FILE), "config", "--quiet"]

    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert refused.returncode != 0
    assert "ROOMCAST_SECRET=`openssl rand -hex 32` >> .env" in refused.stderr
    run(*command, environment=environment | {"ROOMCAST_SECRET": "", "ROOMCAST_INSECURE": "true"})


def test_nodes_have_the_secret_and_let_clients_without_a_token_in() -> None:
    config = json.loads(
        Project("roomcast-test", 8080, api_key="", secret="x" * 32).compose("config", "--format", "json")
    )

    nodes = config["services"]["node"]["environment"]
    assert (nodes["ROOMCAST_SECRET"], nodes["ROOMCAST_ANONYMOUS"], nodes["ROOMCAST_INSECURE"]) == ("x" * 32, "true", "")
    assert all(
        "ROOMCAST_SECRET" not in service.get("environment", {})
        for name, service in config["services"].items()
        if name != "node"
    )


def test_chat_reaches_every_client_on_all_three_nodes(project: Project) -> None:
    with ExitStack() as stack:
        clients, counts = project.spread_clients(stack)

        clients[0].send("hello")

        assert received(clients) == ["hello"] * len(clients)
        assert len(counts) == NODE_COUNT


def test_plain_redis_publish_reaches_every_client(project: Project) -> None:
    with ExitStack() as stack:
        clients, counts = project.spread_clients(stack)

        taken = project.compose("exec", "-T", "redis", "redis-cli", "PUBLISH", "roomcast:room:lobby", '{"text":"hi"}')

        assert received(clients) == ['{"text":"hi"}'] * len(clients)
        assert int(taken) == len(counts)


def test_an_entry_of_the_ingest_stream_reaches_every_client(project: Project) -> None:
    with ExitStack() as stack:
        clients, _ = project.spread_clients(stack)

        entry = ["channel", "room:lobby", "data", '{"text":"hi"}']
        project.compose("exec", "-T", "redis", "redis-cli", "XADD", "roomcast:ingest", "*", *entry)

        assert received(clients) == ['{"text":"hi"}'] * len(clients)


def test_dashboard_feed_counts_all_three_nodes(project: Project) -> None:
    with project.connect("/dashboard-feed") as client:
        deadline_s = time.monotonic() + DEADLINE_S
        sample = json.loads(client.recv(timeout=DEADLINE_S))
        # The newest sample kept may be from before the last node came, or this client.
        while (sample["nodes"], sample["active_users"]) != (NODE_COUNT, 1):
            assert time.monotonic() < deadline_s, sample
            sample = json.loads(client.recv(timeout=DEADLINE_S))

    assert 0 <= sample["cpu_usage"] <= 100
    assert 0 < sample["memory_usage"] <= 100
    assert sample["response_time"] > 0


@pytest.mark.parametrize("offer", [{}, {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}])
def test_server_api_publishes_through_the_balancer(project: Project, offer: dict[str, str]) -> None:
    with project.connect(LOBBY) as client:
        answer = project.publish("room:lobby", {"text": "from a service"}, **offer)

        assert (answer[0], set(answer[1]["result"])) == (200, {"offset", "epoch"})
        assert client.recv(timeout=DEADLINE_S) == '{"text":"from a service"}'


def test_server_api_refuses_a_wrong_key(project: Project) -> None:
    body = {"channel": "room:lobby", "data": "x"}

    status, _ = project.request("POST", "/api/publish", body, **{"X-API-Key": "x" * 32})

    assert status == 401


def test_event_stream_passes_the_balancer_unbuffered(project: Project) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", project.port, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/sse/rooms/lobby")
        with connection.getresponse() as events:
            project.publish("room:lobby", 1)
            line = b""
            while line != b"data: 1\n":  # after its id, the position and the joins
                line = events.readline()
                assert line, "the stream has ended"
    finally:
        connection.close()


def test_no_log_holds_a_query_string(project: Project) -> None:
    secret, room = secrets.token_hex(8), secrets.token_hex(8)
    with project.connect(f"/ws/rooms/{room}?token={secret}"):
        pass
    project.request("GET", f"/no-such-page/{room}?token={secret}")

    wait_until(lambda: project.logs("balancer").count(room) == 2, "both requests are in the balancer's log")

    assert secret not in project.logs()


def test_nodes_and_workers_log_json_and_no_errors(project: Project) -> None:
    entries = [json.loads(line) for line in project.logs("node", "worker", "ingest").splitlines()]

    assert entries
    assert [entry for entry in entries if entry["level"] in ("error", "critical")] == []


def test_added_node_gets_clients_without_a_reload(project: Project) -> None:
    project.up(node_count=NODE_COUNT + 1)
    try:
        with ExitStack() as stack:
            _, counts = project.spread_clients(stack)

            assert len(counts) == NODE_COUNT + 1
    finally:
        project.up()


@pytest.mark.parametrize(("how", "code"), [("stop", 3001), ("kill", 1006)])
def test_node_that_ends_takes_only_its_own_clients_along(project: Project, how: str, code: int) -> None:
    with ExitStack() as stack:
        clients, counts = project.spread_clients(stack)
        node, its_count = counts.most_common(1)[0]
        try:
            # Not `docker compose kill`: that would take all replicas of the service.
            run("docker", how, node)

            wait_until(
                lambda: sum(client.close_code is not None for client in clients) >= its_count, "clients are gone"
            )
            gone = [client for client in clients if client.close_code is not None]
            others = [client for client in clients if client.close_code is None]
            newcomers = [stack.enter_context(project.connect(LOBBY)) for _ in range(6)]
            others[0].send("still here")

            assert {client.close_code for client in gone} == {code}
            assert len(gone) == its_count
            assert received(others + newcomers) == ["still here"] * (len(others) + len(newcomers))
        finally:
            project.up()
