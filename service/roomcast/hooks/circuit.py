"""A circuit breaker: what fails again and again is left alone for a while, and then tried by one.

Of our own because the libraries for asyncio have neither growing pauses with jitter nor a clock that tests can turn
(purgatory 3.0.1), or had no release since 2021 (aiobreaker).
"""

from __future__ import annotations

import enum
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FAILURE_LIMIT = 5
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0


class CircuitState(enum.Enum):
    """Whether attempts are let through: all of them, none, or one that shows how it is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitOpen(Exception):  # noqa: N818  (the noun of the field)
    """Nothing is tried now."""


class Circuit:
    """Opens after 5 failures one after the other: for 1 s, and twice as long after each attempt that fails, up to 30 s.

    Args:
        failures: what counts as a failure; an attempt that raises anything else has succeeded.
        clock: `time.monotonic`, seconds.
        random: `random.random`: a pause is 50 to 100 % of its time, so that not all nodes try again at once.
        on_change: told each new state.
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
        self._term = 0  # counts the states: what began in another one says nothing about this one

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Try what stands in the block. Raises: CircuitOpen; what the block raises."""
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
        except BaseException:  # cancelled: nobody knows how it is
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
