"""Clients without a token: when they expire, the application decides whether they may stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from roomcast.hooks.interface import ConnectAnswer, Hook, RefreshAnswer, SubscribeAnswer
from roomcast.model.errors import ApplicationError, ClientError, Disconnect, ErrorCode, Refused
from tests.support.sessions import Bench, Client, turns, until

pytestmark = pytest.mark.anyio

REFUSALS = [
    ApplicationError(1000, "no"),
    ClientError(ErrorCode.INTERNAL, "the application gave no answer"),
    RefreshAnswer(is_expired=True),
    RefreshAnswer(1),
]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench(anonymous=True) as bench:
        bench.application.answers = {
            Hook.CONNECT: ConnectAnswer(user="ada", expire_at_s=int(bench.now_s) + 60),
            Hook.REFRESH: RefreshAnswer(int(bench.now_s) + 120, info=b'{"n":2}'),
        }
        yield bench


async def in_room(bench: Bench) -> Client:
    """Return a client whose subscription ends in a minute, and whose connection does not."""
    bench.application.answers = {
        Hook.SUBSCRIBE: SubscribeAnswer(expire_at_s=int(bench.now_s) + 60),
        Hook.SUB_REFRESH: RefreshAnswer(int(bench.now_s) + 120),
    }
    client = await bench.connected()
    client.send({"id": 2, "subscribe": {"channel": "room:a"}})
    (reply,) = await client.replies(1)
    assert "expires" not in reply["subscribe"], "the client would look for a token"
    return client


async def test_the_application_is_asked_at_the_time_and_keeps_a_connection(bench: Bench) -> None:
    client = bench.client()
    client.send({"id": 1, "connect": {}})
    (reply,) = await client.replies(1)

    bench.at(bench.now_s + 60)
    await until(lambda: client.connection.info == b'{"n":2}')

    assert "expires" not in reply["connect"], "the client would look for a token"
    assert [type(event).__name__ for event in bench.application.asked] == ["ConnectEvent", "RefreshEvent"]
    bench.at(bench.now_s + 59)
    await turns()
    assert len(bench.application.asked) == 2
    bench.at(bench.now_s + 1)
    await until(lambda: client.codes == [3005])
    assert len(bench.application.asked) == 3, "and this time its answer was of the past"


@pytest.mark.parametrize("answer", REFUSALS)
async def test_without_an_answer_that_keeps_it_a_connection_ends(bench: Bench, answer: object) -> None:
    client = await bench.connected()
    bench.application.answers[Hook.REFRESH] = answer

    bench.at(bench.now_s + 60)
    await until(lambda: bool(client.codes))

    assert client.codes == [3005]


async def test_the_application_may_end_a_connection_with_a_code_of_its_own(bench: Bench) -> None:
    client = await bench.connected()
    bench.application.answers[Hook.REFRESH] = Refused(Disconnect(4500, "closing time"))

    bench.at(bench.now_s + 60)
    await until(lambda: bool(client.codes))

    assert client.codes == [4500]


async def test_the_application_keeps_a_subscription(bench: Bench) -> None:
    client = await in_room(bench)

    bench.at(bench.now_s + 60)
    await until(lambda: len(bench.application.asked) == 2)
    await turns()

    assert "room:a" in client.connection.subscriptions
    bench.at(bench.now_s + 60)
    await until(lambda: len(bench.application.asked) == 3)


@pytest.mark.parametrize("answer", REFUSALS)
async def test_without_an_answer_that_keeps_it_a_subscription_ends(bench: Bench, answer: object) -> None:
    client = await in_room(bench)
    bench.application.answers[Hook.SUB_REFRESH] = answer

    bench.at(bench.now_s + 60)
    (push,) = await client.replies(1)

    assert push["push"]["unsubscribe"]["code"] == 2501
    assert (client.codes, dict(client.connection.subscriptions)) == ([], {})


async def test_the_time_of_a_refresh_without_a_token_has_no_grace_either(bench: Bench) -> None:
    client = await in_room(bench)
    bench.application.answers[Hook.SUB_REFRESH] = RefreshAnswer(int(bench.now_s) + 30)
    client.send({"id": 3, "sub_refresh": {"channel": "room:a"}})
    await client.replies(1)

    bench.at(bench.now_s + 30)
    await until(lambda: len(bench.application.asked) == 3)


async def test_a_subscription_that_was_left_meanwhile_is_nobodys(bench: Bench) -> None:
    client = await in_room(bench)

    bench.at(bench.now_s + 60)
    client.send({"id": 3, "unsubscribe": {"channel": "room:a"}})
    await client.replies(1)
    await until(lambda: len(bench.application.asked) == 2)
    await turns()

    assert (client.got(), client.codes) == ([], [])


async def test_of_who_has_gone_the_application_is_asked_no_more_and_nothing_is_kept(bench: Bench) -> None:
    in_a_minute = int(bench.now_s) + 60
    bench.application.answers[Hook.CONNECT] = ConnectAnswer(expire_at_s=in_a_minute)
    bench.application.answers[Hook.SUBSCRIBE] = SubscribeAnswer(expire_at_s=in_a_minute)
    answers = {hook: asyncio.get_running_loop().create_future() for hook in (Hook.REFRESH, Hook.SUB_REFRESH)}
    bench.application.answers |= answers
    client = await bench.connected()
    client.send({"id": 2, "subscribe": {"channel": "room:a"}})
    await client.replies(1)
    bench.at(bench.now_s + 60)
    await until(lambda: len(bench.application.asked) == 4)

    client.vanish()
    for answer in answers.values():
        answer.set_result(RefreshAnswer(in_a_minute + 60))
    await turns()
    bench.at(bench.now_s + 3600)
    await turns()

    assert len(bench.application.asked) == 4
