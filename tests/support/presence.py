"""Clients for tests of presence, and a listener for the announcements of joins and leaves."""

from __future__ import annotations

from collections.abc import Collection

import orjson
from redis.asyncio import Redis

from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import Namespace, Namespaces
from roomcast.model.publications import Membership
from roomcast.redis_access.envelope import unpack
from tests.support.processes import DEADLINE_S, eventually

ADA = ClientInfo("n1-1", "ada", b'{"color":"red"}')
ADA_AGAIN = ClientInfo("n1-2", "ada")
BOB = ClientInfo("n1-3", "bob\n\xe9")
NOBODY = ClientInfo("n1-4", "")
NAMESPACES = Namespaces(
    {
        "room": Namespace(presence=True, join_leave=True),
        "quiet": Namespace(presence=True),
        "feed": Namespace(),
    }
)


class Announcements:
    """Keeps the joins and leaves that are published in channels, and the events in the topic `events`."""

    def __init__(self, client: Redis, prefix: str, *channels: str) -> None:
        self._pubsub = client.pubsub()
        self._topics = {f"{prefix}{channel}": channel for channel in ("events", *channels)}
        self._prefix = prefix
        self.memberships: list[Membership] = []
        self.events: list[tuple[str, str]] = []

    async def __aenter__(self) -> Announcements:
        await self._pubsub.subscribe(*self._topics)
        for _ in self._topics:
            assert (await self._pubsub.get_message(timeout=DEADLINE_S) or {})["type"] == "subscribe"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py

    async def hear(self) -> bool:
        """Take one message; return whether there was one."""
        message = await self._pubsub.get_message(timeout=0.05)
        if message is None:
            return False
        channel = self._topics[message["channel"].decode()]
        if channel == "events":
            event = orjson.loads(message["data"])
            self.events.append((event["event"], event["channel"]))
        else:
            told = unpack(channel, message["data"], max_message_bytes=1000)
            assert isinstance(told, Membership)
            self.memberships.append(told)
        return True

    async def until(self, joined: Collection[str] = (), left: Collection[str] = ()) -> None:
        """Wait until just these clients have joined and left, each once, and nothing follows."""

        async def is_all() -> bool:
            await self.hear()
            return sorted(self.joined()) == sorted(joined) and sorted(self.left()) == sorted(left)

        await eventually(is_all)
        while await self.hear():
            pass
        assert (sorted(self.joined()), sorted(self.left())) == (sorted(joined), sorted(left))

    async def until_events(self, *events: tuple[str, str]) -> None:
        async def is_all() -> bool:
            await self.hear()
            return self.events == list(events)

        await eventually(is_all)

    def joined(self) -> list[str]:
        return [info.client for told in self.memberships if told.have_joined for info in told.clients]

    def left(self) -> list[str]:
        return [info.client for told in self.memberships if not told.have_joined for info in told.clients]
