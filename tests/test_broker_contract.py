"""One contract, every server: the fake for speed, Valkey as shipped, and a real Redis where Docker is."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from service.brokers.client import connect
from service.brokers.redis import RedisBroker, longest_backoff_s
from service.errors import BrokerUnavailable
from service.messages import Kind, Publication
from service.tasks import end
from tests.cluster import DEADLINE_S, eventually

pytestmark = pytest.mark.anyio


class RecordingSink:
    """Keeps what the broker brings, and wakes who waits for it."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.malformed: list[tuple[str, str]] = []
        self.gaps: list[str] = []
        self._arrived = asyncio.Event()

    def on_publication(self, publication: Publication) -> None:
        self.publications.append(publication)
        self._arrived.set()

    def on_malformed(self, channel: str, reason: str) -> None:
        self.malformed.append((channel, reason))
        self._arrived.set()

    def on_gap(self, reason: str) -> None:
        self.gaps.append(reason)
        self._arrived.set()

    async def until_texts(self, texts: list[bytes]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while [publication.data for publication in self.publications] != texts:
                self._arrived.clear()
                await self._arrived.wait()


@pytest.fixture(scope="session")
def docker_redis_url(docker: None) -> Iterator[str]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.redis import RedisContainer

    with RedisContainer("redis:8") as container:
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


@pytest.fixture(
    params=[
        "fake",
        pytest.param("valkey", marks=pytest.mark.redis),
        pytest.param("docker", marks=[pytest.mark.redis, pytest.mark.docker]),
    ]
)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    if request.param == "fake":
        async with FakeAsyncRedis(server=FakeServer()) as client:
            yield client
        return
    url = request.getfixturevalue("redis_url" if request.param == "valkey" else "docker_redis_url")
    async with connect(url, timeout_s=5.0, client_name="contract") as client:
        yield client


@asynccontextmanager
async def running(
    server: Redis, prefix: str, *, linger_s: float = 1.0, timeout_s: float = 5.0
) -> AsyncIterator[tuple[RedisBroker, RecordingSink]]:
    broker = RedisBroker(
        server, prefix=prefix, node_id="n1", max_message_bytes=1000, linger_s=linger_s, timeout_s=timeout_s
    )
    sink = RecordingSink()
    task = asyncio.create_task(broker.run(sink))
    try:
        yield broker, sink
    finally:
        await end(task)


async def test_what_is_published_after_the_subscription_arrives_as_it_was_and_in_order(
    server: Redis, prefix: str
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        sent = [
            Publication("room:a", b"text"),
            Publication("room:a", b"\x00\xff", Kind.BINARY),
            Publication("room:a", "größe".encode()),
            *[Publication("room:a", str(number).encode()) for number in range(200)],
        ]
        for publication in sent:
            assert await broker.publish(publication) == 1
        await sink.until_texts([publication.data for publication in sent])

    assert sink.publications == sent


async def test_many_publishing_at_once_lose_nothing(server: Redis, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        texts = [str(number).encode() for number in range(2500)]

        async with asyncio.TaskGroup() as tasks:
            for text in texts:
                tasks.create_task(broker.publish(Publication("room:a", text)))

        await sink.until_texts(texts)


async def test_json_of_any_other_service_arrives_and_the_rest_is_said_to_be_malformed(
    server: Redis, prefix: str
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        for message in (b"not json", b'{"text":"hi"}', b"\x01?\n", b'"' + b"x" * 1000 + b'"', b"17"):
            await server.publish(f"{prefix}room:a", message)
        await sink.until_texts([b'{"text":"hi"}', b"17"])

    assert [channel for channel, _ in sink.malformed] == ["room:a"] * 3


async def test_channels_without_a_subscription_do_not_arrive(server: Redis, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        await broker.publish(Publication("room:b", b"elsewhere"))
        await broker.publish(Publication("room:a", b"here"))

        await sink.until_texts([b"here"])


async def test_a_channel_nobody_wants_is_unsubscribed_after_a_while(server: Redis, prefix: str) -> None:
    async with running(server, prefix, linger_s=0.01) as (broker, _):
        await broker.subscribe("room:a")
        broker.unsubscribe("room:a")

        async def is_unsubscribed() -> bool:
            return await broker.publish(Publication("room:a", b"x")) == 0

        await eventually(is_unsubscribed)


async def test_a_client_that_only_reloads_its_page_misses_nothing_of_the_channel(server: Redis, prefix: str) -> None:
    async with running(server, prefix, linger_s=60) as (broker, sink):
        await broker.subscribe("room:a")
        broker.unsubscribe("room:a")

        assert await broker.publish(Publication("room:a", b"between")) == 1
        await broker.subscribe("room:a")
        await broker.publish(Publication("room:a", b"after"))

        await sink.until_texts([b"between", b"after"])


async def test_coming_back_right_after_the_unsubscription_is_confirmed_anew(server: Redis, prefix: str) -> None:
    async with running(server, prefix, linger_s=0.0) as (broker, sink):
        for number in range(20):
            await broker.subscribe("room:a")
            assert await broker.publish(Publication("room:a", str(number).encode())) == 1
            broker.unsubscribe("room:a")
            await asyncio.sleep(0)  # lets the unsubscription go out, or not: both must work

        await sink.until_texts([str(number).encode() for number in range(20)])


@pytest.fixture
def valkey(client: Redis) -> Redis:
    """For what only a real server does."""
    return client


async def test_a_channel_that_leaves_between_two_connections_does_no_harm(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix, linger_s=0.0) as (broker, sink):
        for attempt in range(10):
            channels = [f"room:{attempt}-{number}" for number in range(20)]
            async with asyncio.TaskGroup() as tasks:
                for channel in channels:
                    tasks.create_task(broker.subscribe(channel))
            await valkey.client_kill_filter(_type="pubsub")

            async with asyncio.timeout(DEADLINE_S):
                while broker.reason_not_ready() is None:  # noqa: ASYNC110  (each turn of the loop: it is back in no time)
                    await asyncio.sleep(0)
            for channel in channels:
                broker.unsubscribe(channel)

            async def is_back(wanted: int = attempt + 1) -> bool:
                return len(sink.gaps) == wanted

            await eventually(is_back)
        await broker.subscribe("room:a")
        assert await broker.publish(Publication("room:a", b"still here")) == 1
        await sink.until_texts([b"still here"])


async def test_leaving_and_coming_back_while_the_server_is_silent_does_no_harm(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix, linger_s=0.0, timeout_s=0.3) as (broker, sink):
        await broker.subscribe("room:a")
        await valkey.client_pause(3000, all=True)
        for _ in range(3):
            broker.unsubscribe("room:a")
            await asyncio.sleep(0.05)  # lets the unsubscription go out before the next subscription
            with pytest.raises(BrokerUnavailable):
                await broker.subscribe("room:a")
        broker.unsubscribe("room:a")

        async def is_confirmed() -> bool:
            try:
                await broker.subscribe("room:a")
            except BrokerUnavailable:
                return False
            return True

        await eventually(is_confirmed)
        assert await broker.publish(Publication("room:a", b"still here")) == 1
        await sink.until_texts([b"still here"])


async def test_a_forbidden_channel_is_refused_and_touches_no_other(valkey: Redis, prefix: str) -> None:
    rules = ["on", ">pw", "+@all", "~*", "resetchannels", f"&{prefix}room:ok*", f"&{prefix}node:*"]
    await valkey.execute_command("ACL", "SETUSER", "limited", *rules)  # type: ignore[no-untyped-call]  # redis-py
    port = valkey.connection_pool.connection_kwargs["port"]
    url = f"redis://limited:pw@127.0.0.1:{port}/0"
    async with (
        connect(url, timeout_s=5.0, client_name="limited") as limited,
        running(limited, prefix) as (broker, sink),
    ):
        await broker.subscribe("room:ok1")

        async with asyncio.TaskGroup() as tasks:  # together, so that they go out in one command
            allowed = tasks.create_task(broker.subscribe("room:ok2"))
            refused = tasks.create_task(expect_refusal(broker, "room:forbidden"))

        assert allowed.done()
        assert "NoPermissionError" in refused.result()
        assert "NoPermissionError" in await expect_refusal(broker, "room:forbidden")
        assert sink.gaps == []
        await broker.publish(Publication("room:ok1", b"1"))
        await broker.publish(Publication("room:ok2", b"2"))
        await sink.until_texts([b"1", b"2"])


async def expect_refusal(broker: RedisBroker, channel: str) -> str:
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.subscribe(channel)
    broker.unsubscribe(channel)
    return caught.value.reason


async def test_a_herd_that_wants_the_latest_shares_one_read(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix) as (broker, _):
        await valkey.set(f"{prefix}latest:metrics:system", b"1")
        before = len(await valkey.client_list())

        latest = await asyncio.gather(*[broker.latest("metrics:system") for _ in range(500)])

        assert latest == [Publication("metrics:system", b"1")] * 500
        assert len(await valkey.client_list()) <= before + 1


async def test_nothing_is_left_of_channels_that_nobody_wants(server: Redis, prefix: str) -> None:
    async with running(server, prefix, linger_s=0.0) as (broker, _):
        empty = _sizes(broker)
        for number in range(30):
            await broker.subscribe(f"room:{number}")
        assert _sizes(broker) != empty
        for number in range(30):
            broker.unsubscribe(f"room:{number}")

        async def is_empty() -> bool:
            return _sizes(broker) == empty

        await eventually(is_empty)


def _sizes(broker: RedisBroker) -> dict[str, int]:
    """Return the size of everything that the broker keeps."""
    return {name: len(kept) for name, kept in vars(broker).items() if isinstance(kept, dict | set | list | deque)}


def test_reconnecting_goes_on_after_any_number_of_failures() -> None:
    assert [longest_backoff_s(attempt) for attempt in (0, 1, 5, 100_000)] == [0.1, 0.2, 2.0, 2.0]


async def test_many_first_subscribers_at_once_are_all_confirmed(server: Redis, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        channels = [f"room:{number % 500}" for number in range(1500)]

        async with asyncio.TaskGroup() as tasks:
            for channel in channels:
                tasks.create_task(broker.subscribe(channel))

        assert await broker.publish(Publication("room:499", b"last")) == 1
        await sink.until_texts([b"last"])


async def test_the_latest_kept_publication_can_be_read(server: Redis, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        assert await broker.latest("metrics:system") is None

        await server.set(f"{prefix}latest:metrics:system", b'{"cpu_usage":1}')
        assert await broker.latest("metrics:system") == Publication("metrics:system", b'{"cpu_usage":1}')

        await server.set(f"{prefix}latest:metrics:system", b"not json")
        assert await broker.latest("metrics:system") is None


async def test_it_is_ready_once_connected_and_no_gap_is_told_for_the_first_time(server: Redis, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        async def is_ready() -> bool:
            return broker.reason_not_ready() is None

        await eventually(is_ready)

    assert sink.gaps == []
