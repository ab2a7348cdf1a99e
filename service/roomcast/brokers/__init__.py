"""What carries publications between nodes: the interface; its docstrings are the contract that tests hold all to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from roomcast.model.namespaces import Namespace
from roomcast.model.publications import Position, Publication

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roomcast.model.errors import BrokerUnavailable, ClientError
    from roomcast.model.publications import Heard, History

__all__ = ["ALWAYS", "Broker", "Once", "Published", "Read", "Sink", "Submission"]

# What may come from outside in a `Once`.
MAX_KEY_LENGTH = 128
MAX_VERSION = 2**53 - 1
MAX_VERSION_EPOCH_LENGTH = 64


class Once(NamedTuple):
    """What makes a publication happen once, or not at all.

    key: the same key within 5 minutes is the same publication: it is published once, and each gets its position.
    version: one that is not higher than the newest in `version_epoch` is dropped.
    lease_owner: who must hold the channel's lease.
    """

    key: str = ""
    version: int | None = None
    version_epoch: str = ""
    lease_owner: str = ""


ALWAYS = Once()


class Published(NamedTuple):
    """What became of a publication.

    position: where it stands in the history, or where the first one with its key does; None without a history.
    receiver_count: how many subscribed connections (nodes, mostly) took it; -1: it was published before; -2: a newer
        version was; -3: the lease is not held.
    """

    position: Position | None
    receiver_count: int


class Submission(NamedTuple):
    """A publication that is to be published with others; see `Broker.publish`."""

    publication: Publication
    namespace: Namespace
    once: Once
    skip_history: bool = False


class Read(NamedTuple):
    """What is to be read of a channel's history.

    seen: the newest position that the reader knows: if Redis has less, it has lost its tail, and the epoch ends.
    since: publications after it are wanted; of another epoch: also those of this epoch; None: all that are kept.
    before: only publications before it are wanted; of another epoch: none of them is known to be; None: up to the top.
    limit: so many at most; 0: the position alone. newest: the newest ones and not the oldest.
    """

    channel: str
    namespace: Namespace
    seen: Position | None = None
    since: Position | None = None
    limit: int = 0
    newest: bool = False
    before: Position | None = None


class Sink(Protocol):
    """Who hears what a broker brings. Called in the reader's task: must not block, await or raise."""

    def on_event(self, event: Heard) -> None:
        """Take what is told in a subscribed channel, in the channel's order."""

    def on_malformed(self, channel: str, reason: str) -> None:
        """Take note of a message, or an entry in a stream, that is no publication; it was dropped."""

    def on_disconnected(self) -> None:
        """Take note that publications of any subscribed channel may be missed until `on_connected`."""

    def on_connected(self, *, is_again: bool) -> None:
        """Take note that all subscribed channels are heard; `is_again`: after `on_disconnected`."""


class Broker(Protocol):
    """Carries publications between the nodes of one cluster, and keeps the channels' histories."""

    async def run(self, sink: Sink) -> None:
        """Give `sink` what the connection brings; keep it for ever, through every outage; end only when cancelled."""

    def reason_not_ready(self) -> str | None:
        """Return why nothing can be delivered now, or None when all is well."""

    async def subscribe(self, channel: str) -> None:
        """Want a channel's publications from now on; return once the server has confirmed it.

        Delivery: at most once, in one order for all; every publication whose publish began after this returned,
            unless the connection to the server is lost (then the `Sink` is told).
        Raises: BrokerUnavailable if it was not confirmed in time; the channel stays wanted until `unsubscribe`.
        """

    def unsubscribe(self, channel: str) -> None:
        """Want a channel no longer; the server is told a little later, in case somebody comes back."""

    async def publish(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        seen: Position | None = None,
        once: Once = ALWAYS,
        skip_history: bool = False,
    ) -> Published:
        """Publish to all nodes, and keep the publication if the namespace has a history: one step in Redis.

        Delivery: at most once per subscriber, in the order of the calls; with a history see docs/guarantees.md.
        Args:
            seen: the newest position that the caller knows; see `Read`.
            skip_history: publish as in a channel without a history: who is not there now never gets it.
        Raises: BrokerUnavailable; the publication may have been delivered all the same.
        """

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        taken: Callable[[Published | BrokerUnavailable], None],
        *,
        seen: Position | None = None,
    ) -> None:
        """Publish without waiting for it; `taken` is told once, now or later, what `publish` would return or raise."""

    async def publish_all(self, submissions: Sequence[Submission]) -> list[Published | ClientError | BrokerUnavailable]:
        """Publish many at once, in their order; return what became of each.

        Of one channel an earlier one may be refused and a later one taken, when Redis runs out of memory in between.
        Returns: ClientError for a channel whose keys in Redis somebody else has written, BrokerUnavailable for what
            may be taken later.
        Raises: BrokerUnavailable; then nobody knows which of them were published.
        """

    async def settle(self, *, within_s: float) -> None:
        """Wait until everything published has been taken or refused, `within_s` at most."""

    async def read(self, reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
        """Return, for each read, a channel's position with the publications that were asked for, in their order.

        A channel without a position gets one. Entries in the stream that are no publications are left out.
        """

    async def remove_history(self, channel: str) -> None:
        """Remove the publications that are kept of a channel, and tell the nodes; its position stays.

        Whoever is at the newest position has missed nothing. Who is behind it cannot be given what is removed, and is
        told so.
        Raises: BrokerUnavailable; they may have been removed all the same.
        """
