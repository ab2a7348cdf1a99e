"""Operations that every node performs for the server API: figures, channels, disconnect, unsubscribe."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Mapping

import psutil

from roomcast.connections.connection import Connection
from roomcast.model.channel_patterns import compile_glob
from roomcast.model.errors import FORCE_DISCONNECT, Disconnect
from roomcast.model.json import JsonObject
from roomcast.node.hub import Hub
from roomcast.node.roster import HubRoster
from roomcast.node.survey import Handler
from roomcast.rooms.admission import Followed
from roomcast.rooms.receivers import Chat, Feed, Room

# Channels that are matched between two turns of the event loop: about a millisecond.
_CHANNELS_AT_ONCE = 1000
# Plain clients: each is a subscription to one channel, and cannot be notified that it has ended.
_PLAIN = (Chat, Feed, Followed, Room)


class NodeOperations:
    """Handles `info`, `channels`, `disconnect` and `unsubscribe` of a `Survey`, for connections of every protocol.

    Subscriptions of the Centrifuge protocol are ended in `centrifuge`.

    Args:
        session_id_of: returns the id of a connection's session; "" for a plain one.
        clock: `time.monotonic`, seconds.
    """

    def __init__(
        self,
        hub: Hub,
        roster: HubRoster,
        *,
        node_id: str,
        version: str,
        session_id_of: Callable[[Connection], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._roster = roster
        self._node_id = node_id
        self._version = version
        self._session_id_of = session_id_of
        self._clock = clock
        self._started_at_s = clock()
        self._process = psutil.Process()
        self._process.cpu_percent()  # each call measures the time since the previous one

    def handlers(self) -> Mapping[str, Handler]:
        """Return the handlers by operation."""
        return {
            "info": self.info,
            "channels": self.channels,
            "disconnect": self.disconnect,
            "unsubscribe": self.unsubscribe,
        }

    async def info(self, _params: JsonObject) -> JsonObject:
        """Return the node's figures; cpu is the percentage of one core since the previous call, rss is in bytes."""
        connections = self._hub.connections
        return {
            "uid": self._node_id,
            "name": self._node_id,
            "version": self._version,
            "num_clients": len(connections),
            "num_users": self._hub.user_count(),
            "num_subs": sum(len(connection.subscriptions) for connection in connections),
            "num_channels": len(self._hub.channels()),
            "uptime": int(self._clock() - self._started_at_s),
            "process": {"cpu": self._process.cpu_percent(), "rss": self._process.memory_info().rss},
        }

    async def channels(self, params: JsonObject) -> JsonObject:
        """Return a page of the channels with subscribers here, in the order of their names.

        Args:
            params: `{"pattern": "room:*", "cursor": "room:a", "limit": 100}`: at most `limit` channels after `cursor`.
        Returns: `{"channels": {"room:b": 2}, "has_more": false}`: the number of subscribers of each on this node.
        """
        pattern, cursor, limit = compile_glob(params["pattern"]), params["cursor"], params["limit"]
        found: list[str] = []
        for number, channel in enumerate(tuple(self._hub.channels()), 1):
            if channel > cursor and pattern.match(channel):
                found.append(channel)
            if number % _CHANNELS_AT_ONCE == 0:
                # Keep the page so far, so that no larger list is ever sorted.
                found = heapq.nsmallest(limit + 1, found)
                await asyncio.sleep(0)
        page = heapq.nsmallest(limit + 1, found)
        counts = {channel: self._hub.subscriber_count(channel) for channel in page[:limit]}
        return {"channels": counts, "has_more": len(page) > limit}

    async def disconnect(self, params: JsonObject) -> JsonObject:
        """Disconnect connections of a user.

        Args:
            params: `{"user": "ada", "client": "n1-7", "whitelist": ["n1-8"], "disconnect": {"code": 4000, "reason":
                "x"}}`: one client, or all except those of the whitelist.
        """
        wanted = params.get("disconnect", {})
        code, reason = wanted.get("code") or FORCE_DISCONNECT.code, wanted.get("reason") or FORCE_DISCONNECT.reason
        spared = frozenset(params.get("whitelist", ()))
        for connection in self._connections_of(params):
            if self._roster.client_id(connection) not in spared:
                connection.close(Disconnect(code, reason))
        return {}

    async def unsubscribe(self, params: JsonObject) -> JsonObject:
        """Disconnect plain connections of a user that are subscribed to a channel.

        Args:
            params: `{"user": "ada", "channel": "room:a", "client": "n1-7"}`.
        """
        for connection in self._connections_of(params):
            if params["channel"] in connection.subscriptions and isinstance(connection.receiver, _PLAIN):
                connection.close(FORCE_DISCONNECT)
        return {}

    def _connections_of(self, params: JsonObject) -> list[Connection]:
        """Return the selected connections: all of a user, or the one with this client id or session id."""
        session_id = params.get("session", "")
        return [
            connection
            for connection in self._roster.named(params["user"], params.get("client", ""))
            if session_id in {"", self._session_id_of(connection)}
        ]
