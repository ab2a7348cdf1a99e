"""What a node says about itself: Prometheus metrics read from its counters, and one JSON log line an event."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from roomcast.config import Settings
    from roomcast.node.node import Node

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

    def __init__(self, node: Node) -> None:
        self._node = node

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
        if node.ingest is not None:  # of the cluster, the same on every node
            yield GaugeMetricFamily("roomcast_ingest_lag", "Ingest entries not published yet.", node.ingest.lag)
            yield GaugeMetricFamily("roomcast_ingest_dead", "Ingest entries in the dead letters.", node.ingest.dead)
        for name, documentation in _COUNTERS.items():
            yield CounterMetricFamily(f"roomcast_{name}", documentation, node.counts[name])
        closed = CounterMetricFamily(
            "roomcast_connections_closed", "Connections that ended, by close code; 1006: vanished.", labels=["code"]
        )
        for code, count in sorted(node.close_codes.items()):
            closed.add_metric([str(code)], count)
        yield closed


def registry_of(node: Node) -> CollectorRegistry:
    """Return a Prometheus registry of this node alone."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    return registry


def configure_logging(settings: Settings, *, node_id: str) -> None:
    """Send every log line of the process, uvicorn's and redis-py's too, to stderr: JSON or for people."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(timestamp_key="time", colors=sys.stderr.isatty())
    )

    def add_node(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["node"] = node_id
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_node,
                *([structlog.processors.format_exc_info] if settings.log_format == "json" else []),
                renderer,
            ],
        )
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # uvicorn logs each accepted WebSocket with its whole URL at INFO.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
    # httpx logs each request with its whole URL at INFO.
    logging.getLogger("httpx").setLevel(max(logging.WARNING, logging.getLogger().level))
    # A stream given up as slow ends like this; the node counts it by its code, nobody need be woken.
    logging.getLogger("uvicorn.error").addFilter(lambda line: "without completing response" not in line.getMessage())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
