"""The messages from the load clients of inbound traffic to the measuring process."""

from __future__ import annotations

from dataclasses import dataclass


class Connected:
    """Every connection is up, and waits for `Go`."""


class Go:
    """Start."""


@dataclass(frozen=True, slots=True)
class Turned:
    """How many messages made their way to the server and back in the measured window.

    wrong_count: of connections with an answer that was not due, or of messages that came twice or out of order.
    missed_count: messages without an echo when all was silent, including the warm-up.
    """

    per_s: float
    wrong_count: int
    missed_count: int = 0
