"""Random commands and bytes: the node logs no error, and other clients are served."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from roomcast.centrifuge import client_pb2
from tests.support.processes import Cluster, NodeProcess, receive
from tests.support.protobuf_frames import framed, protobuf_connect, replies_of
from tests.support.speaker import Json, connected
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

CHANNELS = st.sampled_from(["room:a", "feed:a", "feed:b", "user:#ada", "none:a", "", "$room:a", "feed:" + "x" * 300])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
GOOD = st.one_of(
    st.fixed_dictionaries(
        {
            "subscribe": st.fixed_dictionaries(
                {"channel": CHANNELS}, optional={"recover": st.booleans(), "offset": st.integers(0, 9)}
            )
        }
    ),
    st.fixed_dictionaries({"unsubscribe": st.fixed_dictionaries({"channel": CHANNELS})}),
    st.fixed_dictionaries({"publish": st.fixed_dictionaries({"channel": CHANNELS, "data": VALUES})}),
    st.fixed_dictionaries({"history": st.fixed_dictionaries({"channel": CHANNELS, "limit": st.integers(-2, 5)})}),
    st.fixed_dictionaries({"presence": st.fixed_dictionaries({"channel": CHANNELS})}),
    st.fixed_dictionaries({"presence_stats": st.fixed_dictionaries({"channel": CHANNELS})}),
    st.fixed_dictionaries({"rpc": st.fixed_dictionaries({"method": st.text(max_size=5), "data": VALUES})}),
    st.just({"ping": {}}),
    st.just({"refresh": {}}),
    st.just({"sub_refresh": {"channel": "feed:a"}}),
)
MEMBERS = st.sampled_from(
    ["channel", "token", "data", "since", "limit", "tf", "subs", "offset", "epoch", "flag", "delta"]
)
METHODS = st.sampled_from(["connect", "subscribe", "publish", "history", "send", "fly", "sub_refresh", "id"])
BAD = st.dictionaries(METHODS, st.dictionaries(MEMBERS, VALUES, max_size=4) | VALUES, max_size=2)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(st.lists(GOOD | BAD, min_size=1, max_size=6), max_size=8))
def test_whatever_is_said_the_node_logs_no_fault_and_others_live_on(cluster: Cluster, frames: list[list[Json]]) -> None:
    asyncio.run(_say(cluster.nodes[0], frames))


async def _say(node: NodeProcess, frames: list[list[Json]]) -> None:
    numbers = itertools.count(2)
    async with connected(node, token()) as client:
        for frame in frames:
            with suppress(ConnectionClosed):
                await client.send(*[{"id": next(numbers), **command} for command in frame])
        try:
            await client.send({"id": 4_000_000_000, "ping": {}})
            await client.reply(4_000_000_000, "ping")
        except ConnectionClosed:
            assert (await client.end())[0] in {3500, 3501, 3508}
    async with connected(node, token("bob")) as other:
        assert await other.ask("ping") == {}
    assert node.faults() == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: bytes([len(data)]) + data))
def test_whatever_bytes_are_sent_as_protobuf_the_node_logs_no_fault(cluster: Cluster, frame: bytes) -> None:
    async def send() -> None:
        node = cluster.nodes[0]
        url = node.ws("/connection/websocket")
        protocols = [Subprotocol("centrifuge-protobuf")]
        async with connect(url, subprotocols=protocols, compression=None, ping_interval=None, proxy=None) as socket:
            await socket.send(protobuf_connect())
            await receive(socket)
            try:
                await socket.send(frame)
                await socket.send(framed(client_pb2.Command(id=77, ping=client_pb2.PingRequest())))
                while 77 not in [reply.id for reply in replies_of(await receive(socket))]:
                    pass
            except ConnectionClosed:
                assert socket.close_code in {3500, 3501, 3508}
        assert node.faults() == []

    asyncio.run(send())
