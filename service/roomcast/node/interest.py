"""The channels that this node receives: from the first subscription or load that needs one to the last."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection

from roomcast.brokers.interface import Broker
from roomcast.brokers.map_interface import MapStore
from roomcast.model.namespaces import Namespaces
from roomcast.node.map_expiry import MapExpiry
from roomcast.node.tracker import Tracker

# A client returns within this time, usually.
_RETURN_S = 10.0


class Interest:
    """Subscribes the node to channels, tracks those that have positions, and lets the keys of maps expire, while they
    are needed.
    """

    def __init__(self, broker: Broker, tracker: Tracker, namespaces: Namespaces, map_store: MapStore) -> None:
        self._broker = broker
        self._tracker = tracker
        self._namespaces = namespaces
        self._map_expiry = MapExpiry(map_store)
        self._counts: Counter[str] = Counter()  # subscriptions and loads by channel, unfinished ones too

    async def run(self) -> None:
        """Remove the keys of maps when they expire; end only when cancelled."""
        await self._map_expiry.run()

    def channels(self) -> Collection[str]:
        """Return a view of the channels."""
        return self._counts.keys()

    def add(self, channel: str) -> None:
        """Need a channel until `lose`."""
        self._counts[channel] += 1

    async def receive(self, channel: str) -> None:
        """Return once the node receives a channel that is needed, and tracks it. Raises: as `Broker.subscribe`."""
        await self._broker.subscribe(channel)
        namespace = self._namespaces.of(channel)
        if namespace.has_positions and self._tracker.track(channel) is None:
            track = self._tracker.open(channel, namespace)
            track.on_change = self._map_expiry.begin(channel, namespace)

    def lose(self, channel: str) -> None:
        """Need a channel no longer."""
        self._counts[channel] -= 1
        if not self._counts[channel]:
            del self._counts[channel]
            self._tracker.close(channel)
            self._map_expiry.end(channel)
            self._broker.unsubscribe(channel)

    def lose_after_failure(self, channel: str) -> None:
        """Need a channel no longer, or only until its client has returned for what is being read."""
        if self._tracker.is_reading(channel):
            asyncio.get_running_loop().call_later(_RETURN_S, self.lose, channel)
        else:
            self.lose(channel)
