"""The interface of a scenario, and its resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.bench.bus import Bus
from tests.bench.contenders import Contender
from tests.bench.cores import Cores
from tests.bench.figures import Column, Figures, Row


@dataclass(frozen=True, slots=True)
class Bench:
    """The resources and the size of a run. seconds: the length of a measured window."""

    bus: Bus
    cores: Cores
    rates: Sequence[int]
    subscriber_count: int
    connection_count: int
    seconds: float
    size_bytes: int


class Scenario(Protocol):
    """One thing that is measured, on one or more cases."""

    name: str
    title: str

    @property
    def columns(self) -> Sequence[Column]:
        """Return the table's columns, after contender and case."""

    def cases(self, bench: Bench) -> Sequence[str]:
        """Return the cases, cheapest first."""

    def takes(self, contender: Contender) -> bool:
        """Return whether a contender can do this at all."""

    def is_hopeless(self, row: Row) -> bool:
        """Return whether a contender that gave this row needs no harder case."""

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        """Run one case once, on server processes of its own.

        Raises: BenchError if something does not start, ends by itself or hangs.
        """
