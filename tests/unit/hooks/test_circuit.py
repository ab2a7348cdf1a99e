from __future__ import annotations

import pytest

from roomcast.hooks.circuit import Circuit, CircuitOpen, CircuitState
from tests.support.fakes import Clock


class FaultError(Exception):
    """An exception that counts as a failure."""


class Circuits:
    """A circuit whose time the test turns."""

    def __init__(self, *, random: float = 1.0) -> None:
        self.clock = Clock()
        self.states: list[CircuitState] = []
        self.circuit = Circuit(FaultError, clock=self.clock, random=lambda: random, on_change=self.states.append)

    def fail(self, count: int = 1) -> None:
        for _ in range(count):
            with pytest.raises(FaultError), self.circuit.attempt():
                raise FaultError

    def succeed(self) -> None:
        with self.circuit.attempt():
            pass

    def is_open(self) -> bool:
        try:
            with self.circuit.attempt():
                raise KeyboardInterrupt  # neither a failure nor a success
        except CircuitOpen:
            return True
        except KeyboardInterrupt:
            return False


def test_it_opens_after_five_failures_one_after_the_other() -> None:
    it = Circuits()

    it.fail(4)
    it.succeed()
    it.fail(4)
    assert it.states == []
    it.fail()

    assert it.states == [CircuitState.OPEN]
    with pytest.raises(CircuitOpen):
        it.succeed()


def test_what_is_no_failure_closes_it() -> None:
    it = Circuits()
    it.fail(4)

    with pytest.raises(ValueError, match="the application says no"), it.circuit.attempt():
        raise ValueError("the application says no")
    it.fail(4)

    assert it.circuit.state is CircuitState.CLOSED


def test_after_its_pause_one_attempt_is_let_through_and_success_closes_it() -> None:
    it = Circuits()
    it.fail(5)

    it.clock.now_s += 0.999
    assert it.is_open()
    it.clock.now_s += 0.001
    with it.circuit.attempt():
        assert it.states[-1] is CircuitState.HALF_OPEN
        assert it.is_open(), "one only"

    assert it.states == [CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED]
    it.fail(4)
    assert it.circuit.state is CircuitState.CLOSED


def test_each_failed_attempt_doubles_the_pause_up_to_thirty_seconds() -> None:
    it = Circuits()
    it.fail(5)

    pauses_s = []
    for _ in range(7):
        started_s = it.clock.now_s
        while it.is_open():
            it.clock.now_s += 0.5
        pauses_s.append(it.clock.now_s - started_s)
        it.fail()

    assert pauses_s == [1, 2, 4, 8, 16, 30, 30]


def test_after_a_success_the_pause_is_short_again() -> None:
    it = Circuits()
    it.fail(5)
    it.clock.now_s += 1
    it.fail()
    it.clock.now_s += 2
    it.succeed()

    it.fail(5)
    it.clock.now_s += 1

    assert not it.is_open()


def test_jitter_takes_up_to_half_of_the_pause_away() -> None:
    it = Circuits(random=0.0)
    it.fail(5)

    it.clock.now_s += 0.5

    assert not it.is_open()


def test_a_cancelled_attempt_says_nothing_and_lets_the_next_one_through() -> None:
    it = Circuits()
    it.fail(5)
    it.clock.now_s += 1

    with pytest.raises(KeyboardInterrupt), it.circuit.attempt():
        raise KeyboardInterrupt
    it.succeed()

    assert it.circuit.state is CircuitState.CLOSED


def test_what_began_before_it_opened_neither_closes_it_nor_opens_it_again() -> None:
    it = Circuits()
    with it.circuit.attempt():
        it.fail(5)
    assert it.circuit.state is CircuitState.OPEN

    it.clock.now_s += 1
    with pytest.raises(FaultError), it.circuit.attempt():  # the attempt that decides the state
        it.clock.now_s += 100
        raise FaultError
    assert it.is_open(), "the pause began when it failed"
