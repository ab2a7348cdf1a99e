"""What a node says about itself: Prometheus metrics read from its counters, and one JSON log line an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from roomcast.hooks.circuit import CircuitState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from roomcast.hooks.build import NodeHooks
    from roomcast.node.node import Node
    from roomcast.node.report import NodeReport

_COUNTERS = {
    "received": "Publications read from Redis for channels of this node.",
    "published": "Publications of this node's clients and API that Redis took.",
    "publish_failures": "Publications that Redis did not take.",
    "malformed": "Redis messages, and entries of histories, that were no publication and were dropped.",
    "refused_tokens": "Clients' tokens of sessions that were refused; the log says why.",
    "gaps": "Times that publications may have been missed because the connection to Redis was lost.",
}


class NodeCollector(Collector):
    """Reads a node's plain counters when Prometheus asks, so that counting costs the hot path an addition."""

    def __init__(self, node: Node, report: NodeReport) -> None:
        self._node = node
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yield the node's metrics as they are now."""
        node = self._node
        connections = GaugeMetricFamily("roomcast_connections", "Connected clients.", labels=["transport"])
        for transport in ("websocket", "sse", "http_stream", "poll"):
            count = sum(connection.transport.name == transport for connection in node.hub.connections)
            connections.add_metric([transport], count)
        yield connections
        yield GaugeMetricFamily("roomcast_channels", "Channels with a subscriber here.", node.hub.channel_count())
        ready = node.reason_not_ready() is None
        yield GaugeMetricFamily("roomcast_ready", "1 while the node can deliver, as in /readyz.", ready)
        yield CounterMetricFamily(
            "roomcast_deliveries",
            "Publications for subscribers of this node, the dropped ones too.",
            node.hub.delivery_count,
        )
        yield CounterMetricFamily(
            "roomcast_dropped",
            "Publications that slow subscribers did not get, by their channels' policies.",
            node.hub.dropped_count,
        )
        yield CounterMetricFamily(
            "roomcast_repaired",
            "Publications that pub/sub lost and this node read from the histories for its clients.",
            node.tracker.repaired_count,
        )
        yield CounterMetricFamily(
            "roomcast_unrecovered",
            "Times that a channel's publications were lost for good; its clients were told.",
            node.tracker.unrecovered_count,
        )
        ingest = self._report.ingest
        if ingest is not None:  # of the cluster, the same on every node
            yield GaugeMetricFamily("roomcast_ingest_lag", "Ingest entries not published yet.", ingest.lag)
            yield GaugeMetricFamily("roomcast_ingest_dead", "Ingest entries in the dead letters.", ingest.dead)
        for name, documentation in _COUNTERS.items():
            yield CounterMetricFamily(f"roomcast_{name}", documentation, node.counts[name])
        closed = CounterMetricFamily(
            "roomcast_connections_closed", "Connections that ended, by close code; 1006: vanished.", labels=["code"]
        )
        for code, count in sorted(node.close_codes.items()):
            closed.add_metric([str(code)], count)
        yield closed


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """Return a Prometheus registry of this node alone."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


class HookCollector(Collector):
    """Reads what became of questions and webhooks at this node."""

    def __init__(self, hooks: NodeHooks) -> None:
        self._hooks = hooks

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of what the settings name, as they are now."""
        calls = CounterMetricFamily(
            "roomcast_hook_calls",
            "What the application was asked or told, by what became of it: answered, refused, failed, dropped.",
            labels=["hook", "outcome"],
        )
        for (hook, outcome), count in sorted(self._hooks.application.counts.items()):
            calls.add_metric([hook, outcome], count)
        yield calls
        if self._hooks.proxy is not None:
            circuits = GaugeMetricFamily(
                "roomcast_proxy_circuit_open",
                "1 while the proxy is left alone because it has failed again and again.",
                labels=["hook"],
            )
            for hook, circuit in self._hooks.proxy.circuits.items():
                circuits.add_metric([hook], circuit.state is not CircuitState.CLOSED)
            yield circuits
        outbox = self._hooks.outbox
        if outbox is not None:
            yield CounterMetricFamily(
                "roomcast_webhooks_dropped", "Webhook events of this node that found no room.", outbox.dropped_count
            )
            if outbox.counts is not None:  # of the cluster, the same on every node
                yield GaugeMetricFamily("roomcast_webhooks_lag", "Webhook events not posted yet.", outbox.counts.lag)
                yield GaugeMetricFamily(
                    "roomcast_webhooks_dead", "Webhook events that nobody took for five minutes.", outbox.counts.dead
                )
