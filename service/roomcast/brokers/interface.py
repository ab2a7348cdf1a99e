"""Carries publications between nodes: the interface, to whose docstrings tests hold every implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import BrokerEvent, History, Publication

# The limits of a `Once` that other services send.
MAX_KEY_LENGTH = 128
MAX_VERSION = 2**53 - 1
MAX_VERSION_EPOCH_LENGTH = 64


class Once(NamedTuple):
    """Conditions under which a publication is published, checked in the same step.

    key: the same key within 5 minutes is the same publication: published once, and each call returns its position.
    version: one that is not higher than the newest in `version_epoch` is dropped.
    lease_owner: must hold the channel's lease.
    """

    key: str = ""
    version: int | None = None
    version_epoch: str = ""
    lease_owner: str = ""


ALWAYS = Once()


class Published(NamedTuple):
    """The result of a publication.

    position: its place in the history, or that of the first one with its key; None without a history.
    receiver_count: of subscribed connections to Redis, most of them nodes; -1: it was published before; -2: a newer
        version was; -3: the lease is not held.
    """

    position: Position | None
    receiver_count: int


class Submission(NamedTuple):
    """A publication to be published with others; see `Broker.publish`."""

    publication: Publication
    namespace: Namespace
    once: Once
    skip_history: bool = False


class Read(NamedTuple):
    """A query of a channel's history.

    seen: positions that the node knows: if Redis has lost one of them, a new epoch starts.
    since: select publications after it; if it is of another epoch, also all of this epoch; None: all.
    before: select publications before it; if it is of another epoch, none; None: up to the top.
    limit: the most publications; 0: the position alone. newest: select the newest ones, not the oldest.
    """

    channel: str
    namespace: Namespace
    seen: Sequence[Position] = ()
    since: Position | None = None
    limit: int = 0
    newest: bool = False
    before: Position | None = None


class Sink(Protocol):
    """Receives the events of a broker. Called in the reader's task: must not block, await or raise."""

    __slots__ = ()

    def on_event(self, event: BrokerEvent) -> None:
        """Receive an event of a subscribed channel, in the channel's order."""

    def on_malformed(self, channel: str, reason: str) -> None:
        """A message or an entry in a stream is malformed; it was dropped."""

    def on_disconnected(self) -> None:
        """Until `on_connected`, publications of any subscribed channel may be lost."""

    def on_connected(self, *, is_again: bool) -> None:
        """All subscribed channels are received; `is_again`: after `on_disconnected`."""


class Broker(Protocol):
    """Carries publications between the nodes of one cluster, and keeps the channels' histories."""

    __slots__ = ()

    async def run(self, sink: Sink) -> None:
        """Pass events to `sink`, through every outage; end only when cancelled."""

    def reason_not_ready(self) -> str | None:
        """Return why nothing can be delivered now, or None."""

    def refusals(self) -> Mapping[str, int]:
        """Return how often the server has refused a command, by kind."""

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel; return once the server has confirmed it.

        Delivery: at most once, in one order for all; every publication whose publish began after this returned,
            unless the connection to the server is lost (then the `Sink` is notified).
        Raises: BrokerUnavailable if it was not confirmed in time; the broker retries until `unsubscribe`.
        """

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel, a little later, in case a client subscribes again."""

    async def publish(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        seen: Sequence[Position] = (),
        once: Once = ALWAYS,
        skip_history: bool = False,
    ) -> Published:
        """Publish to all nodes, and keep the publication if the namespace has a history, in one step.

        Delivery: at most once per subscriber, in the order of the calls; with a history see docs/guarantees.md.
        Args:
            seen: positions that the node knows; see `Read`.
            skip_history: publish as in a channel without a history: only present subscribers receive it.
        Raises: BrokerUnavailable; the publication may have been delivered anyway.
        """

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        on_done: Callable[[Published | BrokerUnavailable], None],
        *,
        seen: Sequence[Position] = (),
    ) -> None:
        """Publish without waiting; `on_done` receives the result or exception of `publish` once, now or later."""

    async def publish_all(self, submissions: Sequence[Submission]) -> list[Published | ClientError | BrokerUnavailable]:
        """Publish many at once, in their order; return the result of each.

        If Redis runs out of memory, an earlier one may be refused and a later one of the same channel published.
        Returns: ClientError 108 for a channel whose keys in Redis another program has written, 103 for one that the
            user of Redis may not publish in, BrokerUnavailable for a refusal that may end.
        Raises: BrokerUnavailable; any of them may have been published.
        """

    def shard_of(self, channel: str) -> str:
        """Return the shard that has a channel: shards refuse and fail independently. Empty if there is only one."""

    async def flush(self, *, within_s: float) -> None:
        """Wait until every publication was accepted or refused, `within_s` at most."""

    async def read(self, reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
        """Return, for each read, a channel's position and the selected publications, in their order.

        A channel without a position gets one. Malformed entries in the stream are left out.
        """

    async def sync(self, channels: set[str]) -> set[str]:
        """Wait until the `Sink` has received everything that was published before this call.

        Returns: those of the subscribed channels of which it has; the others' connection to the server was lost, or it
            took too long.
        """

    async def remove_history(self, channel: str) -> None:
        """Remove the publications in a channel's history, and notify the nodes; its position stays.

        Clients at the newest position have missed nothing. Clients behind it are notified that they could not recover.
        Raises: BrokerUnavailable; they may have been removed anyway.
        """
