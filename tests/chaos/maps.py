"""The maps of a run: their writers and subscribers, and the stops at which every copy is compared with Redis."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from roomcast.tasks import end
from tests.chaos.fleet import Fleet
from tests.chaos.map_checker import MapVerdict, check_maps
from tests.chaos.map_journal import Kept, Loaded, Recovered, Stop
from tests.chaos.map_subscriber import MapSubscriber, MapWay
from tests.chaos.map_writer import MapWriter
from tests.chaos.redis_reads import RedisReads

# Of each mode; ephemeral also with keys that outlive every fault, so that a lost change does not expire unseen. All
# changes are kept, so that every copy can be held against them. Loads take several pages.
KEY_TTLS_S = {"lasting:map": 0.0, "fading:map": 3.0, "passing:map": 3.0, "staying:map": 3600.0}
_STREAMS = ("lasting:map", "fading:map")
NAMESPACES = """\
[lasting]
type = "map"
history_size = 100000
history_ttl_s = 86400
map = { mode = "persistent", min_page_size = 1, page_size = 16 }
[fading]
type = "map"
history_size = 100000
history_ttl_s = 86400
map = { mode = "recoverable", min_page_size = 1, page_size = 16, key_ttl_s = 3 }
[passing]
type = "map"
map = { mode = "ephemeral", min_page_size = 1, page_size = 16, key_ttl_s = 3 }
[staying]
type = "map"
map = { mode = "ephemeral", min_page_size = 1, page_size = 16, key_ttl_s = 3600 }
"""
_LAST_WRITES_TIMEOUT_S = 40.0
_READ_TIMEOUT_S = 20.0
_POLL_S = 0.05


class Maps:
    """All maps of a run.

    Args:
        writer_count: of each map; they write `rate_per_s` keys together.
    """

    def __init__(
        self, channels: Sequence[str], fleet: Fleet, chance: random.Random, *, writer_count: int, rate_per_s: float
    ) -> None:
        self.writers = [
            MapWriter(f"{channel}-w{number}", channel, fleet, random.Random(chance.random()))
            for channel in channels
            for number in range(writer_count)
        ]
        self.subscribers = [
            MapSubscriber(f"{channel} by {way.value}", channel, fleet, random.Random(chance.random()), way)
            for channel in channels
            for way in MapWay
        ]
        self._channels = channels
        self._rate_per_s = rate_per_s / writer_count
        self._stops: list[Stop] = []
        self._streams: dict[tuple[str, str], Kept] = {}
        self._stop_count = 0
        self._longest_stop_s = 0.0

    def is_joined(self) -> bool:
        """Return whether every subscriber has been live."""
        return all(subscriber.log.count(Loaded) for subscriber in self.subscribers)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write until the block ends; each write under way is finished then. Raises: TimeoutError."""
        is_over = asyncio.Event()
        tasks = [
            asyncio.create_task(writer.run(rate_per_s=self._rate_per_s, until_stopped=is_over), name="map writer")
            for writer in self.writers
        ]
        try:
            yield
            is_over.set()
            async with asyncio.timeout(_LAST_WRITES_TIMEOUT_S):
                await asyncio.gather(*tasks)
        finally:
            await end(*tasks)

    async def stop(self, reads: RedisReads, *, within_s: float, may_have_lost_data: bool) -> None:
        """Compare each copy with Redis until all are equal: for so long, then the checker reports the difference.

        Raises: TimeoutError if Redis cannot be read.
        """
        start_s = time.monotonic()
        deadline_s = start_s + within_s
        self._stop_count += 1
        async with asyncio.timeout(within_s + _READ_TIMEOUT_S):
            for channel in self._channels:
                stop = None
                while stop is None or (not stop.is_equal and time.monotonic() < deadline_s):
                    await asyncio.sleep(_POLL_S)
                    with suppress(RedisError):  # while a cluster forms
                        stop = await self._compare(channel, reads, may_have_lost_data=may_have_lost_data)
                self._stops.append(stop)
            self._longest_stop_s = max(self._longest_stop_s, time.monotonic() - start_s)
            for channel in set(self._channels).intersection(_STREAMS):
                kept = await asyncio.to_thread(reads.map, channel, with_stream=True)
                self._streams.pop((channel, kept.epoch), None)
                self._streams[channel, kept.epoch] = kept  # the last one of each epoch

    def verdict(self) -> MapVerdict:
        """Check everything, after the last stop."""
        logs = [subscriber.log for subscriber in self.subscribers]
        writes = [write for writer in self.writers for write in writer.writes]
        return check_maps(logs, writes, self._stops, list(self._streams.values()), key_ttls_s=KEY_TTLS_S)

    async def _compare(self, channel: str, reads: RedisReads, *, may_have_lost_data: bool) -> Stop:
        kept = await asyncio.to_thread(reads.map, channel)
        subscribers = [subscriber for subscriber in self.subscribers if subscriber.log.channel == channel]
        return Stop(
            time.monotonic(),
            kept,
            {each.log.subscriber: each.live_copy() for each in subscribers},
            {each.log.subscriber: len(each.log.events) for each in subscribers},
            may_have_lost_data,
        )

    def figures(self) -> dict[str, str]:
        """Return the figures of the report by name."""
        logs = [subscriber.log for subscriber in self.subscribers]
        return {
            "map subscribers": str(len(logs)),
            "map writes": str(sum(len(writer.writes) for writer in self.writers)),
            "map loads": str(sum(log.count(Loaded) for log in logs)),
            "map recoveries": str(sum(log.count(Recovered) for log in logs)),
            "map stops": str(self._stop_count),
            "all maps equal after a stop": f"{self._longest_stop_s:.1f} s",
        }
