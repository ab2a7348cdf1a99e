"""The error of a measurement."""

from __future__ import annotations


class BenchError(Exception):
    """A run that gave no figures; the text says why."""
