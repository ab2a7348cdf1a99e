"""Who is in which channel, over all nodes: the interface; its docstrings are the contract.

A node's clients are members under its *lease*, a name that lives as long as the node reports. An idle member costs
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from roomcast.model.publications import ClientInfo
    from roomcast.redis_access.work_queue import StreamCounts

__all__ = ["MAX_PAGE_LENGTH", "Counts", "Page", "Presence", "Roster"]

MAX_PAGE_LENGTH = 1000


class Counts(NamedTuple):
    """How many are in a channel. Several clients of one user are one user, and so are all those that name none."""

    client_count: int
    user_count: int


class Page(NamedTuple):
    """Some of a channel's clients. cursor: where the next page begins; empty after the last one."""

    clients: list[ClientInfo]
    cursor: str


class Roster(Protocol):
    """Knows the subscribers of this node."""

    def channels(self) -> Collection[str]:
        """Return the channels that have a subscriber here."""

    def members(self, channel: str) -> Iterable[ClientInfo]:
        """Return a channel's subscribers here; none if its namespace has no presence."""


class Presence(Protocol):
    """Keeps the members of channels, and whether anybody is subscribed at all.

    What is noted here is in Redis soon, all of one moment together; while Redis is away it is kept.
    Delivery: that somebody joined or left is told, once and many at a time, to the subscribers of channels with
        `join_leave`; that a channel is occupied or vacated is told in the broker channel `events`. At most once each
        (docs/presence.md).
    """

    @property
    def lease(self) -> str:
        """Return the name under which this node's members are kept now; its node reports it."""

    async def run(self) -> None:
        """Tell Redis what is noted, and end the leases of dead nodes; end only when cancelled."""

    def join(self, channel: str, info: ClientInfo) -> None:
        """Note that a client is in a channel. Its user is the same for as long as it lives."""

    def leave(self, channel: str, client: str) -> None:
        """Note that a client is in a channel no longer."""

    def occupy(self, channel: str) -> None:
        """Note that a channel has its first subscriber here."""

    def vacate(self, channel: str) -> None:
        """Note that a channel has no subscriber here; told a second or two later, in case somebody comes back."""

    def doubt(self) -> None:
        """Note that Redis may have lost something: all that is here is told again. Nobody joins twice by it."""

    def renew(self) -> None:
        """Take another lease, because others may have ended this one."""

    async def retire(self) -> None:
        """End this node's lease, after `run` has ended. Raises: BrokerUnavailable."""

    async def page(self, channel: str, *, cursor: str = "", limit: int = 100) -> Page:
        """Return some of a channel's clients, on whatever node.

        Who is there all the while is on some page; who comes or goes meanwhile may be missing, or there twice.
        Args:
            cursor: of the page before; empty for the first one.
            limit: about how many, 1 to MAX_PAGE_LENGTH; a page may hold some more.
        Raises: ClientError 107 for a cursor that is none; BrokerUnavailable.
        """

    async def count(self, channel: str) -> Counts:
        """Return how many are in a channel, in constant time. Raises: BrokerUnavailable."""


class Registry(Protocol):
    """Knows the living nodes of the cluster, each by the lease under which it works (see `roomcast.presence`)."""

    async def report(self, lease: str, connection_count: int, *, ttl_s: float, is_new: bool) -> bool:
        """Say that a node lives, for at most `ttl_s`, and how many clients it holds.

        Returns: whether the lease holds. One that is not new and has ended does not begin again: others may have swept
            it.
        Raises: BrokerUnavailable.
        """

    async def retire(self, lease: str) -> None:
        """Say that a node ends. Raises: BrokerUnavailable."""

    async def connection_counts(self) -> dict[str, int]:
        """Return the connection count of every living node, by lease. Raises: BrokerUnavailable."""

    async def dead(self) -> set[str]:
        """Return the leases that have ended and are not swept yet. Raises: BrokerUnavailable."""

    async def ingest_counts(self) -> StreamCounts:
        """Return what is in the ingest stream. Raises: BrokerUnavailable."""
