"""What hooks say in /metrics, read from their plain counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from roomcast.hooks.circuit import CircuitState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from roomcast.hooks.build import NodeHooks


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
