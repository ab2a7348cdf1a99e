"""The webhook worker on a real server: events are posted in order, none is lost through failures and deaths."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from starlette.responses import Response

from roomcast.brokers.redis_broker import RedisBroker
from roomcast.hooks.webhook_sender import WebhookSender
from roomcast.hooks.webhook_stream import WebhookStream
from roomcast.presence.occupancy import EVENTS
from roomcast.redis_access.client import Client, connect
from roomcast.redis_access.work_queue import StreamCounts
from roomcast.tasks import end
from roomcast_workers.runner import Health
from roomcast_workers.webhooks import WebhookWorker
from tests.support.http_backend import Asked, Backend, accept, hang
from tests.support.processes import Cluster, RoomcastProcess, eventually, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SECRET = "0123456789abcdef0123456789abcdef"
ALL = frozenset({"connect", "disconnect", "occupied", "vacated"})


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@asynccontextmanager
async def working(
    client: Client,
    prefix: str,
    url: str,
    *,
    name: str = "w",
    events: frozenset[str] = ALL,
    timeout_s: float = 5.0,
    steady: Callable[[], float] = time.monotonic,
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker that tries again without a pause; cancelling the task is its death."""
    worker = WebhookWorker(
        client,
        RedisBroker(client, prefix=prefix, node_id=name, max_message_bytes=10_000),
        WebhookSender(url, SECRET, clock=time.time, timeout_s=timeout_s),
        events,
        prefix=prefix,
        name=name,
        timeout_s=5.0,
        jitter=lambda: 0.01,
        steady=steady,
    )
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        await end(task)
        await worker.finish()


async def add(client: Client, prefix: str, *numbers: int | str) -> None:
    await WebhookStream(client, prefix=prefix).offer([orjson.dumps({"id": str(number)}) for number in numbers])


async def until_posted(client: Client, prefix: str) -> StreamCounts:
    async def is_done() -> StreamCounts | None:
        counts = await WebhookStream(client, prefix=prefix).entries.counts()
        return None if counts.lag else counts

    counts = await eventually(is_done)
    assert counts is not None
    return counts


def events_of(asked: list[Asked]) -> list[dict[str, Any]]:
    return [event for one in asked for event in one.json["events"]]


def ids_of(asked: list[Asked]) -> list[str]:
    return [event["id"] for event in events_of(asked)]


async def test_events_are_posted_once_in_their_order_and_are_gone(client: Redis, prefix: str, backend: Backend) -> None:
    await add(client, prefix, *range(250))  # more than one batch
    async with working(client, prefix, backend.url):
        await until_posted(client, prefix)
        await add(client, prefix, 250)
        counts = await until_posted(client, prefix)

    assert ids_of(backend.asked) == [str(number) for number in range(251)]
    assert counts.dead == 0


async def test_what_is_refused_is_posted_again_before_anything_newer(
    client: Redis, prefix: str, backend: Backend
) -> None:
    taken: list[Asked] = []

    async def take_every_third(asked: Asked) -> Response:
        if len(backend.asked) % 3:
            return Response(b"", 503)
        taken.append(asked)
        return await accept(asked)

    backend.answer = take_every_third
    async with working(client, prefix, backend.url):
        for start in range(0, 300, 50):
            await add(client, prefix, *range(start, start + 50))
            await asyncio.sleep(0.01)  # so that they come all the while
        await until_posted(client, prefix)

    assert ids_of(taken) == [str(number) for number in range(300)]


async def test_a_receiver_that_is_away_gets_everything_when_it_is_back(
    client: Redis, prefix: str, backend: Backend
) -> None:
    backend.stop()
    await add(client, prefix, *range(10))
    health = Health(client, prefix=prefix, worker="webhooks", name="w")
    async with working(client, prefix, backend.url):

        async def has_tried() -> bool:
            return bool(orjson.loads(await health.read() or "{}").get("failures", 0) > 3)

        await eventually(has_tried)
        backend.start()
        await until_posted(client, prefix)

    assert ids_of(backend.asked) == [str(number) for number in range(10)]


async def test_an_event_is_tried_for_five_minutes_and_once_at_least(
    client: Redis, prefix: str, backend: Backend
) -> None:
    async def refuse(asked: Asked) -> Response:
        return Response(b"", 410)

    backend.answer = refuse
    later_s = 0.0
    stream = WebhookStream(client, prefix=prefix)
    seconds, _ = await client.time()
    for name, age_s in (("old", 301), ("young", 200)):  # by Redis' clock, whatever the worker's is
        await client.xadd(stream.entries.key, {"event": orjson.dumps({"id": name})}, id=f"{1000 * (seconds - age_s)}-0")
    async with working(client, prefix, backend.url, steady=lambda: time.monotonic() + later_s):

        async def is_tried() -> bool:
            return len(backend.asked) > 3

        await eventually(is_tried)
        assert await stream.entries.counts() == StreamCounts(lag=1, dead=1)
        later_s = 110.0
        assert await until_posted(client, prefix) == StreamCounts(lag=0, dead=2)
        await add(client, prefix, "last")
        backend.answer = accept
        await until_posted(client, prefix)

    assert ids_of(backend.asked)[-1] == "last"
    entries: Any = await client.xrange(stream.entries.dead_key)  # Any: redis-py's reply
    assert [fields[b"event"] for _, fields in entries] == [b'{"id":"old"}', b'{"id":"young"}']
    assert {fields[b"reason"] for _, fields in entries} == {b"status 410"}


async def test_what_is_no_event_goes_to_the_dead_letters_and_stops_nobody(
    client: Redis, prefix: str, backend: Backend
) -> None:
    await client.xadd(f"{prefix}webhooks", {"event": "no json"})
    await add(client, prefix, 1)
    await client.xadd(f"{prefix}webhooks", {"event": "[]"})
    await client.xadd(f"{prefix}webhooks", {"other": "{}"})
    async with working(client, prefix, backend.url):
        assert await until_posted(client, prefix) == StreamCounts(lag=0, dead=3)

    assert ids_of(backend.asked) == ["1"]


async def test_of_three_workers_one_posts_and_while_it_waits_for_an_answer_no_other_does(
    client: Redis, prefix: str, backend: Backend
) -> None:
    """The receiver takes longer than a lease lasts."""
    answers = 0

    async def be_slow(asked: Asked) -> Response:
        nonlocal answers
        answers += 1
        await asyncio.sleep(3.0 if answers == 1 else 0)
        return await accept(asked)

    backend.answer = be_slow
    await add(client, prefix, *range(150))
    async with AsyncExitStack() as stack:
        for name in "abc":
            await stack.enter_async_context(working(client, prefix, backend.url, name=name))
        await until_posted(client, prefix)

    assert ids_of(backend.asked) == [str(number) for number in range(150)]


async def test_a_death_while_posting_loses_nothing_and_another_goes_on(
    client: Redis, prefix: str, backend: Backend
) -> None:
    backend.answer = hang
    await add(client, prefix, *range(5))
    async with working(client, prefix, backend.url, name="a") as first:

        async def is_asked() -> bool:
            return bool(backend.asked)

        await eventually(is_asked)
        await end(first)
        backend.answer = accept
        died_at_s = time.monotonic()
        async with working(client, prefix, backend.url, name="b"):
            await until_posted(client, prefix)
        took_s = time.monotonic() - died_at_s

    assert ids_of(backend.asked) == ["0", "1", "2", "3", "4"] * 2, "once for each worker, with the same ids"
    # 2.5 s are promised; the rest is this shared machine's own delay.
    assert took_s < 2.5 + 1.5


def settings_of(backend: Backend) -> dict[str, str]:
    return {"webhook_url": backend.url, "webhook_secret": SECRET}


async def test_workers_may_be_killed_at_any_moment(
    redis_url: str, client: Redis, prefix: str, backend: Backend
) -> None:
    added = 0

    async def keep_adding() -> None:
        nonlocal added
        while added < 2000:
            await add(client, prefix, *range(added, added + 50))
            added += 50
            await asyncio.sleep(0.1)  # so that they come all the while

    with Cluster(redis_url, prefix, **settings_of(backend)) as cluster:
        workers = {name: cluster.start_worker("webhooks", worker_name=name) for name in ("a", "b", "c")}
        adding = asyncio.create_task(keep_adding())
        for _ in range(2):
            name = await holder(client, prefix, list(workers))
            workers.pop(name).kill()
            before = len(backend.asked)

            async def goes_on(before: int = before) -> bool:
                return len(backend.asked) > before + 1

            await eventually(goes_on)
        await adding
        await until_posted(client, prefix)
        assert all(worker.faults() == [] for worker in workers.values())

    posted = ids_of(backend.asked)
    assert list(dict.fromkeys(posted)) == [str(number) for number in range(2000)], "all of them, in their order"
    # At most the batch that was under way at each death comes twice.
    assert len(posted) <= 2000 + 2 * 100


async def holder(client: Client, prefix: str, names: list[str]) -> str:
    async def says_so() -> str:
        for name in names:
            facts = await Health(client, prefix=prefix, worker="webhooks", name=name).read()
            if orjson.loads(facts or "{}").get("holds_lease"):
                return name
        return ""

    return await eventually(says_so)


def changes_of(backend: Backend) -> list[tuple[str, str]]:
    return [(event["event"], event["channel"]) for event in events_of(backend.asked) if "channel" in event]


async def test_channels_are_told_occupied_and_vacated_by_one_of_two_workers(
    redis_url: str, client: Redis, prefix: str, backend: Backend
) -> None:
    async def is_told(change: tuple[str, str]) -> bool:
        return change in changes_of(backend)

    with Cluster(redis_url, prefix) as cluster:
        one, two = cluster.start_node(), cluster.start_node()
        async with working(client, prefix, backend.url, name="a"), working(client, prefix, backend.url, name="b"):
            async with one.connect("/ws/rooms/x"), two.connect("/ws/rooms/x"), two.connect("/ws/rooms/y"):
                await eventually(lambda: is_told(("occupied", "room:y")))
            await eventually(lambda: is_told(("vacated", "room:x")))
            await eventually(lambda: is_told(("vacated", "room:y")))

    assert sorted(changes_of(backend)) == [
        ("occupied", "room:x"),
        ("occupied", "room:y"),
        ("vacated", "room:x"),
        ("vacated", "room:y"),
    ]
    events = events_of(backend.asked)
    assert len({event["id"] for event in events}) == 4
    assert set(events[0]) == {"id", "event", "time_ms", "channel"}


async def test_what_changed_while_no_worker_was_there_is_told_by_the_next_one(
    redis_url: str, client: Redis, prefix: str, backend: Backend
) -> None:
    async def is_told(count: int) -> bool:
        return len(changes_of(backend)) >= count

    with Cluster(redis_url, prefix) as cluster:
        node = cluster.start_node()
        async with node.connect("/ws/rooms/stays"):
            async with node.connect("/ws/rooms/goes"), working(client, prefix, backend.url):
                await eventually(lambda: is_told(2))

            async def is_vacated() -> bool:
                return not await client.exists(f"{{{prefix}room:goes}}:nodes")

            await eventually(is_vacated)
            async with node.connect("/ws/rooms/comes"), working(client, prefix, backend.url):
                await eventually(lambda: is_told(4))

    changes = changes_of(backend)
    assert sorted(changes[:2]) == [("occupied", "room:goes"), ("occupied", "room:stays")]
    assert sorted(changes[2:]) == [("occupied", "room:comes"), ("vacated", "room:goes")]


async def test_only_what_is_wanted_is_told_and_what_others_publish_in_events_does_no_harm(
    client: Redis, prefix: str, backend: Backend
) -> None:
    async with working(client, prefix, backend.url, events=frozenset({"vacated"})):
        await holder(client, prefix, ["w"])

        async def is_heard() -> bool:
            ((_, listener_count),) = await client.pubsub_numsub(f"{prefix}{EVENTS}")
            return bool(listener_count)

        await eventually(is_heard)
        for garbage in (b"{", b"[]", b"null", b'{"event":"occupied"}', b'{"event":"joined","channel":"room:a"}'):
            await client.publish(f"{prefix}{EVENTS}", garbage)
        for event in ("occupied", "vacated", "occupied", "occupied", "vacated"):
            await client.publish(f"{prefix}{EVENTS}", orjson.dumps({"event": event, "channel": "room:a"}))

        async def are_told() -> bool:
            return len(changes_of(backend)) >= 2

        await eventually(are_told)

    assert changes_of(backend) == [("vacated", "room:a")] * 2


async def test_on_a_redis_cluster_all_of_it_works_as_well(backend: Backend, cluster_url: str, prefix: str) -> None:
    async with (
        connect(cluster_url, timeout_s=5.0, client_name="test") as client,
        working(client, prefix, backend.url),
    ):
        await add(client, prefix, 1)
        with Cluster(cluster_url, prefix) as cluster:
            node = cluster.start_node()

            async def is_told(change: tuple[str, str]) -> bool:
                return change in changes_of(backend)

            async with node.connect("/ws/rooms/x"):
                await eventually(lambda: is_told(("occupied", "room:x")))
            await eventually(lambda: is_told(("vacated", "room:x")))
        await client.xadd(f"{prefix}webhooks", {"event": "no json"})
        assert await until_posted(client, prefix) == StreamCounts(lag=0, dead=1)

    assert ids_of(backend.asked)[0] == "1"
    assert len(ids_of(backend.asked)) == 3


async def test_a_node_that_ends_tells_of_its_clients_and_one_that_is_killed_of_those_that_came(
    redis_url: str, client: Redis, prefix: str, backend: Backend
) -> None:
    with Cluster(redis_url, prefix, **settings_of(backend)) as cluster:
        for end_node, length in ((RoomcastProcess.end, 1), (RoomcastProcess.kill, 3)):
            node = cluster.start_node()
            async with node.connect("/connection/websocket") as socket:
                await socket.send('{"id":1,"connect":{}}')
                await receive(socket)

                async def is_in_stream(length: int = length) -> bool:
                    return await client.xlen(f"{prefix}webhooks") == length

                await eventually(is_in_stream)
                await asyncio.to_thread(end_node, node)
        async with working(client, prefix, backend.url):
            await until_posted(client, prefix)

    told = [(event["event"], event.get("code")) for event in events_of(backend.asked) if "client" in event]
    assert told == [("connect", None), ("disconnect", 3001), ("connect", None)]


async def test_a_worker_without_a_url_says_what_to_set(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix) as cluster:
        worker = cluster.start_worker("webhooks")
        assert await asyncio.to_thread(worker.process.wait, 15) == 2

    assert "ROOMCAST_WEBHOOK_URL" in str(worker.log)
