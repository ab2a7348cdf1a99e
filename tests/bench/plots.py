"""The plots of a measurement, beside its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.report import Section
from tests.bench.svg import bar_plot, line_plot


def draw_plots(sections: Sequence[Section], folder: Path, name: str) -> list[str]:
    """Draw the plots of these sections. Returns: the names of the files."""
    folder.mkdir(exist_ok=True)
    drawn = []
    for section in sections:
        plot = {"fanout": _cpu_plot, "crowd": _memory_plot}.get(section.name)
        picture = plot(section) if plot is not None else ""
        if picture:
            file_name = f"{name}-{section.name}.svg"
            (folder / file_name).write_text(picture)
            drawn.append(file_name)
    return drawn


def _cpu_plot(section: Section) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in section.rows:
        if row.rounds:
            rate_per_s = float(row.case.removesuffix("/s"))
            lines.setdefault(row.contender, []).append((rate_per_s, row.figure("cpu_us")))
    if not lines:
        return ""
    return line_plot("Server CPU per delivery", "messages per second", "microseconds", lines)


def _memory_plot(section: Section) -> str:
    bars = {row.contender: row.figure("connection_kib") for row in section.rows if row.rounds}
    return bar_plot("Memory per idle, subscribed connection", "KiB", bars) if bars else ""
