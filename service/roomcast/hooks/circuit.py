"""A circuit breaker: after repeated failures it rejects attempts for a while, and then permits one.

Written here because the asyncio libraries have neither growing pauses with jitter nor a replaceable clock (purgatory
3.0.1), or had no release since 2021 (aiobreaker).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FAILURE_LIMIT = 5
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0


class CircuitState(enum.Enum):
    """Permits all attempts, none, or one that decides the next state."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitOpen(Exception):  # noqa: N818  (the noun of the field)
    """The attempt was rejected because the circuit is open."""


class Circuit:
    """Opens after 5 consecutive failures: for 1 s, and twice as long after each further failure, up to 30 s.

    Args:
        failures: exceptions that count as failures; an attempt that raises any other has succeeded.
        clock: `time.monotonic`, seconds.
        random: `random.random`: a pause is 50 to 100 % of its time, so that nodes do not retry at the same time.
        on_change: called with each new state.
    """

    def __init__(
        self,
        failures: type[Exception],
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        on_change: Callable[[CircuitState], None],
    ) -> None:
        self.state = CircuitState.CLOSED
        self._failures = failures
        self._clock = clock
        self._random = random
        self._on_change = on_change
        self._failure_count = 0
        self._pause_s = _FIRST_PAUSE_S
        self._open_until_s = 0.0
        self._term = 0  # counts the states: an attempt that began in another one does not count in this one

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Run the block as an attempt. Raises: CircuitOpen; the exceptions of the block."""
        term = self._enter()
        try:
            yield
        except self._failures:
            if term == self._term:
                self._failed()
            raise
        except Exception:
            if term == self._term:
                self._succeeded()
            raise
        except BaseException:  # cancelled: neither a failure nor a success
            if term == self._term and self.state is CircuitState.HALF_OPEN:
                self._change(CircuitState.OPEN)
            raise
        if term == self._term:
            self._succeeded()

    def _enter(self) -> int:
        if self.state is CircuitState.HALF_OPEN or (
            self.state is CircuitState.OPEN and self._clock() < self._open_until_s
        ):
            raise CircuitOpen
        if self.state is CircuitState.OPEN:
            self._change(CircuitState.HALF_OPEN)
        return self._term

    def _succeeded(self) -> None:
        self._failure_count = 0
        self._pause_s = _FIRST_PAUSE_S
        if self.state is not CircuitState.CLOSED:
            self._change(CircuitState.CLOSED)

    def _failed(self) -> None:
        self._failure_count += 1
        if self.state is CircuitState.HALF_OPEN or self._failure_count >= _FAILURE_LIMIT:
            self._open_until_s = self._clock() + self._pause_s * (0.5 + self._random() / 2)
            self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)
            self._change(CircuitState.OPEN)

    def _change(self, state: CircuitState) -> None:
        self._term += 1
        self.state = state
        self._on_change(state)
