"""Bad requests to the streams of the Centrifuge protocol and to `/emulation`."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from tests.nodes.bad_commands.cluster import MAX_MESSAGE_BYTES
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, http_client
from tests.support.speaker import streaming
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


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
                ("GET", "PUT", "DELETE", "PATCH"), ("/connection/http_stream", "/connection/sse", "/emulation")
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


async def test_a_node_that_ends_says_so_in_its_streams(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, secret=SECRET) as own:
        node = own.start_node()
        async with streaming(node, token()) as client:
            ending = asyncio.create_task(asyncio.to_thread(node.end))
            assert await client.end() == (3001, "shutdown")
        await ending
        assert node.faults() == []
