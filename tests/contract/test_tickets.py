from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from roomcast.auth.claims import connection_claims
from roomcast.auth.tickets import STREAM_TTL_S, TICKET_TTL_S, Tickets
from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import Client, connect

pytestmark = pytest.mark.anyio

CLAIMS = {"sub": "größe", "permissions": [{"channels": ["room:*"], "allow": ["publish"]}]}


@pytest.fixture(
    params=["fake", *[pytest.param(name, marks=pytest.mark.redis) for name in ("single", "sentinel", "cluster")]]
)
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Client, Client]]:
    """The clients of two nodes."""
    if request.param == "fake":
        server = FakeServer()
        async with FakeAsyncRedis(server=server) as one, FakeAsyncRedis(server=server) as two:
            yield one, two
        return
    url = request.getfixturevalue("redis_url" if request.param == "single" else f"{request.param}_url")
    async with (
        connect(url, timeout_s=5, client_name="one") as one,
        connect(url, timeout_s=5, client_name="two") as two,
    ):
        yield one, two


async def test_a_ticket_of_one_node_opens_one_connection_to_another(nodes: tuple[Client, Client], prefix: str) -> None:
    here, there = (Tickets(client, prefix=prefix) for client in nodes)

    ticket = await here.issue(CLAIMS)
    claims = await there.redeem(ticket)

    assert claims == CLAIMS
    assert connection_claims(claims).user == "größe"
    assert await here.redeem(ticket) is None
    assert await there.redeem(ticket) is None


async def test_of_many_who_come_with_one_ticket_one_gets_in(nodes: tuple[Client, Client], prefix: str) -> None:
    here, there = (Tickets(client, prefix=prefix) for client in nodes)
    ticket = await here.issue(CLAIMS)

    answers = await asyncio.gather(*[tickets.redeem(ticket) for tickets in (here, there) * 10])

    assert sorted(answer is None for answer in answers) == [False] + [True] * 19


async def test_a_streams_ticket_opens_it_again_with_its_key_alone(nodes: tuple[Client, Client], prefix: str) -> None:
    here, there = (Tickets(client, prefix=prefix) for client in nodes)
    ticket, other = await here.issue(CLAIMS), await here.issue(CLAIMS)

    found, key = await there.redeem_for_stream(ticket) or ({}, "")
    _, other_key = await there.redeem_for_stream(other) or ({}, "")

    assert found == CLAIMS
    assert await there.redeem_for_stream(ticket) is None
    assert await here.redeem(ticket) is None
    for _ in range(3):
        assert await here.reopen(ticket, key) == CLAIMS
    for wrong in ("", "x", "a" * 43, "ß" * 43, ticket, other_key):
        assert await there.reopen(ticket, wrong) is None


async def test_of_many_streams_with_one_ticket_one_opens(nodes: tuple[Client, Client], prefix: str) -> None:
    here, there = (Tickets(client, prefix=prefix) for client in nodes)
    ticket = await here.issue(CLAIMS)

    answers = await asyncio.gather(*[tickets.redeem_for_stream(ticket) for tickets in (here, there) * 10])

    (opened,) = [answer for answer in answers if answer is not None]
    assert await there.reopen(ticket, opened[1]) == CLAIMS


@pytest.mark.redis
async def test_a_ticket_that_cannot_be_kept_for_its_stream_is_not_used_up(client: Redis, prefix: str) -> None:
    await client.acl_setuser("guest", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-set"])
    ticket = await Tickets(client, prefix=prefix).issue(CLAIMS)
    port = client.connection_pool.connection_kwargs["port"]
    async with connect(f"redis://guest:x@127.0.0.1:{port}/0", timeout_s=5, client_name="guest") as guest:
        with pytest.raises(BrokerUnavailable):
            await Tickets(guest, prefix=prefix).redeem_for_stream(ticket)

    assert await Tickets(client, prefix=prefix).redeem(ticket) == CLAIMS


@pytest.mark.redis
async def test_a_streams_ticket_is_forgotten_a_day_after_its_stream_was_opened(client: Redis, prefix: str) -> None:
    tickets = Tickets(client, prefix=prefix)
    ticket = await tickets.issue(CLAIMS)
    _, stream_key = await tickets.redeem_for_stream(ticket) or ({}, "")
    (key,) = [key async for key in client.scan_iter(f"{prefix}*")]
    await client.pexpire(key, 60_000)

    assert await tickets.reopen(ticket, stream_key) == CLAIMS
    assert (STREAM_TTL_S - 60) * 1000 < await client.pttl(key) <= STREAM_TTL_S * 1000


async def test_no_two_tickets_are_the_same_and_all_fit_into_a_url(nodes: tuple[Client, Client], prefix: str) -> None:
    tickets = Tickets(nodes[0], prefix=prefix)

    issued = {await tickets.issue({"sub": str(number)}) for number in range(20)}

    assert len(issued) == 20
    assert all(len(ticket) == 43 and ticket.replace("-", "a").replace("_", "a").isalnum() for ticket in issued)


@pytest.mark.redis
async def test_redis_has_no_ticket_only_its_hash_and_not_for_long(client: Redis, prefix: str) -> None:
    ticket = await Tickets(client, prefix=prefix).issue(CLAIMS)

    (key,) = [key async for key in client.scan_iter(f"{prefix}*")]

    assert key.decode() == f"{prefix}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"
    assert 0 < await client.pttl(key) <= TICKET_TTL_S * 1000


@pytest.mark.redis
async def test_a_ticket_that_is_too_old_opens_nothing(client: Redis, prefix: str) -> None:
    tickets = Tickets(client, prefix=prefix)
    ticket = await tickets.issue(CLAIMS)
    (key,) = [key async for key in client.scan_iter(f"{prefix}*")]

    await client.pexpire(key, 0)

    assert await tickets.redeem(ticket) is None


async def test_what_was_never_a_ticket_opens_nothing(nodes: tuple[Client, Client], prefix: str) -> None:
    tickets = Tickets(nodes[0], prefix=prefix)

    for text in ("", "x", "a" * 42, "a" * 43, "a" * 44, "\ud800" * 43, "ß" * 43, "*" * 43, "a" * 1_000_000):
        assert await tickets.redeem(text) is None


@pytest.mark.redis
@pytest.mark.parametrize("foreign", [b"", b"abc", b"5", b"[[1,2]]", b"null", b"\xff"])
async def test_what_no_node_has_written_opens_nothing(client: Redis, prefix: str, foreign: bytes) -> None:
    ticket = await Tickets(client, prefix=prefix).issue(CLAIMS)
    (key,) = [key async for key in client.scan_iter(f"{prefix}*")]
    await client.set(key, foreign)

    assert await Tickets(client, prefix=prefix).redeem(ticket) is None


@pytest.mark.redis
async def test_a_redis_that_is_away_or_refuses_is_said(client: Redis, prefix: str) -> None:
    async with connect("redis://127.0.0.1:1/0", timeout_s=1, client_name="test") as nowhere:
        tickets = Tickets(nowhere, prefix=prefix)
        for call in (tickets.issue(CLAIMS), tickets.redeem("a" * 43)):
            with pytest.raises(BrokerUnavailable, match=r"^Redis is away \(ConnectionError\)$"):
                await call
    ticket = await Tickets(client, prefix=prefix).issue(CLAIMS)
    (key,) = [key async for key in client.scan_iter(f"{prefix}*")]
    await client.delete(key)
    await client.sadd(key, "x")

    with pytest.raises(BrokerUnavailable, match=r"^Redis refuses a command \(WRONGTYPE\)$"):
        await Tickets(client, prefix=prefix).redeem(ticket)
