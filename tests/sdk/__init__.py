"""Clients of the Centrifuge protocol as people have them: unmodified SDKs, driven by tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.support.balancer import Balancer
from tests.support.processes import eventually

Event = dict[str, Any]
Kinds = tuple[tuple[str, str], ...]


class SdkError(Exception):
    """The SDK rejected a call."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


class Driver(Protocol):
    """One process, or page, with any number of clients of one SDK.

    kinds: the transports and encodings that the SDK has.
    """

    kinds: Kinds

    async def perform(self, call: str, client: str, **arguments: Any) -> Any:
        """Do a call of driver.mjs with the SDK. Raises: SdkError."""

    async def events(self) -> list[Event]:
        """Return all events that driver.mjs has emitted."""


_names = itertools.count(1)


@dataclass
class Client:
    """One client of an SDK.

    balancer: where it connects to.
    """

    driver: Driver
    balancer: Balancer
    transport: str = "websocket"
    encoding: str = "json"
    name: str = field(default_factory=lambda: f"client-{next(_names)}")
    is_made: bool = False

    async def open(self, *, options: Mapping[str, Any] | None = None, **arguments: Any) -> None:
        """Make the client; it does not connect yet.

        Args:
            tokens: the first one, and those that getToken returns, the last of them for ever.
            data: goes with `connect`. options: of the SDK.
        """
        scheme = "ws" if self.transport == "websocket" else "http"
        endpoint = self.balancer.url(f"/connection/{self.transport}", scheme)
        given = {
            "emulationEndpoint": self.balancer.url("/emulation"),
            "minReconnectDelay": 50,
            "maxReconnectDelay": 300,
            **(options or {}),
        }
        endpoints = [{"transport": self.transport, "endpoint": endpoint}]
        await self.perform("open", encoding=self.encoding, endpoints=endpoints, options=given, **arguments)
        self.is_made = True

    async def close(self) -> None:
        """Disconnect, if there is something to disconnect."""
        if self.is_made:
            await self.perform("disconnect")

    async def connect(self, **arguments: Any) -> Event:
        """Make the client, connect it, and return the event `connected`. Arguments: as of `open`."""
        await self.open(**arguments)
        await self.perform("connect")
        return await self.heard("connected")

    async def subscribe(
        self,
        channel: str,
        *,
        tokens: list[str] | None = None,
        states: list[dict[str, Any]] | None = None,
        **options: Any,
    ) -> Event:
        """Subscribe, and return the event `subscribed`.

        Args:
            tokens: as of `open`. states: the positions that getState returns, one after the other.
            options: of the SDK.
        """
        given_by_test = {"tokens": tokens, "states": states}
        more = {name: value for name, value in given_by_test.items() if value is not None}
        given = {"minResubscribeDelay": 50, "maxResubscribeDelay": 300, **options}
        await self.perform("subscribe", channel=channel, options=given, **more)
        return await self.heard("subscribed", channel=channel)

    async def perform(self, call: str, **arguments: Any) -> Any:
        """Do a call of driver.mjs with this client. Raises: SdkError."""
        return await self.driver.perform(call, self.name, **arguments)

    async def events(self, event: str, **members: Any) -> list[Event]:
        """Return the events of this client, of one kind and with these members."""
        wanted = {"client": self.name, "event": event, **members}
        return [each for each in await self.driver.events() if all(each.get(name) == wanted[name] for name in wanted)]

    async def heard(self, event: str, count: int = 1, **members: Any) -> Event:
        """Return the latest event of this kind once there are `count` of them. Raises: AssertionError."""

        async def enough() -> list[Event]:
            found = await self.events(event, **members)
            return found if len(found) >= count else []

        try:
            return (await eventually(enough))[-1]
        except AssertionError:
            told = [each for each in await self.driver.events() if each["client"] == self.name]
            raise AssertionError(f"{self}: no {count} {event} {members}, but {told}") from None

    async def published(self, channel: str, count: int) -> list[Any]:
        """Return the publications of a channel in their order, once there are `count`. Raises: AssertionError."""
        await self.heard("publication", count, channel=channel)
        return [each["data"] for each in await self.events("publication", channel=channel)]
