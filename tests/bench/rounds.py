"""Running scenarios: contenders alternate within each round, so that other load of the machine affects all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.bench.contenders import Contender
from tests.bench.errors import BenchError
from tests.bench.figures import Row
from tests.bench.scenarios import Bench, Scenario


def measure_rounds(
    scenario: Scenario,
    contenders: Sequence[Contender],
    bench: Bench,
    *,
    round_count: int,
    tell: Callable[[str], None],
) -> list[Row]:
    """Return a row per case and contender. A contender that fails has a row that says so."""
    takers = [contender for contender in contenders if scenario.takes(contender)]
    rows: dict[tuple[str, str], Row] = {}
    left_out: dict[str, str] = {}
    for round_number in range(1, round_count + 1):
        for case in scenario.cases(bench):
            for contender in takers:
                key = (case, contender.name)
                if contender.name in left_out and (key not in rows or not rows[key].rounds):
                    rows.setdefault(key, Row(contender.name, case, note=left_out[contender.name]))
                    continue
                row = rows.setdefault(key, Row(contender.name, case))
                try:
                    row.rounds.append(scenario.measure(contender, case, bench))
                except BenchError as exc:
                    tell(f"{scenario.name}, {case}: {contender.name}: {exc}")
                    row.failures.append(str(exc))
                    if not row.rounds:
                        rows[key] = Row(contender.name, case, note="failed", failures=row.failures)
                    left_out.setdefault(contender.name, "failed")
                    continue
                if scenario.is_hopeless(row):
                    left_out.setdefault(contender.name, f"not run: already behind at {case}")
                shown = ", ".join(
                    f"{column.title} {column.cell(Row(contender.name, case, row.rounds[-1:]))}"
                    for column in scenario.columns
                )
                tell(f"{scenario.name} {round_number}/{round_count}, {case}: {contender.name}: {shown}")
    return list(rows.values())
