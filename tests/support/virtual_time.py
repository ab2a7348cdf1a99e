"""A loop whose time passes at once: when nothing is left to do, it is the time of the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping

from typing_extensions import override


class _Selector(selectors.DefaultSelector):
    now_s = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout:  # None: the test waits for something that nothing will do; it hangs, and is ended from outside
            return super().select(timeout)
        self.now_s += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Stands for the loop of a test without sockets and threads."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    @override
    def time(self) -> float:
        return self._virtual.now_s


# What the fixture `anyio_backend` of a test file returns.
BACKEND: tuple[str, Mapping[str, object]] = ("asyncio", {"loop_factory": VirtualTimeLoop})
