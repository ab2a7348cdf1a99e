"""Channels, tokens and positions that a command may not have."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from roomcast.centrifuge import client_pb2
from tests.nodes.bad_commands.cluster import PUBLIC_KEY
from tests.support.processes import NodeProcess, receive
from tests.support.protobuf_frames import framed, replies_of
from tests.support.speaker import Json, connected, websocket
from tests.support.tokens import private_key, public_pem, signed, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


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
    """Return a token whose HMAC secret is the public key; PyJWT itself would refuse to make it."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (head + b"." + part(hmac.digest(public_pem(PUBLIC_KEY), head, hashlib.sha256))).decode()


FORGED = {
    "nothing": "x",
    "three dots": "a.b.c",
    "none": unsigned({"sub": "ada"}),
    "public key as secret": signed_with_public_key({"sub": "ada"}),
    "another secret": signed({"sub": "ada"}, "another secret, of 32 characters"),
    "another key": signed({"sub": "ada"}, private_key("ES256"), "ES256"),
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


async def test_a_token_that_is_not_valid_yet_is_answered_as_an_expired_one(node: NodeProcess) -> None:
    async with websocket(node) as client:
        for claims in ({"nbf": int(time.time()) + 1000}, {"exp": 1}):
            await client.send({"id": 1, "connect": {"token": signed({"sub": "ada", **claims})}})
            assert (await client.line())["error"]["code"] == 109


async def test_a_token_from_a_clock_that_is_ahead_is_taken(node: NodeProcess) -> None:
    async with connected(node, signed({"sub": "ada", "iat": int(time.time()) + 1000})) as client:
        assert await client.ask("ping") == {}


async def test_a_token_of_the_public_key_is_taken(node: NodeProcess) -> None:
    async with connected(node, signed({"sub": "ada"}, PUBLIC_KEY, "ES256")) as client:
        assert await client.ask("ping") == {}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        *[pytest.param(forged, 103, id=name) for name, forged in FORGED.items()],
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
            {"offset": 2**53 - 2},
            {"offset": 7, "epoch": "x" * 100_000},
            {"offset": 7, "epoch": "\0"},
        ]
        for number, place in enumerate(nowhere):
            found = await client.ask("subscribe", channel=f"room:r{number}", recover=True, **place)
            assert found["was_recovering"]
            assert not found.get("recovered")
