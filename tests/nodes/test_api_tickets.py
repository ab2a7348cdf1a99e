"""`POST /api/ticket`, on real nodes that check tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.processes import API_KEY, Cluster, eventually, http_client
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def guarded(redis_server: object) -> Iterator[Cluster]:
    """Two nodes that know clients by their tokens alone."""
    port = redis_server.port  # type: ignore[attr-defined]  # a ValkeyServer
    with Cluster(f"redis://127.0.0.1:{port}/0", f"tickets-{time.monotonic_ns()}:", secret=SECRET) as cluster:
        cluster.start_nodes(2)
        yield cluster


async def ask(cluster: Cluster, *, body: object = None, **headers: str) -> httpx.Response:
    async with http_client() as http:
        return await http.post(cluster.nodes[0].http("/api/ticket"), json=body, headers=headers)


async def users_with(cluster: Cluster, ticket: str) -> list[str]:
    """Return the presence of a room, once a client has connected with a ticket to the other node."""
    room = f"r{abs(hash(ticket))}"
    async with (
        http_client() as http,
        http.stream("GET", cluster.nodes[1].http(f"/sse/rooms/{room}?ticket={ticket}")) as stream,
    ):
        if stream.status_code != 200:
            return []
        while True:
            found = await http.post(
                cluster.nodes[0].http("/api/presence"), json={"channel": f"room:{room}"}, headers={"X-API-Key": API_KEY}
            )
            if present := found.json()["result"]["presence"]:
                return [client["user"] for client in present.values()]


async def test_a_client_gets_a_ticket_for_its_token_that_opens_one_connection_to_any_node(guarded: Cluster) -> None:
    answer = await ask(guarded, Authorization=f"Bearer {token()}")
    ticket = answer.json()["result"]["ticket"]

    assert answer.headers["cache-control"] == "no-store"
    assert await users_with(guarded, ticket) == ["ada"]
    assert await users_with(guarded, ticket) == [], "it is used"


async def test_a_service_gets_a_ticket_for_whom_it_wants(guarded: Cluster) -> None:
    answer = await ask(guarded, body={"user": "bob"}, **{"X-API-Key": API_KEY})

    assert await users_with(guarded, answer.json()["result"]["ticket"]) == ["bob"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, {}, 401, 101),
        ({"X-API-Key": "wrong"}, {"user": "bob"}, 401, 101),
        ({"Authorization": "Bearer none"}, {}, 401, 101),
        ({"Authorization": f"Bearer {token(exp=1)}"}, {}, 401, 109),
        ({"X-API-Key": API_KEY}, [], 400, 107),
        ({"X-API-Key": API_KEY}, {"user": 7}, 400, 107),
        ({"X-API-Key": API_KEY}, {"user": "a\nb"}, 400, 107),
        ({"X-API-Key": API_KEY}, {"user": "bob", "permissions": [{"channels": ["*"], "allow": ["fly"]}]}, 400, 107),
    ],
)
async def test_nobody_else_gets_one(
    guarded: Cluster, headers: dict[str, str], body: object, status: int, code: int
) -> None:
    answer = await ask(guarded, body=body, **headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def open_stream(cluster: Cluster, node: int, ticket: str, last_id: str = "") -> tuple[int, str]:
    """Open an event stream until it has its position; return its status and its last id."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    url = cluster.nodes[node].http(f"/sse/rooms/again?ticket={ticket}")
    async with http_client() as http, http.stream("GET", url, headers=headers) as stream:
        async for line in stream.aiter_lines():
            last_id = line[4:] if line.startswith("id: ") else last_id
            if line == "event: position":
                break
        return stream.status_code, last_id if stream.status_code == 200 else ""


async def test_a_ticket_opens_its_stream_again_for_who_had_it_until_the_token_expires(guarded: Cluster) -> None:
    answer = await ask(guarded, Authorization=f"Bearer {token(exp=int(time.time()) + 2)}")
    ticket = answer.json()["result"]["ticket"]

    status, last_id = await open_stream(guarded, 0, ticket)
    position, _, key = last_id.rpartition(":")

    assert (status, len(key)) == (200, 43)
    assert (await open_stream(guarded, 1, ticket))[0] == 401
    assert (await open_stream(guarded, 1, ticket, position))[0] == 401, "others know the position"
    assert (await open_stream(guarded, 1, ticket, f"{position}:{key[::-1]}"))[0] == 401
    assert await open_stream(guarded, 1, ticket, last_id) == (200, last_id)

    async def is_over() -> bool:
        return await open_stream(guarded, 0, ticket, last_id) == (401, "")

    await eventually(is_over)
