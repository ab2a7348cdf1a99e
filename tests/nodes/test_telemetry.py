from __future__ import annotations

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
