"""Prometheus metrics, read from the counters of a node and its hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from roomcast.hooks.build import NodeHooks
from roomcast.hooks.circuit import CircuitState
from roomcast.model.errors import DISCONNECTS, Rejection
from roomcast.node.node import Node
from roomcast.node.report import NodeReport

# The codes of RFC 6455 and of the service. Others are chosen by clients and the application: one label a thousand.
_CLOSE_CODES = frozenset({*range(1000, 1016), *(disconnect.code for disconnect in DISCONNECTS)})

_COUNTERS = {
    "received": "Publications received from Redis for channels of this node.",
    "published": "Publications of this node's clients and API that Redis confirmed.",
    "publish_failures": "Publications that Redis did not confirm.",
    "malformed": "Invalid messages and history entries in Redis that were dropped.",
    "refused_tokens": "Invalid tokens of all clients; the log has the reasons.",
    "gaps": "Lost connections to Redis, during which publications may have been missed.",
}


class NodeCollector(Collector):
    """Reads a node's plain counters on each scrape, so that counting costs the hot path only an addition."""

    def __init__(self, node: Node, report: NodeReport) -> None:
        self._node = node
        self._report = report

    @override
    def collect(self) -> Iterator[Metric]:
        node = self._node
        connections = GaugeMetricFamily("roomcast_connections", "Connected clients.", labels=["transport"])
        for transport in ("websocket", "sse", "http_stream", "poll"):
            count = sum(connection.transport.name == transport for connection in node.hub.connections)
            connections.add_metric([transport], count)
        yield connections
        yield GaugeMetricFamily("roomcast_channels", "Channels with a subscriber here.", len(node.hub.channels()))
        ready = node.reason_not_ready() is None
        yield GaugeMetricFamily("roomcast_ready", "1 while the node can deliver, as in /readyz.", ready)
        refusals = CounterMetricFamily(
            "roomcast_redis_refusals", "Commands that Redis refused, by kind such as OOM.", labels=["kind"]
        )
        for kind, count in sorted(node.broker.refusals().items()):
            refusals.add_metric([kind], count)
        yield refusals
        ingest = self._report.ingest
        if ingest is not None:  # of the cluster, the same on every node
            yield GaugeMetricFamily("roomcast_ingest_lag", "Ingest entries not published yet.", ingest.lag)
            yield GaugeMetricFamily("roomcast_ingest_dead", "Ingest entries in the dead letters.", ingest.dead)
        for name, documentation, count in self._counters():
            yield CounterMetricFamily(f"roomcast_{name}", documentation, count)
        rejections = CounterMetricFamily(
            "roomcast_rejections", "Rejected clients and services by reason; the log has samples.", labels=["reason"]
        )
        for rejection in Rejection:
            rejections.add_metric([rejection.value], node.rejections.counts[rejection])
        yield rejections
        closed = CounterMetricFamily(
            "roomcast_connections_closed",
            "Closed connections by close code; 1006: no close frame; 3xxx, 4xxx: all codes of others.",
            labels=["code"],
        )
        for label, count in sorted(_by_label(node.close_codes).items()):
            closed.add_metric([label], count)
        yield closed

    def _counters(self) -> Iterator[tuple[str, str, int]]:
        hub, tracker = self._node.hub, self._node.tracker
        yield "deliveries", "Publications for subscribers of this node, including dropped ones.", hub.delivery_count
        yield "dropped", "Publications dropped for slow subscribers, by the policy of the channel.", hub.dropped_count
        yield "repaired", "Publications lost by pub/sub and read from the history.", tracker.repaired_count
        yield (
            "unrecovered",
            "Times that publications of a channel were lost for good and its clients notified.",
            tracker.unrecovered_count,
        )
        yield (
            "unplaced",
            "Messages without a position dropped in a repair, because their place in the order was lost.",
            tracker.unplaced_count,
        )
        yield (
            "presence_faults",
            "Times that Redis refused a channel's presence, or had lost members of it.",
            self._node.presence.fault_count,
        )
        for name, documentation in _COUNTERS.items():
            yield name, documentation, self._node.counts[name]


def _by_label(close_codes: Mapping[int, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for code, count in close_codes.items():
        counts[str(code) if code in _CLOSE_CODES else f"{code // 1000}xxx"] += count
    return counts


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """Return a Prometheus registry of this node only."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


class HookCollector(Collector):
    """Reads the counters of hooks and webhooks of this node on each scrape."""

    def __init__(self, hooks: NodeHooks) -> None:
        self._hooks = hooks

    @override
    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "roomcast_hook_calls",
            "Calls of the application by outcome: answered, refused, failed, dropped.",
            labels=["hook", "outcome"],
        )
        for (hook, outcome), count in sorted(self._hooks.application.counts.items()):
            calls.add_metric([hook, outcome], count)
        yield calls
        if self._hooks.proxy is not None:
            circuits = GaugeMetricFamily(
                "roomcast_proxy_circuit_open",
                "1 while no requests are sent to the proxy because of repeated failures.",
                labels=["hook"],
            )
            for hook, circuit in self._hooks.proxy.circuits.items():
                circuits.add_metric([hook], circuit.state is not CircuitState.CLOSED)
            yield circuits
        outbox = self._hooks.outbox
        if outbox is not None:
            yield CounterMetricFamily(
                "roomcast_webhooks_dropped",
                "Webhook events of this node that were dropped because a queue was full.",
                outbox.dropped_count,
            )
            if outbox.counts is not None:  # of the cluster, the same on every node
                yield GaugeMetricFamily("roomcast_webhooks_lag", "Webhook events not posted yet.", outbox.counts.lag)
                yield GaugeMetricFamily(
                    "roomcast_webhooks_dead", "Webhook events not confirmed for five minutes.", outbox.counts.dead
                )
