"""What one run gave, and what several runs gave together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

_BUSY_PERCENT = 85.0
_LOAD_BUSY_PERCENT = 95.0
_DISTURBED_PERCENT = 10.0
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of one contender at one rate; percents of CPU are of one core, over the measured window.

    cpu_us: the server's processor time (user and system) per delivered message.
    delivered_percent, lost_count: of all that was published from the first message to the end of the drain.
    other_count: frames that came twice, out of order, or were no message.
    p50_ms, p99_ms: from just before PUBLISH to the subscriber's callback, of messages that came in the window or
        the drain.
    load_cpu_percent: load client, publisher and Redis, of all the cores that they may use.
    disturbance_percent: of the server's core, used by anything else.
    """

    cpu_us: float
    delivered_percent: float
    lost_count: int
    other_count: int
    ended_count: int
    p50_ms: float
    p99_ms: float
    published_per_s: float
    delivered_per_s: float
    late_p99_ms: float
    unheard_count: int
    server_cpu_percent: float
    client_cpu_percent: float
    load_cpu_percent: float
    disturbance_percent: float


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of one contender at one rate."""

    contender: str
    rate_per_s: int
    rounds: list[Figures]

    def median(self, name: str) -> float:
        """Return the median of a figure over the rounds."""
        return float(median(self._values(name)))

    def least(self, name: str) -> float:
        """Return the least value of a figure over the rounds."""
        return min(self._values(name))

    def most(self, name: str) -> float:
        """Return the largest value of a figure over the rounds."""
        return max(self._values(name))

    def warnings(self) -> list[str]:
        """Return what makes this row's figures doubtful."""
        client, load = self.most("client_cpu_percent"), self.most("load_cpu_percent")
        published, disturbance = self.least("published_per_s"), self.most("disturbance_percent")
        doubts = {
            f"the load client used {client:.0f} % of a core: it may be the bottleneck": client > _BUSY_PERCENT,
            f"client, publisher and Redis used {load:.0f} % of their cores: latency may be theirs": (
                load > _LOAD_BUSY_PERCENT
            ),
            f"only {published:.0f} messages/s were published": published < self.rate_per_s * (1 - _RATE_TOLERANCE),
            f"other processes used {disturbance:.0f} % of the server's core": disturbance > _DISTURBED_PERCENT,
            f"the server ended {self.most('ended_count'):.0f} connections": self.most("ended_count") > 0,
            f"Redis had no subscriber for {self.most('unheard_count'):.0f} messages": self.most("unheard_count") > 0,
        }
        return [f"{self.contender} at {self.rate_per_s}/s: {text}" for text, applies in doubts.items() if applies]

    def _values(self, name: str) -> list[float]:
        return [asdict(figures)[name] for figures in self.rounds]


def ratios(rows: Sequence[Row], *, of: str, to: str) -> dict[int, float]:
    """Return, by rate, one contender's median processor time per delivery divided by another's."""
    cpu_us = {(row.contender, row.rate_per_s): row.median("cpu_us") for row in rows}
    return {
        rate: cpu_us[of, rate] / cpu_us[to, rate]
        for contender, rate in cpu_us
        if contender == of and cpu_us.get((to, rate))
    }
