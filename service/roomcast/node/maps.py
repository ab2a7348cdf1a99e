"""The maps of a node's channels: loads of clients, reads and writes of services."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from roomcast.brokers.interface import Broker
from roomcast.brokers.map_interface import UNCONDITIONAL, Conditions, MapPage, MapRead, MapStore, Written
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.namespaces import Namespace, Namespaces
from roomcast.model.publications import Publication
from roomcast.node.interest import Interest
from roomcast.node.map_copy import MapCopy
from roomcast.node.map_load import MapLoad
from roomcast.node.track import Track
from roomcast.node.tracker import Tracker

_READ_LENGTH = 1000
_ATTEMPTS = 3
# A herd of clients needs a copy one after the other.
_KEEP_S = 5.0
# A page is read within this time, or not at all.
_READ_S = 30.0


class Maps:
    """Loads, reads and writes maps.

    Args:
        clock: `time.monotonic`, seconds.
        counts: `published` and `publish_failures` are counted in it.
    """

    def __init__(
        self,
        store: MapStore,
        broker: Broker,
        interest: Interest,
        tracker: Tracker,
        namespaces: Namespaces,
        *,
        clock: Callable[[], float],
        counts: Counter[str],
    ) -> None:
        self.store = store
        self._broker = broker
        self._interest = interest
        self._tracker = tracker
        self._namespaces = namespaces
        self._clock = clock
        self._counts = counts
        self._reading: dict[str, asyncio.Task[MapCopy]] = {}

    async def load(self, channel: str) -> MapLoad:
        """Begin a client's load; clients that load a map at once share one read of Redis.

        Raises: ClientError 107 for another channel; BrokerUnavailable.
        """
        namespace = self._namespaces.of_map(channel)
        self._interest.add(channel)
        try:
            await self._interest.receive(channel)
            copy = await self._copy(channel, namespace)
        except BaseException:
            self._interest.lose(channel)
            raise
        track = self._tracker.track(channel)
        keep_s = max(_KEEP_S, 2 * namespace.map_options.catch_up_timeout_s)
        return MapLoad(
            copy,
            is_current=lambda copy: track is not None and track.copy is copy,
            keep=partial(self._keep, keep_s),
            close=partial(self._interest.lose, channel),
        )

    async def write(self, publication: Publication, *, conditions: Conditions = UNCONDITIONAL) -> Written:
        """Write a key, see `MapStore.write`. Raises: ClientError 102, 106, 107, 108; BrokerUnavailable."""
        namespace = self._namespaces.of_map(publication.channel)
        seen = self._tracker.seen(publication.channel)
        try:
            written = await self.store.write(publication, namespace, conditions=conditions, seen=seen)
        except BrokerUnavailable:
            self._counts["publish_failures"] += 1
            raise
        self._counts["published"] += written.suppressed is None
        return written

    async def read(self, channel: str, *, after: str = "", limit: int = _READ_LENGTH, key: str = "") -> MapPage:
        """Return some entries of a map from Redis: at most `limit`, fewer if they are large.

        Raises: ClientError 102, 107, 108; BrokerUnavailable.
        """
        seen = self._tracker.seen(channel)
        return await self.store.read(MapRead(channel, self._namespaces.of_map(channel), after, limit, key, seen))

    async def count(self, channel: str) -> int:
        """Return the number of keys. Raises: as `read`."""
        return await self.store.count(channel, self._namespaces.of_map(channel))

    async def clear(self, channel: str) -> None:
        """Remove all keys; subscribers load the map again. Raises: as `read`."""
        await self.store.clear(channel, self._namespaces.of_map(channel))

    async def _copy(self, channel: str, namespace: Namespace) -> MapCopy:
        """Return a whole copy, up to the node's position; the caller must use it before it awaits."""
        for _ in range(_ATTEMPTS):
            await self._tracker.wait_resolved(channel)
            track = self._tracker.track(channel)
            if track is None:
                break
            reading = self._reading.get(channel)
            if reading is None or reading.done():  # its callback may still wait for its turn
                if track.copy is not None:
                    self._keep(_KEEP_S, track.copy)
                    return track.copy
                reading = asyncio.create_task(self._read(track, namespace), name="maps.read")
                self._reading[channel] = reading
                reading.add_done_callback(partial(self._end_reading, channel))
            copy = await asyncio.shield(reading)
            if track.copy is copy and self._tracker.track(channel) is track:
                return copy
        raise BrokerUnavailable("the map changes too fast to be read")

    async def _read(self, track: Track, namespace: Namespace) -> MapCopy:
        position = track.position
        assert position is not None  # noqa: S101  (for the type checker: it is resolved)
        copy = track.copy = MapCopy(position, needed_until_s=0)
        is_whole = False
        try:
            is_whole = await self._fill(copy, track, namespace)
        finally:
            # Before this task ends: others may run before its callbacks, and take the copy for a whole one.
            if not is_whole and track.copy is copy:
                track.copy = None
        return copy

    async def _fill(self, copy: MapCopy, track: Track, namespace: Namespace) -> bool:
        """Read a copy from Redis; return whether it is whole, in step with its track."""
        after = ""
        while True:
            self._keep(_READ_S, copy)
            page = await self.store.read(MapRead(track.channel, namespace, after, _READ_LENGTH, seen=track.seen))
            if track.copy is not copy or self._tracker.track(track.channel) is not track:
                return False  # changes were lost, or the last client has left
            if page.position.epoch != copy.position.epoch:
                self._tracker.removed(track.channel)  # without a message: Redis has lost its data
                return False
            if not copy.fill(page):
                return False
            after = page.cursor
            if not after:
                break
        if copy.position < page.position:
            # The changes up to the last page are on their way.
            synced = await self._broker.sync({track.channel})
            await self._tracker.wait_resolved(track.channel)
            if synced and copy.position < page.position:
                self._tracker.removed(track.channel)  # a message was lost without any other sign
        self._keep(_KEEP_S, copy)
        return track.copy is copy and copy.position >= page.position

    def _end_reading(self, channel: str, reading: asyncio.Task[MapCopy]) -> None:
        if self._reading.get(channel) is reading:
            del self._reading[channel]
        if not reading.cancelled():
            reading.exception()  # its clients may have gone

    def _keep(self, keep_s: float, copy: MapCopy) -> None:
        copy.needed_until_s = max(copy.needed_until_s, self._clock() + keep_s)
