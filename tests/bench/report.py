"""The figures as text tables, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.figures import Column, Row


@dataclass(frozen=True, slots=True)
class Section:
    """One scenario's rows."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def cells(self) -> list[list[str]]:
        """Return the table, its head first. A row without figures has a note in their place, a doubtful one a star."""
        head = ["contender", "case", *[column.title for column in self.columns]]
        return [
            head,
            *[[row.contender + "*" * bool(row.warnings()), row.case, *self._figures(row)] for row in self.rows],
        ]

    def _figures(self, row: Row) -> list[str]:
        return [column.cell(row) for column in self.columns] if row.rounds else [row.note]


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement: its sections and all that one needs to know to repeat it."""

    command: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    goals: Sequence[str]
    plots: Sequence[str]

    def text(self) -> str:
        """Return the report for a terminal."""
        parts: list[str] = []
        for section in self.sections:
            cells = section.cells()
            full = [line for line in cells if len(line) == len(cells[0])]
            widths = [max(map(len, column)) for column in zip(*full, strict=True)]
            parts += [section.title, ""]
            for line in cells:
                names = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
                parts.append("  ".join([*names, *map(str.rjust, line[2:], widths[2:])]).rstrip())
            parts.append("")
        return "\n".join([*parts, *self.goals, "", *self._notes()])

    def markdown(self) -> str:
        """Return the report as a Markdown page."""
        parts = ["# Measurements", ""]
        for section in self.sections:
            head, *rows = section.cells()
            rule = ["---", "---", *["---:"] * len(section.columns)]
            rows = [[*row, *[""] * (len(head) - len(row))] for row in rows]
            parts += [f"## {section.title}", ""]
            parts += ["| " + " | ".join(line) + " |" for line in [head, rule, *rows]]
            parts.append("")
        parts += [f"![{plot}]({plot})\n" for plot in self.plots]
        if self.goals:
            parts += ["## Goals", "", *[f"- {goal}" for goal in self.goals], ""]
        return "\n".join([*parts, "## Notes", "", *[f"- {note}" for note in self._notes()], ""])

    def write(self, folder: Path, name: str) -> None:
        """Write `name`.json, with every round, and `name`.md."""
        folder.mkdir(exist_ok=True)
        facts = {
            "command": self.command,
            **self.facts,
            "goals": self.goals,
            "warnings": self._warnings(),
            "sections": {section.name: [asdict(row) for row in section.rows] for section in self.sections},
        }
        (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        (folder / f"{name}.md").write_text(self.markdown())

    def _warnings(self) -> list[str]:
        return [warning for section in self.sections for row in section.rows for warning in row.warnings()]

    def _notes(self) -> list[str]:
        return [
            *[f"WARNING: {warning}" for warning in self._warnings()],
            f"command: {self.command}",
            *[f"{name}: {fact}" for name, fact in self.facts.items()],
        ]
