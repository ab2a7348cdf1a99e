"""The keys of a channel's members, and the commands that write and read them.

Beside a channel's other keys (`brokers.history_commands`): `:members` (a hash: client -> lease, user and entry, see
join.lua), `:users` (a hash: user -> number of its clients), `:tally` (a hash: lease -> number of its members),
`:members:<lease>` (a set of clients), `:nodes` (a set of the leases that have a subscriber). They expire a minute after
the last node with a subscriber has died.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import structlog

from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.namespaces import Namespaces
from roomcast.presence.interface import Page
from roomcast.presence.occupancy import EVENTS, occupied, vacated
from roomcast.redis_access.envelope import MalformedMessage, pack_clients, unpack_clients
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.scripts import Command, read_script

log = structlog.get_logger(__name__)

# Nodes refresh it every 20 s, so keys expire only after all their nodes have died.
TTL_S = 60
_TTL_MS = TTL_S * 1000
# The members that one call of a script adds, removes by name, or sweeps. 200 are swept in 0.5 ms (docs/presence.md).
MAX_JOINED = 100
MAX_LEFT = 100
_MAX_SWEPT = 200
_MAX_CURSOR = 2**64 - 1
# Before the entry of a member whose join and leave are not published; see join.lua.
_SILENT = b"!"


class PresenceCommands:
    """Makes the commands of presence, and reads their replies.

    Args:
        publish_command: PUBLISH, or SPUBLISH in a cluster.
    """

    def __init__(self, keys: ChannelKeys, namespaces: Namespaces, *, publish_command: str) -> None:
        self._keys = keys
        self._namespaces = namespaces
        self._publish_command = publish_command
        self._join = read_script("roomcast.presence", "members", "join")
        self._leave = read_script("roomcast.presence", "members", "leave")
        self._occupy = read_script("roomcast.presence", "members", "occupy")
        self.scripts = (self._join, self._leave, self._occupy)

    def join(self, channel: str, lease: str, clients: Sequence[ClientInfo], *, is_news: bool = True) -> Command:
        """Return the command that adds clients, at most MAX_JOINED, to a channel; published only if they `is_news`."""
        topic = self._topic(channel) if is_news else ""
        args: list[str | bytes | int] = [self._publish_command, topic, lease, _TTL_MS]
        for info in clients:
            entry = pack_clients((info,))[1:-1]
            args += (info.client, orjson.dumps(info.user), _SILENT + entry if info.is_silent else entry)
        return self._join.call(self._member_keys(channel, lease), args)

    def leave(self, channel: str, lease: str, clients: Sequence[str | bytes]) -> Command:
        """Return the command that removes clients, at most MAX_LEFT, from a channel, under any lease."""
        keys = [*self._member_keys(channel, lease), self._keys.key(channel, "nodes")]
        args: list[str | bytes | int] = [self._publish_command, self._topic(channel), lease, _MAX_SWEPT]
        return self._leave.call(keys, [*args, self._keys.topic(EVENTS), vacated(channel), *clients])

    def sweep(self, channel: str, lease: str) -> Command:
        """Return the command that removes members of a lease from a channel; the reply is the number that remain.

        With the last of them the lease itself stops counting as a subscriber.
        """
        return self.leave(channel, lease, ())

    def occupy(self, channel: str, lease: str, member_count: int = 0, *, is_news: bool = True) -> Command:
        """Return the command that adds a lease's subscriber, keeps the channel's keys alive, and checks its members.

        See `read_check`; the event is published only if it `is_news`.
        """
        keys = [*self._member_keys(channel, lease), self._keys.key(channel, "nodes")]
        event = occupied(channel) if is_news else b""
        return self._occupy.call(keys, [lease, _TTL_MS, self._keys.topic(EVENTS), event, member_count])

    @staticmethod
    def read_check(reply: Any) -> tuple[bool, set[str]]:  # Any: redis-py's reply
        """Return whether Redis has all members of the lease, and leases with a subscriber (some, if many)."""
        is_whole, *leases = reply
        return bool(is_whole), {str(lease, "utf-8", "replace") for lease in leases}

    def leases(self, channel: str) -> Command:
        """Return the command that reads leases with a subscriber of a channel (some, if many)."""
        return ("SRANDMEMBER", self._keys.key(channel, "nodes"), 16)

    def own_members(self, channel: str, lease: str) -> Command:
        """Return the command that reads the clients of a lease in a channel."""
        return ("SMEMBERS", self._keys.key(channel, f"members:{lease}"))

    def count(self, channel: str) -> list[Command]:
        """Return the commands that count a channel's clients and its users."""
        return [("HLEN", self._keys.key(channel, name)) for name in ("members", "users")]

    def page(self, channel: str, cursor: str, limit: int) -> Command:
        """Return the command that reads a page. Raises: ClientError 107 for an invalid cursor."""
        if cursor and (not cursor.isascii() or not cursor.isdigit() or int(cursor[:21]) > _MAX_CURSOR):
            raise ClientError(ErrorCode.BAD_REQUEST, "a cursor is the text that came with the page before")
        return ("HSCAN", self._keys.key(channel, "members"), cursor or "0", "COUNT", limit)

    @staticmethod
    def read_page(channel: str, reply: Any) -> Page:  # Any: redis-py's reply
        """Return the page of a reply to `page`; malformed members are left out."""
        cursor, members = reply
        clients: list[ClientInfo] = []
        for member in members.values():
            try:
                clients += unpack_clients(b"[%b]" % member.split(b"\n", 2)[-1].removeprefix(_SILENT))
            except MalformedMessage:
                log.warning("presence.malformed_member", channel=channel)
        return Page(clients, str(cursor) if cursor else "")

    def _member_keys(self, channel: str, lease: str) -> list[str]:
        return [self._keys.key(channel, name) for name in ("members", "users", "tally", f"members:{lease}")]

    def _topic(self, channel: str) -> str:
        """Return the topic of joins and leaves; "" for none, also if the channel's namespace was removed."""
        try:
            return self._keys.topic(channel) if self._namespaces.of(channel).join_leave else ""
        except ClientError:
            return ""
