"""What clients and server say to each other about maps, to the letter: as the protocol's reference server says it."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from roomcast.centrifuge import client_pb2
from tests.nodes.maps import batch, put, put_all, remove
from tests.support.maps import UNRECOVERABLE, Follower
from tests.support.processes import NodeProcess, receive
from tests.support.protobuf_frames import framed, protobuf_connect, replies_of
from tests.support.speaker import Json, Speaker, call_api, connected
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


def setting(channel: str, entries: dict[str, Any]) -> list[Json]:
    return [{"map_publish": {"channel": channel, "key": key, "data": data}} for key, data in entries.items()]


async def test_an_empty_map(speaker: Speaker, name: str) -> None:
    ephemeral = await Follower(speaker, f"fleeting:{name}").step()
    assert ephemeral == {"type": 1}
    for namespace in ("kept", "tracked"):
        reply = await Follower(speaker, f"{namespace}:{name}").step()
        assert reply == {"recoverable": True, "epoch": reply["epoch"], "type": 1}


async def test_pages_of_a_map_that_changes_meanwhile(node: NodeProcess, speaker: Speaker, name: str) -> None:
    channel = f"kept:{name}"
    keys = [f"k{number:03}" for number in range(250)]
    await batch(node, setting(channel, dict.fromkeys(keys, 0)))
    follower = Follower(speaker, channel, limit=100)

    first = await follower.step()
    common = {"epoch": first["epoch"], "type": 1}
    state = [{"data": 0, "offset": number + 1, "key": key} for number, key in enumerate(keys)]
    assert first == {**common, "offset": 250, "phase": 2, "cursor": "k099", "state": state[:100]}

    changed = [*keys[90:110], *keys[240:245]]
    await batch(node, setting(channel, dict.fromkeys(changed, 1)))
    await batch(node, [{"map_remove": {"channel": channel, "key": key}} for key in keys[245:]])
    second = await follower.step()
    assert second == {**common, "offset": 250, "phase": 2, "cursor": second["cursor"], "state": second["state"]}
    third = await follower.step()
    assert second["state"] + third["state"] == [entry for entry in state[100:240] if entry["key"] not in changed]
    publications = [{"data": 1, "offset": 251 + number, "key": key} for number, key in enumerate(changed)]
    publications += [{"offset": 276 + number, "key": key, "removed": True} for number, key in enumerate(keys[245:])]
    assert third == {
        **common,
        "recoverable": True,
        "offset": 280,
        "state": third["state"],
        "publications": publications,
    }


@pytest.mark.parametrize("namespace", ["kept", "tracked"])
async def test_a_long_catch_up_comes_in_pages_too(
    node: NodeProcess, speaker: Speaker, name: str, namespace: str
) -> None:
    channel = f"{namespace}:{name}"
    await batch(node, setting(channel, {f"k{number:02}": 0 for number in range(12)}))
    follower = Follower(speaker, channel, limit=5)
    first = await follower.step()
    await batch(node, setting(channel, {f"k{number:02}": 1 for number in range(17)}))
    common = {"epoch": first["epoch"], "type": 1}
    while (reply := await follower.step()).get("cursor"):
        pass
    assert reply == {**common, "offset": 12, "phase": 2, **({"state": reply["state"]} if "state" in reply else {})}

    publications = [{"data": 1, "offset": 13 + number, "key": f"k{number:02}"} for number in range(17)]
    for page in (0, 5, 10):
        expected = {**common, "publications": publications[page : page + 5], "offset": 17 + page, "phase": 1}
        assert await follower.step() == expected
    live = await follower.step()
    assert live == {**common, "recoverable": True, "publications": publications[15:], "offset": 29}


@pytest.mark.parametrize("namespace", ["kept", "tracked", "fleeting"])
async def test_set_and_remove_by_the_api(node: NodeProcess, speaker: Speaker, name: str, namespace: str) -> None:
    channel = f"{namespace}:{name}"
    follower = Follower(speaker, channel)
    live = await follower.load()

    written = await put(node, channel, "k1", {"v": 1}, tags={"x": "y"})
    assert (await follower.next_push()) == {
        "channel": channel,
        "pub": {"data": {"v": 1}, "tags": {"x": "y"}, "key": "k1"}
        | ({} if namespace == "fleeting" else {"offset": 1, "epoch": live["epoch"]}),
    }
    await put(node, channel, "k1", None)
    assert "epoch" not in (await follower.next_push())["pub"]
    removed = await remove(node, channel, "k1")
    push = (await follower.next_push())["pub"]
    assert push == {"key": "k1", "removed": True} | ({} if namespace == "fleeting" else {"offset": 3})
    again = await remove(node, channel, "k1")
    assert again == {**removed, "suppressed": True, "suppress_reason": "key_not_found"}
    if namespace != "fleeting":
        assert written == {"offset": 1, "epoch": live["epoch"]}
        assert removed == {"offset": 3, "epoch": live["epoch"]}


@pytest.mark.parametrize("namespace", ["kept", "tracked"])
async def test_recovery_after_a_disconnect(node: NodeProcess, speaker: Speaker, name: str, namespace: str) -> None:
    channel = f"{namespace}:{name}"
    epoch = (await put(node, channel, "a", 1))["epoch"]
    await put(node, channel, "b", 2)
    await remove(node, channel, "a")
    common = {"recoverable": True, "epoch": epoch, "offset": 3, "type": 1, "recovered": True, "was_recovering": True}
    follower = Follower(speaker, channel)
    follower.position = {"offset": 1, "epoch": epoch}
    follower.entries = {"a": 1}

    missed = [{"data": 2, "offset": 2, "key": "b"}, {"offset": 3, "key": "a", "removed": True}]
    assert await follower.recover() == {**common, "publications": missed}
    assert follower.entries == {"b": 2}
    assert await speaker.ask("unsubscribe", channel=channel) == {}
    assert await follower.recover() == common
    await speaker.ask("unsubscribe", channel=channel)
    follower.position = {"offset": 3, "epoch": "another"}
    refused = (await follower.recover())["error"]
    assert refused == {"code": UNRECOVERABLE, "message": "unrecoverable position"}


async def test_publish_and_remove_by_a_client(node: NodeProcess, name: str) -> None:
    channel = f"kept:{name}"
    async with connected(node, token("ada")) as ada:
        follower = Follower(ada, channel)
        await follower.load()
        assert await ada.ask("publish", channel=channel, type=1, key="ck", data={"from": "client"}) == {}
        push = (await follower.next_push())["pub"]
        info = {"user": "ada", "client": ada.welcome["client"]}
        assert {**push, "epoch": 0} == {
            "data": {"from": "client"},
            "info": info,
            "offset": 1,
            "key": "ck",
            "epoch": 0,
        }
        assert await ada.ask("publish", channel=channel, type=1, key="ck", removed=True) == {}
        assert (await follower.next_push())["pub"] == {"offset": 2, "key": "ck", "removed": True}
        assert await ada.ask("publish", channel=channel, type=1, key="ck", removed=True) == {}
        assert await ada.ask("publish", channel=channel, type=1, key="without data") == {}
        assert (await follower.next_push())["pub"] == {"info": info, "offset": 3, "key": "without data"}

        own = Follower(ada, f"own:{name}")
        await own.load()
        assert await ada.ask("publish", channel=own.channel, type=1, key="whatever", data=1) == {}
        assert (await own.next_push())["pub"]["key"] == "ada"


async def test_a_map_that_is_cleared(node: NodeProcess, speaker: Speaker, name: str) -> None:
    for namespace in ("kept", "tracked", "fleeting"):
        follower = Follower(speaker, f"{namespace}:{name}")
        await put(node, follower.channel, "k", 1)
        await follower.load()
        assert await call_api(node, "map_clear", channel=follower.channel) == {}
        push = await follower.next_push()
        assert push == {
            "channel": follower.channel,
            "unsubscribe": {"code": 2500, "reason": "insufficient state"},
        }
        await follower.load()
        assert follower.entries == {}


async def test_differences_are_of_one_key(node: NodeProcess, speaker: Speaker, name: str) -> None:
    channel, pad = f"differing:{name}", "x" * 100
    await put(node, channel, "p", {"s": 1, "pad": pad})
    follower = Follower(speaker, channel, delta="fossil")
    live = await follower.load()
    assert live["delta"] is True
    assert isinstance(live["state"][0]["data"], str)
    await put(node, channel, "p", {"s": 2, "pad": pad})
    await put(node, channel, "q", {"s": 1, "pad": pad})
    patch, whole = [(await follower.next_push())["pub"] for _ in range(2)]
    assert (patch["delta"], len(patch["data"]) < 60, patch["key"]) == (True, True, "p")
    assert ("delta" in whole, isinstance(whole["data"], str)) == (False, True)
    await remove(node, channel, "q")
    assert (await follower.next_push())["pub"] == {"data": "null", "offset": 4, "key": "q", "removed": True}


async def test_protobuf(node: NodeProcess, name: str) -> None:
    channel = f"kept:{name}"
    await put(node, channel, "k1", {"v": 1}, tags={"a": "b"})
    async with connect(
        node.ws("/connection/websocket"), subprotocols=[Subprotocol("centrifuge-protobuf")], proxy=None
    ) as socket:
        await socket.send(protobuf_connect())
        await receive(socket)
        load = client_pb2.SubscribeRequest(channel=channel, type=1, phase=2, limit=100)
        await socket.send(framed(client_pb2.Command(id=2, subscribe=load)))
        (reply,) = replies_of(await receive(socket))
        entry = client_pb2.Publication(data=b'{"v":1}', offset=1, tags={"a": "b"}, key="k1")
        assert reply.subscribe == client_pb2.SubscribeResult(
            recoverable=True, epoch=reply.subscribe.epoch, offset=1, type=1, state=[entry]
        )

        removing = client_pb2.PublishRequest(channel=channel, type=1, key="k1", removed=True)
        await socket.send(framed(client_pb2.Command(id=3, publish=removing)))
        received: list[client_pb2.Reply] = []
        while len(received) < 2:
            received += replies_of(await receive(socket))
        removal = client_pb2.Publication(offset=2, tags={"a": "b"}, key="k1", removed=True)
        expected = [
            client_pb2.Reply(id=3, publish=client_pb2.PublishResult()),
            client_pb2.Reply(push=client_pb2.Push(channel=channel, pub=removal)),
        ]
        assert sorted(received, key=lambda each: -each.id) == expected


async def test_writes_in_the_order_of_the_client(node: NodeProcess, speaker: Speaker, name: str) -> None:
    """A map is loaded in the same frame as the writes before it."""
    channel = f"kept:{name}"
    await speaker.send(
        *(
            {"id": 100 + number, "publish": {"channel": channel, "type": 1, "key": f"k{number}", "data": number}}
            for number in range(5)
        ),
        {"id": 200, "subscribe": {"channel": channel, "type": 1, "phase": 2}},
    )
    live = await speaker.reply(200, "subscribe")
    assert [(entry["key"], entry["data"]) for entry in live["state"]] == [(f"k{number}", number) for number in range(5)]
    await put_all(node, channel, {"k0": 9})
