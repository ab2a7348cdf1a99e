"""Percentiles."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(ordered: Sequence[int], percent: float) -> int:
    """Return the nearest-rank percentile of ascending values; 0 of none."""
    if not ordered:
        return 0
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
