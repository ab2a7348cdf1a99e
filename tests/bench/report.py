"""The figures as a text table, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.figures import Row, ratios

_COLUMNS: dict[str, Callable[[Row], str]] = {
    "contender": lambda row: row.contender,
    "rate/s": lambda row: f"{row.rate_per_s}",
    "CPU us/delivery": lambda row: f"{row.median('cpu_us'):.2f}",
    # The worst round, and not rounded up: what was lost once must show.
    "delivered %": lambda row: f"{int(row.least('delivered_percent') * 100) / 100:.2f}",
    "lost": lambda row: f"{row.most('lost_count'):.0f}",
    "twice/disorder": lambda row: f"{row.most('other_count'):.0f}",
    "p50 ms": lambda row: f"{row.median('p50_ms'):.1f}",
    "p99 ms": lambda row: f"{row.median('p99_ms'):.1f}",
    "published/s": lambda row: f"{row.median('published_per_s'):.0f}",
    "delivered/s": lambda row: f"{row.median('delivered_per_s'):.0f}",
    "server CPU %": lambda row: f"{row.median('server_cpu_percent'):.0f}",
    "client CPU %": lambda row: f"{row.median('client_cpu_percent'):.0f}",
    "publisher late p99 ms": lambda row: f"{row.median('late_p99_ms'):.1f}",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement: its rows and all that one needs to know to repeat it."""

    title: str
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    placement: str
    rows: Sequence[Row]

    def text(self) -> str:
        """Return the report for a terminal."""
        cells = [list(_COLUMNS), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = [
            "  ".join([cell[0].ljust(widths[0]), *map(str.rjust, cell[1:], widths[1:])]).rstrip() for cell in cells
        ]
        return "\n".join([self.title, "", *table, "", *self._notes()])

    def markdown(self) -> str:
        """Return the report as a Markdown page."""
        lines = [list(_COLUMNS), ["---", *["---:"] * (len(_COLUMNS) - 1)], *self._cells()]
        table = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([f"# {self.title}", "", *table, "", *[f"- {note}" for note in self._notes()], ""])

    def write(self, folder: Path, name: str) -> None:
        """Write `name`.json, with every round, and `name`.md."""
        folder.mkdir(exist_ok=True)
        facts = asdict(self) | {"cpu_ratio_ours_to_classic": self._ratios(), "warnings": self._warnings()}
        (folder / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / f"{name}.md").write_text(self.markdown())

    def _cells(self) -> list[list[str]]:
        return [[cell(row) for cell in _COLUMNS.values()] for row in self.rows]

    def _ratios(self) -> dict[int, float]:
        return ratios(self.rows, of="ours", to="classic")

    def _warnings(self) -> list[str]:
        return [warning for row in self.rows for warning in row.warnings()]

    def _notes(self) -> list[str]:
        return [
            *[f"CPU per delivery at {rate}/s, ours/classic: {ratio:.2f}" for rate, ratio in self._ratios().items()],
            *[f"WARNING: {warning}" for warning in self._warnings()],
            f"command: {self.command}",
            f"placement: {self.placement}",
            *[f"{name}: {fact}" for name, fact in self.machine.items()],
            "versions: " + ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
