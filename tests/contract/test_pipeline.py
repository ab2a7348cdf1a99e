"""Pipelines keep the order of each key, while another node loads the scripts that the server has forgotten."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from roomcast.brokers.interface import ALWAYS, Once, Published, Submission
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import Publication
from roomcast.redis_access import pipeline
from roomcast.redis_access.pipeline import run_all, run_pipeline
from roomcast.redis_access.scripts import read_script
from tests.support.brokers import running

pytestmark = pytest.mark.anyio

KEPT = Namespace(history_size=10, history_ttl_s=60.0)
# Redis reads 16 KiB of a connection before it turns to another one: shorter pipelines are executed without a break.
ROUNDS, LENGTH = 120, 200
PADDING = b"." * 500


async def forget_and_load(server: Redis, broker: RedisBroker) -> None:
    """Forget the scripts, and load them a little later, as another node does."""
    while True:
        await server.script_flush()
        for script in broker._history.scripts:
            await server.script_load(script.text)


@pytest.mark.redis
async def test_publications_stay_in_order_while_the_scripts_are_forgotten(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_LOADS", 50)  # they are forgotten all the time
    async with running(client, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        noise = asyncio.create_task(forget_and_load(client, broker))
        for first in range(0, ROUNDS * LENGTH, LENGTH):
            submissions = [
                Submission(
                    Publication("room:a", b"%d" % number + PADDING),
                    KEPT,
                    Once(key=str(number)) if number % 5 == 0 else ALWAYS,
                    skip_history=number % 7 == 0,
                )
                for number in range(first, first + LENGTH)
            ]
            published = await broker.publish_all(submissions)
            assert all(isinstance(each, Published) for each in published), published
        noise.cancel()
        await sink.until_texts([b"%d" % number + PADDING for number in range(ROUNDS * LENGTH)])


async def test_each_command_gets_its_own_reply(single_server: Redis, prefix: str) -> None:
    """Joined calls, calls of another script and plain commands of the same key, and a call that fails."""
    add, remove = read_script("roomcast.redis_access", "bury"), read_script("roomcast_workers", "release")
    key = f"{prefix}a"
    commands = [
        ("SET", key, "me"),
        remove.call([key], ["you"]),
        remove.call([key], ["me"]),
        remove.call([key], ["me"]),
        ("SET", key, "me"),
        add.call([key, f"{prefix}dead"], ["1-0", "bad", 10, 10]),
        remove.call([key], ["me"]),
        ("GET", key),
    ]

    replies = await run_pipeline(single_server, commands, [add, remove])

    assert isinstance(replies.pop(5), Exception), "the key is no stream"
    assert replies == [True, 0, 1, 0, True, 1, None]
    assert await run_all(single_server, [("EXISTS", key)], ()) == [0]
