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
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from roomcast.model.namespaces import MAX_RECOVERED
from roomcast.redis_access.keys import ChannelKeys
from roomcast.tasks import end
from tests.chaos.checker import Verdict, check
from tests.chaos.faults import LONGEST_FAULT_S, Faults
from tests.chaos.fleet import running_fleet
from tests.chaos.journal import Acknowledged, Log, Name, Place, read_payload
from tests.chaos.publisher import Publisher
from tests.chaos.subscriber import WAYS, Subscriber
from tests.support.processes import API_KEY
from tests.support.redis_shapes import SHAPES, Servers

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
    only: tuple[str, ...] = ()
    bug: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run. longest_interruption_s: between two publications of one subscriber."""

    plan: Plan
    verdict: Verdict
    faults: Mapping[str, int]
    publication_count: int
    retry_count: int
    connection_count: int
    subscriber_count: int
    longest_interruption_s: float
    catch_up_s: float
    node_faults: Sequence[Mapping[str, Any]]  # Any: JSON

    @property
    def is_good(self) -> bool:
        """Return whether every promise was kept."""
        return self.verdict.is_good and not self.node_faults


async def run(plan: Plan) -> Outcome:
    """Run the plan. Raises: TimeoutError, AssertionError if not even the beginning works."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roomcast-chaos-")))
        servers = stack.enter_context(SHAPES[plan.shape](folder))
        namespaces = folder / "namespaces.toml"
        namespaces.write_text(_NAMESPACES)
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
        faults = Faults(fleet, servers, subscribers, seed=plan.seed, only=plan.only, longest_s=plan.longest_fault_s)
        catch_up_s = await _live(plan, publishers, subscribers, faults, partial(_read_place, servers, prefix))
        acknowledged: defaultdict[str, list[Acknowledged]] = defaultdict(list)
        for publisher in publishers:
            acknowledged[publisher.room] += publisher.acknowledged
        streams = {room: _read_stream(servers, prefix, room) for room in rooms}

    logs = [subscriber.log for subscriber in subscribers]
    verdict = check(logs, acknowledged, streams, window_size=MAX_RECOVERED, may_lose_tail=faults.may_have_lost_data)
    return Outcome(
        plan=plan,
        verdict=verdict,
        faults=Counter(faults.counts),
        publication_count=sum(map(len, acknowledged.values())),
        retry_count=sum(publisher.retry_count for publisher in publishers),
        connection_count=sum(log.connection_count for log in logs),
        subscriber_count=len(logs),
        longest_interruption_s=max((_longest_interruption_s(log) for log in logs), default=0.0),
        catch_up_s=catch_up_s,
        node_faults=fleet.faults(),
    )


async def _live(
    plan: Plan,
    publishers: Sequence[Publisher],
    subscribers: Sequence[Subscriber],
    faults: Faults,
    read_place: Callable[[str], Place],
) -> float:
    """Publish and subscribe while faults happen; return how long after the last one everybody had everything."""
    loop = asyncio.get_running_loop()
    listening = [asyncio.create_task(subscriber.run(), name=subscriber.log.subscriber) for subscriber in subscribers]
    publishing: list[asyncio.Task[None]] = []
    try:
        await _until(lambda: all(subscriber.log.lines for subscriber in subscribers), within_s=_JOIN_TIMEOUT_S)
        is_over = asyncio.Event()
        rate_per_s = plan.rate_per_s / plan.publisher_count
        publishing = [
            asyncio.create_task(publisher.run(rate_per_s=rate_per_s, until_stopped=is_over), name="publisher")
            for publisher in publishers
        ]
        await faults.run(seconds=plan.seconds, longest_pause_s=plan.longest_pause_s)
        mended_at_s = loop.time()
        is_over.set()
        async with asyncio.timeout(_LAST_PUBLICATIONS_TIMEOUT_S):
            await asyncio.gather(*publishing)
        last = {
            room: await asyncio.to_thread(read_place, room) for room in {publisher.room for publisher in publishers}
        }
        # A subscriber that does not catch up has lost something: the checker reports it.
        with suppress(TimeoutError):
            await _until(
                lambda: all(subscriber.log.place() == last[subscriber.log.room] for subscriber in subscribers),
                within_s=plan.catch_up_timeout_s,
            )
        return loop.time() - mended_at_s
    finally:
        # One cancellation first: another one would interrupt a client that closes its connection, which takes a while.
        for task in (*listening, *publishing):
            task.cancel()
        await asyncio.wait((*listening, *publishing), timeout=_GOODBYE_S)
        await end(*listening, *publishing)
        for task in listening:
            if not task.cancelled():
                task.result()


async def _until(condition: Callable[[], bool], *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (logs do not notify)
            await asyncio.sleep(0.05)


def _read_place(servers: Servers, prefix: str, room: str) -> Place:
    """Return the place of the newest publication of a room in Redis, or where its epoch started."""
    keys = ChannelKeys(prefix)
    with servers.client() as client:
        epoch, base = client.hmget(keys.key(f"room:{room}", "meta"), "epoch", "base")
        newest = client.xrevrange(keys.key(f"room:{room}", "stream"), count=1)
    return Place(epoch.decode(), max(int(base or 0), *[int(entry_id.partition(b"-")[0]) for entry_id, _ in newest]))


def _read_stream(servers: Servers, prefix: str, room: str) -> dict[Place, tuple[Name, int]]:
    """Return the entries of a room in Redis, of the present epoch."""
    keys = ChannelKeys(prefix)
    with servers.client() as client:
        epoch, base = client.hmget(keys.key(f"room:{room}", "meta"), "epoch", "base")
        entries = client.xrange(keys.key(f"room:{room}", "stream"), f"({int(base or 0)}-0")
    return {
        Place(epoch.decode(), int(entry_id.partition(b"-")[0])): read_payload(fields[b"d"])
        for entry_id, fields in entries
    }


def _longest_interruption_s(log: Log) -> float:
    return max((after.at_s - before.at_s for before, after in pairwise(log.lines)), default=0.0)
