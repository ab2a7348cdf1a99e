from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from roomcast.node.hub import Hub
from roomcast.node.report import NodeReport
from roomcast.telemetry.metrics import NodeCollector, registry_of
from tests.support.fakes import FakeBroker, FakeRegistry, Schedule, connection
from tests.support.fakes import node as fake_node
from tests.support.processes import Cluster, NodeProcess, eventually, http_client

pytestmark = pytest.mark.anyio


async def test_metrics_are_valid_and_say_what_the_node_counted() -> None:
    broker = FakeBroker()
    node = fake_node(Hub(Schedule()), broker)
    gone, _ = connection()
    with node.connected(gone):
        pass
    broker.away = "Redis is away"
    node.on_connected(is_again=True)

    report = NodeReport(node.hub, node.presence, FakeRegistry())
    families = text_string_to_metric_families(generate_latest(registry_of(NodeCollector(node, report))).decode())
    samples = {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}

    assert ("roomcast_ingest_lag",) not in samples, "nobody knows yet"
    assert samples["roomcast_gaps_total",] == 1
    assert samples["roomcast_ready",] == 0
    assert samples["roomcast_connections", "websocket"] == 0
    assert samples["roomcast_connections_closed_total", "1006"] == 1


@pytest.mark.redis
async def test_metrics_say_what_waits_to_be_ingested_until_nobody_knows(
    redis_url: str, client: Redis, prefix: str
) -> None:
    async def until(node: NodeProcess, text: str, *, is_there: bool = True) -> None:
        async def is_so() -> bool:
            async with http_client() as http:
                return (text in (await http.get(node.http("/metrics"))).text) is is_there

        await eventually(is_so)

    for _ in range(3):
        await client.xadd(f"{prefix}ingest", {"data": "no channel"})
    with Cluster(redis_url, prefix) as cluster:
        node = cluster.start_node()
        await until(node, "\nroomcast_ingest_lag 3.0\n")
        cluster.start_worker("ingest")
        await until(node, "\nroomcast_ingest_dead 3.0\n")
        await until(node, "\nroomcast_ingest_lag 0.0\n")
        await client.set(f"{prefix}ingest", "no stream")
        await until(node, "\nroomcast_ingest_", is_there=False)
        assert node.faults() == []


@pytest.mark.redis
async def test_the_log_is_json_and_holds_no_query_strings_payloads_or_keys(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, log_level="debug") as cluster:
        node = cluster.start_node()
        async with node.connect("/ws/rooms/a?token=SECRET1") as ada, http_client() as http:
            await ada.send("SECRET2")
            await ada.recv()
            await http.get(node.http("/readyz?token=SECRET3"))
            await http.post(node.http("/api/publish"), json={}, headers={"X-API-Key": "SECRET4-SECRET4-SECRET4"})
        node.end()

    assert all(line["event"] != "not json" for line in node.log)
    closed = next(line for line in node.log if line["event"] == "connection.closed")
    assert (closed["level"], closed["transport"], closed["code"]) == ("info", "websocket", 1000)
    assert {"time", "node", "conn", "duration_s"} <= set(closed)
    assert "SECRET" not in str(node.log)


@pytest.fixture(scope="module")
def node(redis_server: object) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"  # type: ignore[attr-defined]
    with Cluster(url, "telemetry:") as cluster:
        yield cluster.start_node()


async def metrics(node: NodeProcess, name: str) -> dict[str, float]:
    async with http_client() as http:
        text = (await http.get(node.http("/metrics"))).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {next(iter(sample.labels.values())): sample.value for sample in samples if sample.name == name}


@pytest.mark.redis
async def test_close_codes_that_clients_choose_share_few_labels(node: NodeProcess) -> None:
    async def leave(code: int) -> None:
        async with node.connect("/ws") as client:
            await client.close(code)

    for first in range(3000, 3300, 100):
        await asyncio.gather(*(leave(code) for code in range(first, first + 100)))
    await leave(4999)

    counts = await metrics(node, "roomcast_connections_closed_total")
    assert len(counts) < 25
    assert counts["4xxx"] == 1
    assert sum(count for label, count in counts.items() if label.startswith("3")) >= 300


_TLS_HELLO = b"\x16\x03\x01" + struct.pack(">H", 200) + bytes(200)
_HELLOS = {
    "tls": _TLS_HELLO,
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "proxy_protocol": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "h2c_offer": b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n",
    "other_offer": b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: TLS/1.0\r\n\r\n",
    "malformed": b"not http at all\r\n\r\n",
}


@pytest.mark.redis
@pytest.mark.parametrize("protocol", _HELLOS)
async def test_hellos_of_other_protocols_are_counted_and_logged_once(node: NodeProcess, protocol: str) -> None:
    before = (await metrics(node, "roomcast_foreign_protocols_total"))[protocol]
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(_HELLOS[protocol])
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 " if "offer" in protocol else b"HTTP/1.1 400 ")

    counts = await metrics(node, "roomcast_foreign_protocols_total")
    assert set(counts) == set(_HELLOS)
    assert counts[protocol] == before + 20

    async def lines() -> list[tuple[str, str]]:
        return [(line["event"], line["address"]) for line in node.log if line.get("protocol") == protocol]

    assert await eventually(lines) == [("http.foreign_protocol", "127.0.0.1")]
    assert not [line for line in node.log if "Invalid HTTP" in line["event"] or "Unsupported" in line["event"]]
