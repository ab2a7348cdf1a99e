"""Clients that speak, or offer, another protocol than plain HTTP/1.1: counted, and logged once a minute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from roomcast.transports.http_protocol import FOREIGN_PROTOCOLS

log = structlog.get_logger(__name__)

_LOG_INTERVAL_S = 60.0


class ForeignProtocols(Collector):
    """Counts by protocol. A balancer that checks the port with TLS each second must not fill the log.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._next_log_s: dict[str, float] = {}

    def note(self, protocol: str, address: str) -> None:
        """Count one of FOREIGN_PROTOCOLS; log the first of each in a minute."""
        self._counts[protocol] += 1
        now_s = self._clock()
        if now_s >= self._next_log_s.get(protocol, now_s):
            self._next_log_s[protocol] = now_s + _LOG_INTERVAL_S
            # Offers are answered by HTTP/1.1, as if they had not been made.
            write = log.info if protocol.endswith("_offer") else log.warning
            write("http.foreign_protocol", protocol=protocol, address=address, count=self._counts[protocol])

    @override
    def collect(self) -> Iterator[Metric]:
        metric = CounterMetricFamily(
            "roomcast_foreign_protocols",
            "Requests in another protocol than HTTP/1.1, refused; and offers of one, answered by HTTP/1.1.",
            labels=["protocol"],
        )
        for protocol in FOREIGN_PROTOCOLS:
            metric.add_metric([protocol], self._counts[protocol])
        yield metric
