"""The interface of presence: the members of each channel, over all nodes. Its docstrings are the contract.

A node's clients are members under its *lease*, a name that is alive as long as the node reports. An idle member costs
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntEnum
from typing import NamedTuple, Protocol

from roomcast.model.client_info import ClientInfo
from roomcast.redis_access.work_queue import StreamCounts

MAX_PAGE_LENGTH = 1000
# A node reports every second, and counts as dead after three missed reports.
LEASE_TTL_S = 3.0


class Counts(NamedTuple):
    """The members of a channel. Several clients of one user count as one user, and so do all anonymous ones."""

    client_count: int
    user_count: int


class Page(NamedTuple):
    """Some of a channel's clients. cursor: of the next page; empty after the last one."""

    clients: list[ClientInfo]
    cursor: str


class LeaseState(IntEnum):
    """The state of a lease at its node's report. STARTED: there was no report before, or Redis has lost it."""

    ENDED = 0
    ALIVE = 1
    STARTED = 2


class Roster(Protocol):
    """The subscribers of this node."""

    __slots__ = ()

    def channels(self) -> Collection[str]:
        """Return the channels that have a subscriber here."""

    def members(self, channel: str) -> Iterable[ClientInfo]:
        """Return a channel's subscribers here; none if its namespace has no presence."""

    def member_count(self, channel: str) -> int:
        """Return the number of `members`."""


class Presence(Protocol):
    """The members of channels, and which channels have a subscriber at all.

    Changes reach Redis within a round, many in one call; while Redis is away they are kept. Members that Redis loses
    are written again within 25 s, and not published as joined.
    Delivery: joins and leaves reach the subscribers of channels with `join_leave`, many in one event; occupied and
        vacated channels are published in the broker channel `events`. At most once each (docs/presence.md).
    """

    __slots__ = ()

    @property
    def lease(self) -> str:
        """Return the present lease of this node's members; the node reports it."""

    async def run(self) -> None:
        """Write changes to Redis, and end the leases of dead nodes; end only when cancelled."""

    def join(self, channel: str, info: ClientInfo) -> None:
        """Add a client to a channel. Its user stays the same as long as it is connected."""

    def leave(self, channel: str, client: str) -> None:
        """Remove a client from a channel."""

    def occupy(self, channel: str) -> None:
        """A channel has its first subscriber on this node."""

    def vacate(self, channel: str) -> None:
        """A channel has no subscriber on this node; written a second or two later, in case a client resubscribes."""

    @property
    def fault_count(self) -> int:
        """Return how often Redis has refused a channel's changes, or had lost its members."""

    def doubt(self) -> None:
        """Write everything again after the next report, because Redis may have lost something. Nothing is published."""

    def reported(self, state: LeaseState) -> None:
        """The node has reported the lease, which was in this state.

        If it has ended, other nodes have published that its clients left: they join again, under another lease.
        """

    async def retire(self) -> None:
        """End this node's lease, after `run` has ended. Raises: BrokerUnavailable."""

    async def page(self, channel: str, *, cursor: str = "", limit: int = 100) -> Page:
        """Return some of a channel's clients, of all nodes.

        Clients that stay are on some page; those that join or leave between pages may be missing, or on two.
        Args:
            cursor: of the page before; empty for the first one.
            limit: 1 to MAX_PAGE_LENGTH; a page may hold some more.
        Raises: ClientError 107 for an invalid cursor; BrokerUnavailable.
        """

    async def count(self, channel: str) -> Counts:
        """Return the number of members of a channel, in constant time. Raises: BrokerUnavailable."""


class Registry(Protocol):
    """The nodes of the cluster, by their leases."""

    __slots__ = ()

    async def report(self, lease: str, connection_count: int, *, ttl_s: float) -> LeaseState:
        """Report that a node is alive, for at most `ttl_s`, and its number of clients.

        A lease that has ended stays so: another node may have swept it.
        Raises: BrokerUnavailable.
        """

    async def end(self, lease: str, last_report: bytes) -> bool:
        """End a dead node's lease; return false if it has reported since `last_report`. Raises: BrokerUnavailable."""

    async def retire(self, lease: str) -> None:
        """Report that a node shuts down. Raises: BrokerUnavailable."""

    async def connection_counts(self) -> dict[str, int]:
        """Return the connection count of every node that is alive, by lease. Raises: BrokerUnavailable."""

    async def reports(self) -> dict[str, bytes]:
        """Return the last report of each lease that is not swept yet; each is different. Empty: there is none.

        Raises: BrokerUnavailable.
        """

    async def ingest_counts(self) -> StreamCounts:
        """Return the number of entries in the ingest stream. Raises: BrokerUnavailable."""
