"""The figures of one run, and of several runs together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

# Of one run: names say the unit.
Figures = Mapping[str, float]

_BUSY_PERCENT = 90.0
_LOAD_BUSY_PERCENT = 97.0
_DISTURBED_PERCENT = 10.0
_LATE_MS = 5.0


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in a table.

    digits: after the point. Percents are cut, not rounded, so that a single loss shows.
    of_rounds: the median, or `min` or `max` where the worst round counts.
    """

    title: str
    figure: str
    digits: int = 0
    of_rounds: Callable[[Sequence[float]], float] = median

    def cell(self, row: Row) -> str:
        """Return the row's figure as text; a dash if it has none."""
        if not row.rounds or self.figure not in row.rounds[0]:
            return "-"
        value = row.figure(self.figure, self.of_rounds)
        if "%" in self.title:
            value = int(value * 10**self.digits) / 10**self.digits
        return f"{value:,.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of one contender in one case of a scenario. `note` says why there are none."""

    contender: str
    case: str
    rounds: list[Figures] = field(default_factory=list)
    note: str = ""
    failures: list[str] = field(default_factory=list)

    def figure(self, name: str, of_rounds: Callable[[Sequence[float]], float] = median) -> float:
        """Return one figure of all rounds."""
        return float(of_rounds([figures[name] for figures in self.rounds]))

    def warnings(self) -> list[str]:
        """Return the reasons to doubt the figures of this row."""
        failed = [f"{self.contender}, {self.case}: a round failed: {failure}" for failure in self.failures]
        if not self.rounds:
            return failed
        most = {name: self.figure(name, max) for name in self.rounds[0]}
        doubts = {
            "the load client used {:.0f} % of a core: it may be the bottleneck": ("client_percent", _BUSY_PERCENT),
            "client, publisher and Redis used {:.0f} % of their cores: latency may be theirs": (
                "load_percent",
                _LOAD_BUSY_PERCENT,
            ),
            "{:.0f} % fewer messages were published than wanted": ("unpublished_percent", 1.0),
            "other processes used {:.0f} % of the server's core": ("disturbance_percent", _DISTURBED_PERCENT),
            "the server ended {:.0f} connections": ("ended_count", 0.0),
            "Redis had no subscriber for {:.0f} messages": ("unheard_count", 0.0),
            "{:.0f} messages never came: the throughput has pauses of half a second in it": ("missed_count", 0.0),
            "the publisher was {:.0f} ms late at times: ages count from its writes": ("late_p99_ms", _LATE_MS),
        }
        return failed + [
            f"{self.contender}, {self.case}: " + text.format(most[name])
            for text, (name, limit) in doubts.items()
            if most.get(name, 0.0) > limit
        ]
