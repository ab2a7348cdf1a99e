"""What carries publications between nodes: the interface; its docstrings are the contract that tests hold all to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.errors import BrokerUnavailable
    from service.messages import Publication

__all__ = ["Broker", "Registry", "Sink"]


class Sink(Protocol):
    """Who hears what a broker brings. Called in the reader's task: must not block, await or raise."""

    def on_publication(self, publication: Publication) -> None:
        """Take a publication of a subscribed channel, in the channel's order."""

    def on_malformed(self, channel: str, reason: str) -> None:
        """Take note of a message that is no publication; it was dropped."""

    def on_gap(self, reason: str) -> None:
        """Take note that publications of any subscribed channel may have been missed until now."""


class Broker(Protocol):
    """Carries publications between the nodes of one cluster."""

    async def run(self, sink: Sink) -> None:
        """Give `sink` what the connection brings; keep it for ever, through every outage; end only when cancelled."""

    def reason_not_ready(self) -> str | None:
        """Return why nothing can be delivered now, or None when all is well."""

    async def subscribe(self, channel: str) -> None:
        """Want a channel's publications from now on; return once the server has confirmed it.

        Delivery: at most once, in one order for all; every publication whose publish began after this returned,
            unless the connection to the server is lost (then `Sink.on_gap` is called).
        Raises: BrokerUnavailable if it was not confirmed in time; the channel stays wanted until `unsubscribe`.
        """

    def unsubscribe(self, channel: str) -> None:
        """Want a channel no longer; the server is told a little later, in case somebody comes back."""

    async def publish(self, publication: Publication) -> int:
        """Publish to all nodes and return how many subscribed connections (nodes, mostly) took it.

        Delivery: at most once per subscriber, in the order of the calls.
        Raises: BrokerUnavailable; the publication may have been delivered all the same.
        """

    def submit(self, publication: Publication, taken: Callable[[int | BrokerUnavailable], None]) -> None:
        """Publish without waiting for it; `taken` is told once, now or later, what `publish` would return or raise."""

    async def settle(self, *, within_s: float) -> None:
        """Wait until everything published has been taken or refused, `within_s` at most."""

    async def latest(self, channel: str) -> Publication | None:
        """Return the newest publication that its publisher chose to keep, or None.

        Raises: BrokerUnavailable.
        """


class Registry(Protocol):
    """Knows the living nodes of the cluster."""

    async def report(self, node_id: str, connection_count: int, *, ttl_s: float) -> None:
        """Say that a node lives, for at most `ttl_s`, and how many clients it holds. Raises: BrokerUnavailable."""

    async def retire(self, node_id: str) -> None:
        """Say that a node ends. Raises: BrokerUnavailable."""

    async def connection_counts(self) -> dict[str, int]:
        """Return the connection count of every living node, by node id. Raises: BrokerUnavailable."""
