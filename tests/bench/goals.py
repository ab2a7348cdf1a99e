"""The goals of the service, compared with the figures of the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.figures import Row
from tests.bench.report import Section


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for one figure of `contender`. `times`: the bound is so many times the same figure of that other one."""

    scenario: str
    case: str
    figure: str
    unit: str
    limit: float
    is_least: bool = False
    times: str = ""
    contender: str = "ours"
    of_rounds: Callable[[Sequence[float]], float] | None = None


_DOORS = ("ours", "ours-centrifuge")

_GOALS = (
    Goal("fanout", "100/s", "cpu_us", "us CPU per delivery", 1.15, times="floor"),
    Goal("fanout", "100/s", "cpu_us", "us CPU per delivery", 1.0, times="nchan"),
    Goal("fanout", "100/s", "cpu_us", "us CPU per delivery", 1.0, times="nats-server"),
    Goal("fanout", "1000/s", "cpu_us", "us CPU per delivery", 1.2),
    Goal("fanout", "1000/s", "cpu_us", "us CPU per delivery", 1.0, times="nats-server"),
    Goal("fanout", "4000/s", "cpu_us", "us CPU per delivery", 0.25),
    Goal("fanout", "4000/s", "lost_count", "lost", 0, of_rounds=max),
    Goal("fanout", "4000/s", "p99_ms", "ms p99", 60),
    Goal("fanout", "100/s", "cpu_us", "us CPU per delivery", 1.25, times="ours", contender="ours-centrifuge"),
    Goal("fanout", "1000/s", "cpu_us", "us CPU per delivery", 1.25, times="ours", contender="ours-centrifuge"),
    Goal(
        "crowd",
        "10,000 connections",
        "subscribed_per_s",
        "clients/s connected with a token and subscribed",
        1500,
        is_least=True,
        contender="ours-centrifuge",
    ),
    Goal("crowd", "10,000 connections", "connection_kib", "KiB per idle connection", 4),
    Goal("crowd", "10,000 connections", "subscribed_per_s", "subscribed connections/s", 2500, is_least=True),
    Goal("echo", "8 connections", "turned_per_s", "messages/s echoed", 90_000, is_least=True),
    Goal("inbound", "4 senders", "turned_per_s", "messages/s published by clients", 15_000, is_least=True),
    Goal("comeback", "10,000 clients", "caught_up_s", "s until all have caught up", 15),
    Goal("comeback", "10,000 clients", "lost_count", "lost", 0, of_rounds=max),
    Goal("comeback", "10,000 clients", "redis_percent", "% of a core for Redis", 50),
    Goal("comeback", "10,000 clients", "alone_ms", "ms for 100 messages to one client", 5),
    Goal("ingest", "100,000 entries", "entries_per_s", "ingest entries/s published", 15_000, is_least=True),
    Goal("ingest", "100,000 writes to maps", "entries_per_s", "ingest entries/s written", 10_000, is_least=True),
    *(
        Goal("map-writes", case, "turned_per_s", f"writes/s ({contender})", 10_000, is_least=True, contender=contender)
        for contender in _DOORS
        for case in ("API, 100 a call", "4 clients")
    ),
    *(
        Goal("map-load", case, "took_ms", f"ms for a map of 10,000 keys ({contender})", 300, contender=contender)
        for contender in _DOORS
        for case in ("first client", "next client")
    ),
    *(
        Goal("map-load", case, "page_count", f"pages from Redis ({contender})", 10, contender=contender, of_rounds=max)
        for contender in _DOORS
        for case in ("1,000 clients", "1,000 clients, 50 writes/s")
    ),
    *(
        Goal("cursors", "200/s", "ratio", f"x the CPU of a stream ({contender})", 1.1, contender=contender)
        for contender in _DOORS
    ),
    Goal("stalled", "200/s", "delivered_percent", "% delivered to the others", 100, is_least=True, of_rounds=min),
    Goal("stalled", "200/s", "p99_ms", "ms p99 of the others", 20),
    Goal("stalled", "200/s", "growth_mib", "MiB memory growth", 1.5, of_rounds=max),
)


def check_goals(sections: Sequence[Section]) -> list[str]:
    """Return a line for each goal that was measured."""
    rows = {(section.name, row.case, row.contender): row for section in sections for row in section.rows if row.rounds}
    lines = []
    for goal in _GOALS:
        ours = rows.get((goal.scenario, goal.case, goal.contender))
        other = rows.get((goal.scenario, goal.case, goal.times)) if goal.times else None
        if ours is not None and (other is not None or not goal.times):
            lines.append(_line(goal, ours, other))
    return lines


def _line(goal: Goal, ours: Row, other: Row | None) -> str:
    value = ours.figure(goal.figure, goal.of_rounds) if goal.of_rounds else ours.figure(goal.figure)
    limit = goal.limit * (other.figure(goal.figure) if other is not None else 1)
    is_met = value >= limit if goal.is_least else value <= limit
    wanted = f"at {'least' if goal.is_least else 'most'} {_four_digits(limit)}"
    if other is not None:
        wanted += f" ({goal.limit:g} x {goal.times})"
    found = f"{goal.scenario} {goal.case}: {_four_digits(value)} {goal.unit}"
    return f"{'met' if is_met else 'NOT MET'}: {found}, wanted {wanted}"


def _four_digits(value: float) -> str:
    """Return a figure with four digits that count, and never in powers of ten."""
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{float(f'{value:.4g}'):,.0f}"
