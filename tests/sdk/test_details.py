"""Less common features of the SDKs: fallbacks, data with commands, own positions, payloads other than JSON."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect

from roomcast.centrifuge import client_pb2
from tests.sdk import Client
from tests.sdk.javascript import BrowserDriver, NodeDriver
from tests.sdk.python import PythonDriver
from tests.sdk.service import Service
from tests.support.balancer import Balancer
from tests.support.processes import receive
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.mark.node
@pytest.mark.browser
@pytest.mark.parametrize("transport", ["http_stream", "sse"])
async def test_where_websockets_do_not_get_through_the_next_transport_does(
    browser_driver: BrowserDriver, balancer: Balancer, transport: str
) -> None:
    client = Client(browser_driver, balancer)
    endpoints = [
        {"transport": "websocket", "endpoint": balancer.url("/nowhere", "ws")},
        {"transport": transport, "endpoint": balancer.url(f"/connection/{transport}")},
    ]
    options = {"emulationEndpoint": balancer.url("/emulation"), "minReconnectDelay": 50}
    await client.perform("open", encoding="json", endpoints=endpoints, options=options)
    await client.perform("connect")

    assert (await client.heard("connected"))["transport"] == transport
    await client.perform("disconnect")


async def test_what_tokens_say_of_a_client_is_told_with_it(clients: list[Client], prefix: str) -> None:
    private, notices = f"$room:{prefix}\u00e9\u2713", f"notify:{prefix}"
    for client in clients:
        known = token("ada", info={"name": "Ada \u2713"}, subs={notices: {"data": {"unread": 3}}})
        await client.connect(tokens=[known, ""], data={"from": "a test"})
        tokens = [token("ada", channel=private, info={"seat": 1}, data=["hello"]), ""]

        assert (await client.heard("subscribed", channel=notices))["data"] == {"unread": 3}
        assert (await client.subscribe(private, tokens=tokens, joinLeave=True))["data"] == ["hello"]
        for event in ("join", "publication"):
            info = (await client.heard(event, channel=private))["info"]
            assert (info["user"], info["connInfo"], info["chanInfo"]) == ("ada", {"name": "Ada \u2713"}, {"seat": 1})
            await client.perform("publish", channel=private, data=1)
        await client.perform("disconnect")


async def test_who_subscribes_and_unsubscribes_in_haste_hears_everything_once(
    clients: list[Client], prefix: str
) -> None:
    # Over HTTP the SDK waits between them by itself, and publications meanwhile would arrive too early.
    for client in [each for each in clients if each.transport == "websocket"]:
        channel = f"room:{prefix}{client.name}"
        await client.connect()
        for _ in range(5):
            await client.perform("subscribe", channel=channel, options={"joinLeave": True})
            await client.perform("unsubscribe", channel=channel)
        await client.perform("subscribe", channel=channel, options={})
        await client.perform("publish", channel=channel, data="once")

        assert await client.published(channel, 1) == ["once"]
        assert (await client.perform("presenceStats", channel=channel))["numClients"] == 1
        await client.perform("publish", channel=channel, data="the last")
        assert await client.published(channel, 2) == ["once", "the last"]


@pytest.mark.node
async def test_what_is_published_in_haste_keeps_its_order_over_every_node(
    node_driver: NodeDriver, balancer: Balancer, prefix: str
) -> None:
    """Every second request goes through the other node, and Redis, which takes longer."""
    for transport, encoding in node_driver.kinds:
        client = Client(node_driver, balancer, transport, encoding)
        channel = f"room:{prefix}{client.name}"
        await client.connect()
        await client.subscribe(channel)
        for begin in range(0, 40, 8):
            await asyncio.gather(
                *(client.perform("publish", channel=channel, data=begin + number) for number in range(8))
            )

        assert await client.published(channel, 40) == list(range(40))
        await client.close()


@pytest.mark.node
async def test_a_page_that_says_from_where_gets_what_follows(
    node_driver: NodeDriver, balancer: Balancer, service: Service, prefix: str
) -> None:
    channel = f"room:{prefix}"
    for number in range(5):
        await service.publish(channel, number)
    for transport, encoding in node_driver.kinds:
        client = Client(node_driver, balancer, transport, encoding)
        await client.connect()
        epoch = (await client.perform("history", channel=channel, options={}))["epoch"]

        await client.subscribe(channel, recoverable=True, since={"offset": 3, "epoch": epoch})

        assert await client.published(channel, 2) == [3, 4]
        await client.close()


@pytest.mark.parametrize("query", ["format=protobuf", "cf_protocol=protobuf&cf_protocol_version=v2"])
async def test_protobuf_may_be_asked_for_as_older_clients_do(balancer: Balancer, query: str) -> None:
    command = client_pb2.Command(id=1, connect=client_pb2.ConnectRequest()).SerializeToString()
    url = balancer.url(f"/connection/websocket?{query}", "ws")
    async with connect(url, proxy=None) as socket:
        await socket.send(bytes([len(command)]) + command)
        message = await receive(socket)

    assert isinstance(message, bytes)
    length_bytes = 1 if message[0] < 0x80 else 2  # of a varint
    assert client_pb2.Reply.FromString(message[length_bytes:]).connect.client


async def test_bytes_are_bytes_in_protobuf_and_base64_in_json(
    python_driver: PythonDriver, balancer: Balancer, prefix: str
) -> None:
    channel, data = f"room:{prefix}", b"\x00\xff\xfe not UTF-8"
    in_bytes, in_json = (Client(python_driver, balancer, encoding=encoding) for encoding in ("bytes", "json"))
    for client in (in_bytes, in_json):
        await client.connect()
        await client.subscribe(channel)

    await in_bytes.perform("publish", channel=channel, data=data)

    assert await in_bytes.published(channel, 1) == [data]
    assert await in_json.published(channel, 1) == ["AP/+IG5vdCBVVEYtOA=="]
    for client in (in_bytes, in_json):
        await client.close()
