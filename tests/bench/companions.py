"""Processes of the bench's own: Redis, load client, publisher, each with a pipe to the one that measures."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from tests.bench.errors import BenchError

# Objects from a pipe are checked on arrival, in `Companion.receive`.
Pipe: TypeAlias = "Connection[Any, Any]"

# A companion leaves when its pipe closes; the publisher, in the middle of publishing, does not look at it.
_LEAVE_TIMEOUT_S = 3.0

P = ParamSpec("P")
T = TypeVar("T")


class Companion:
    """A running companion, seen from the process that measures."""

    def __init__(self, process: SpawnProcess, pipe: Pipe) -> None:
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, message: object) -> None:
        """Tell it something."""
        self._pipe.send(message)

    def receive(self, kind: type[T], *, within_s: float) -> T:
        """Return its next message. Raises: BenchError if it ends, sends something else, or takes too long."""
        if not self._pipe.poll(within_s):
            raise BenchError(f"{self._process.name} did not say {kind.__name__} within {within_s:g} s")
        try:
            message = self._pipe.recv()
        except EOFError:
            raise BenchError(f"{self._process.name} has ended; its last lines are above") from None
        if not isinstance(message, kind):
            raise BenchError(f"{self._process.name} said {message} instead of {kind.__name__}")
        return message


@contextmanager
def companion(
    name: str, work: Callable[Concatenate[Pipe, P], None], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Companion]:
    """Run `work`, a function at the top of a module, in a process of its own; its first argument is its pipe."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(work, theirs, args, kwargs), name=name, daemon=True)
    # Ctrl-C is for the process that measures, which then ends the others in order. A blocked signal stays blocked in
    # all that a process starts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    try:
        yield Companion(process, ours)
    finally:
        ours.close()
        process.join(_LEAVE_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()


def _work(work: Callable[..., None], pipe: Pipe, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    # Again: the first start of all starts multiprocessing's resource tracker too, which unblocks it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        work(pipe, *args, **kwargs)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        if not pipe.poll():  # it is readable once the process that measures has closed its end: then all is well
            raise
