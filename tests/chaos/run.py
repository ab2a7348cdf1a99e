"""One run: everything is started, used, broken and mended; then the logs are read."""

from __future__ import annotations

import asyncio
import random
import secrets
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from roomcast.model.namespaces import MAX_RECOVERED
from roomcast.tasks import end
from tests.chaos.checker import Verdict, check
from tests.chaos.faults import LONGEST_FAULT_S, Faults
from tests.chaos.fleet import running_fleet
from tests.chaos.journal import Acknowledged, Log
from tests.chaos.map_checker import MapVerdict
from tests.chaos.map_subscriber import MapSubscriber
from tests.chaos.maps import KEY_TTLS_S, NAMESPACES, Maps
from tests.chaos.publisher import Publisher
from tests.chaos.redis_reads import RedisReads
from tests.chaos.subscriber import WAYS, Subscriber
from tests.support.processes import API_KEY
from tests.support.redis_shapes import SHAPES

# All that a run publishes is kept, so that every log can be held against it; a client gets no more of it than always.
_NAMESPACES = """\
[room]
history_size = 100000
history_ttl_s = 86400
recovery = "stream"
presence = true
join_leave = true
may_publish = "anyone"
"""
# Shorter than the default, so that a silent cut is found out in a short run.
_REDIS_TIMEOUT_S = 2
_JOIN_TIMEOUT_S = 20.0
_GOODBYE_S = 10.0
_LAST_PUBLICATIONS_TIMEOUT_S = 40.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a run.

    rate_per_s: publications of all publishers of one room together; away for 10 s, a client has missed ten times that.
    maps: channels. map_rate_per_s: writes of all writers of one map together.
    longest_between_stops_s: the maps are compared with Redis after half of it to all of it.
    longest_fault_s: of Redis or of a node. catch_up_timeout_s: after the last fault, until all logs must be complete.
    only: the faults to cause; empty: all of the shape.
    bug: see tests/chaos/broken.py; empty: the service as it is.
    """

    shape: str
    seconds: float
    seed: int
    node_count: int = 3
    room_count: int = 3
    publisher_count: int = 4  # of each room
    subscriber_count: int = 9  # of each room: three plain ones, three that poll, three of the Centrifuge protocol
    rate_per_s: float = 20.0
    longest_pause_s: float = 4.0
    longest_fault_s: float = LONGEST_FAULT_S
    catch_up_timeout_s: float = 40.0
    maps: tuple[str, ...] = tuple(KEY_TTLS_S)
    map_writer_count: int = 2  # of each map
    map_rate_per_s: float = 15.0
    longest_between_stops_s: float = 30.0
    only: tuple[str, ...] = ()
    bug: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run. longest_interruption_s: between two publications of one subscriber."""

    plan: Plan
    verdict: Verdict
    map_verdict: MapVerdict
    map_figures: Mapping[str, str]
    faults: Mapping[str, int]
    publication_count: int
    retry_count: int
    reconnect_count: int
    subscriber_count: int
    longest_interruption_s: float
    catch_up_s: float
    node_faults: Sequence[Mapping[str, Any]]  # Any: JSON

    @property
    def is_good(self) -> bool:
        """Return whether every promise was kept."""
        return self.verdict.is_good and self.map_verdict.is_good and not self.node_faults


async def run(plan: Plan) -> Outcome:
    """Run the plan. Raises: TimeoutError, AssertionError if not even the beginning works."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roomcast-chaos-")))
        servers = stack.enter_context(SHAPES[plan.shape](folder))
        namespaces = folder / "namespaces.toml"
        namespaces.write_text(_NAMESPACES + NAMESPACES)
        prefix = f"chaos-{secrets.token_hex(4)}:"
        environment = {
            "ROOMCAST_REDIS_URL": servers.url,
            "ROOMCAST_PREFIX": prefix,
            "ROOMCAST_API_KEY": API_KEY,
            "ROOMCAST_INSECURE": "true",
            "ROOMCAST_NAMESPACES_FILE": str(namespaces),
            "ROOMCAST_REDIS_TIMEOUT_S": str(_REDIS_TIMEOUT_S),
            "CHAOS_BUG": plan.bug,
        }
        chance = random.Random(plan.seed)
        fleet = await stack.enter_async_context(
            running_fleet(
                environment,
                node_count=plan.node_count,
                redis_port=servers.primaries()[0].port if plan.shape in ("single", "address") else None,
                module="tests.chaos.broken" if plan.bug else "roomcast",
                chance=chance,
            )
        )
        rooms = [f"room{number}" for number in range(plan.room_count)]
        publishers = [
            Publisher(f"{room}-p{number}", room, fleet, random.Random(chance.random()))
            for room in rooms
            for number in range(plan.publisher_count)
        ]
        subscribers = [
            Subscriber(f"{room}-s{number}", room, fleet, random.Random(chance.random()), way)
            for room in rooms
            for number, way in zip(range(plan.subscriber_count), cycle(WAYS), strict=False)
        ]
        maps = Maps(plan.maps, fleet, chance, writer_count=plan.map_writer_count, rate_per_s=plan.map_rate_per_s)
        clients: list[Subscriber | MapSubscriber] = [*subscribers, *maps.subscribers]
        faults = Faults(fleet, servers, clients, seed=plan.seed, only=plan.only, longest_s=plan.longest_fault_s)
        reads = RedisReads(servers, prefix)
        catch_up_s = await _Live(plan, publishers, subscribers, maps, faults, reads).run()
        acknowledged: defaultdict[str, list[Acknowledged]] = defaultdict(list)
        for publisher in publishers:
            acknowledged[publisher.room] += publisher.acknowledged
        streams = {room: reads.stream(room) for room in rooms}

    logs = [subscriber.log for subscriber in subscribers]
    verdict = check(logs, acknowledged, streams, window_size=MAX_RECOVERED, may_lose_tail=faults.may_have_lost_data)
    return Outcome(
        plan=plan,
        verdict=verdict,
        map_verdict=maps.verdict(),
        map_figures=maps.figures(),
        faults=Counter(faults.counts),
        publication_count=sum(map(len, acknowledged.values())),
        retry_count=sum(each.retry_count for each in publishers) + sum(each.retry_count for each in maps.writers),
        reconnect_count=sum(client.connection_count - 1 for client in clients),
        subscriber_count=len(logs),
        longest_interruption_s=max((_longest_interruption_s(log) for log in logs), default=0.0),
        catch_up_s=catch_up_s,
        node_faults=fleet.faults(),
    )


@dataclass(slots=True)
class _Live:
    """Everything that runs: publishers and clients while faults happen."""

    plan: Plan
    publishers: Sequence[Publisher]
    subscribers: Sequence[Subscriber]
    maps: Maps
    faults: Faults
    reads: RedisReads

    async def run(self) -> float:
        """Break things, and mend them; return how long after the last fault all rooms had everything."""
        clients: list[Subscriber | MapSubscriber] = [*self.subscribers, *self.maps.subscribers]
        tasks = [asyncio.create_task(client.run(), name=client.log.subscriber) for client in clients]
        publishing: list[asyncio.Task[None]] = []
        try:
            await _until(
                lambda: all(subscriber.log.lines for subscriber in self.subscribers) and self.maps.is_joined(),
                within_s=_JOIN_TIMEOUT_S,
            )
            is_over = asyncio.Event()
            rate_per_s = self.plan.rate_per_s / self.plan.publisher_count
            publishing = [
                asyncio.create_task(publisher.run(rate_per_s=rate_per_s, until_stopped=is_over), name="publisher")
                for publisher in self.publishers
            ]
            mended_at_s = await self._break()
            is_over.set()
            await self._catch_up(publishing)
            catch_up_s = asyncio.get_running_loop().time() - mended_at_s
            await self._stop()
            return catch_up_s
        finally:
            # One cancellation first: another one would interrupt a client that closes its connection, which takes a
            # while.
            for task in (*tasks, *publishing):
                task.cancel()
            await asyncio.wait((*tasks, *publishing), timeout=_GOODBYE_S)
            await end(*tasks, *publishing)
            for task in tasks:
                if not task.cancelled():
                    task.result()

    async def _break(self) -> float:
        """Cause faults, with stops between them; return when the last one was mended."""
        loop, chance, plan = asyncio.get_running_loop(), random.Random(self.plan.seed), self.plan
        ends_at_s = loop.time() + plan.seconds
        while True:
            seconds = plan.longest_between_stops_s * chance.uniform(0.5, 1)
            left_s = ends_at_s - loop.time()
            async with self.maps.writing():
                await self.faults.run(seconds=min(seconds, left_s), longest_pause_s=plan.longest_pause_s)
                mended_at_s = loop.time()
            if left_s <= seconds:
                return mended_at_s
            await self._stop()

    async def _stop(self) -> None:
        await self.maps.stop(
            self.reads, within_s=self.plan.catch_up_timeout_s, may_have_lost_data=self.faults.may_have_lost_data
        )

    async def _catch_up(self, publishing: Sequence[asyncio.Task[None]]) -> None:
        """Return once every subscriber of a room has everything, or has had time enough for it."""
        async with asyncio.timeout(_LAST_PUBLICATIONS_TIMEOUT_S):
            await asyncio.gather(*publishing)
        rooms = {publisher.room for publisher in self.publishers}
        last = {room: await asyncio.to_thread(self.reads.place, room) for room in rooms}
        # A subscriber that does not catch up has lost something: the checker reports it.
        with suppress(TimeoutError):
            await _until(
                lambda: all(subscriber.log.place() == last[subscriber.log.room] for subscriber in self.subscribers),
                within_s=self.plan.catch_up_timeout_s,
            )


async def _until(condition: Callable[[], bool], *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (logs do not notify)
            await asyncio.sleep(0.05)


def _longest_interruption_s(log: Log) -> float:
    return max((after.at_s - before.at_s for before, after in pairwise(log.lines)), default=0.0)
