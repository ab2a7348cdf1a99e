"""A client that reconnects as real ones do; what it subscribes to is up to its kind."""

from __future__ import annotations

import abc
import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

import httpx
from websockets.exceptions import WebSocketException

from tests.chaos.publisher import backoff_s

OPEN_TIMEOUT_S = 5.0
_LOST = (OSError, TimeoutError, WebSocketException, httpx.TransportError)

Event = TypeVar("Event")


class Client(abc.ABC, Generic[Event]):
    """Stays connected, however often the connection is lost, and can be made to stall or to change its network.

    connection_count: connections on which something was received.
    """

    def __init__(self, chance: random.Random) -> None:
        self.connection_count = 0
        self._chance = chance
        self._reads = asyncio.Event()
        self._reads.set()
        self._is_leaving = asyncio.Event()

    def stall(self) -> None:
        """Read nothing until `go_on`; the connection stays open."""
        self._reads.clear()

    def go_on(self) -> None:
        """Read again."""
        self._reads.set()

    def leave(self) -> None:
        """Abandon the connection, as a client does when its network changes; the client reconnects."""
        self._is_leaving.set()

    async def run(self) -> None:
        """Stay subscribed, however often the connection is lost; end only when cancelled."""
        attempt = 0
        while True:
            before = self.connection_count
            with suppress(*_LOST):  # the next connection reports missed publications
                await self._listen()
            attempt = 0 if self.connection_count > before else attempt + 1
            await asyncio.sleep(backoff_s(self._chance, attempt))

    @abc.abstractmethod
    def take(self, event: Event, *, is_first: bool) -> None:
        """Take an event; is_first: of its connection."""

    @abc.abstractmethod
    def _connect(self) -> AsyncGenerator[Event, None]:
        """Connect to a node and yield events until it ends the connection. Raises: one of _LOST."""

    async def _listen(self) -> None:
        """Take the events of one connection, until it is lost. Raises: one of _LOST."""
        self._is_leaving.clear()
        is_first = True
        async with aclosing(self._connect()) as events:
            async for event in events:
                self.connection_count += is_first
                self.take(event, is_first=is_first)
                is_first = False
                await self._reads.wait()
                if self._is_leaving.is_set():
                    return
