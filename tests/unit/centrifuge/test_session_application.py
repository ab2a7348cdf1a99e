"""Sessions with an application that handles hooks, on fakes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from roomcast.hooks.interface import ConnectAnswer, Hook, NoConnectAnswer, PublishAnswer, SubscribeAnswer
from roomcast.model.errors import (
    FORCE_DISCONNECT,
    SHUTDOWN,
    ApplicationError,
    ClientError,
    Disconnect,
    ErrorCode,
    Refused,
)
from tests.support.fakes import FakePresence
from tests.support.sessions import ADA, Bench, subscribe, turns, until
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio


# The application.


async def test_the_application_is_told_who_it_is_and_says_what_it_begins_with(bench: Bench) -> None:
    client = bench.client(headers={"cookie": "a=1", "authorization": "secret"})
    bench.application.answers[Hook.CONNECT] = ConnectAnswer(
        user="carl",
        info=b'{"i":1}',
        data=b'{"d":1}',
        meta=b'{"m":1}',
        channels={"room:a": SubscribeAnswer(info=b"2", data=b"3")},
    )

    client.send({"id": 1, "connect": {"data": {"q": 1}, "name": "js", "version": "5", "subs": {"room:z": {}}}})
    (reply,) = await client.replies(1)

    (event,) = bench.application.asked
    assert event.caller.headers == {"cookie": "a=1"}
    assert (event.caller.transport, event.caller.encoding, event.caller.user) == ("recording", "json", "")
    assert (event.data, event.name, event.version, event.channels) == (b'{"q":1}', "js", "5", ("room:z",))
    assert reply["connect"]["data"] == {"d": 1}
    assert reply["connect"]["subs"] == {"room:a": {"data": 3}, "user:#carl": {}}
    assert client.session.caller.meta == b'{"m":1}'
    assert isinstance(bench.node.presence, FakePresence)
    (member,) = bench.node.presence.members["room:a"].values()
    assert (member.user, member.info, member.channel_info) == ("carl", b'{"i":1}', b"2")
    assert [each.caller.user for each in bench.application.connected] == ["carl"]


async def test_the_application_decides_on_subscriptions_but_not_against_a_channels_name(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))
    bench.application.answers[Hook.SUBSCRIBE] = SubscribeAnswer(data=b'"welcome"')

    client.send(subscribe("closed:a", 2, data={"q": 1}), subscribe("$room:a", 3), subscribe("room:#bob", 4))
    done, private, of_others = await client.replies(3)

    assert done["subscribe"] == {"data": "welcome"}
    assert (private["error"]["code"], of_others["error"]["code"]) == (103, 103)
    assert [event.data for event in bench.application.asked] == [b'{"q":1}']


async def test_the_application_changes_what_is_published(bench: Bench) -> None:
    client = await bench.connected()
    bench.application.answers[Hook.PUBLISH] = PublishAnswer(b'"changed"')

    client.send({"id": 2, "publish": {"channel": "room:a", "data": "as it was"}})
    (reply,) = await client.replies(1)

    assert reply == {"id": 2, "publish": {}}
    assert [publication.data for publication in bench.broker.published] == [b'"changed"']


async def test_procedures_are_the_applications_and_there_are_none_without_it(bench: Bench) -> None:
    client = await bench.connected()

    client.send({"id": 2, "rpc": {"method": "f", "data": 1}})
    (none,) = await client.replies(1)
    bench.application.answers[Hook.RPC] = lambda event: b'["%b",%b]' % (event.method.encode(), event.data)
    client.send({"id": 3, "rpc": {"method": "f", "data": 1}}, {"send": {"data": 2}}, {"id": 4, "ping": {}})
    called, ping = await client.replies(2)

    assert none["error"]["code"] == 108
    assert called == {"id": 3, "rpc": {"data": ["f", 1]}}
    assert ping["id"] == 4, "a message without a reply was done in between"
    assert [(event.method, event.data) for event in bench.application.asked] == [("f", b"1"), ("", b"2")]


async def test_a_procedure_that_answers_nothing_is_answered(bench: Bench) -> None:
    client = await bench.connected()
    bench.application.answers[Hook.RPC] = b""

    client.send({"id": 2, "rpc": {"method": "f"}})

    assert await client.replies(1) == [{"id": 2, "rpc": {}}]


async def test_a_message_that_nobody_takes_ends_the_connection(bench: Bench) -> None:
    client = await bench.connected()

    client.send({"send": {"data": 1}})
    await turns()

    assert client.codes == [3508]


@pytest.mark.parametrize("hook", [Hook.CONNECT, Hook.SUBSCRIBE, Hook.PUBLISH, Hook.RPC])
@pytest.mark.parametrize(
    ("fault", "error", "codes"),
    [
        (ApplicationError(400, "no"), {"code": 400, "message": "no"}, []),
        (
            ApplicationError(1999, "later", is_temporary=True),
            {"code": 1999, "message": "later", "temporary": True},
            [],
        ),
        (
            ClientError(ErrorCode.TOO_MANY_REQUESTS, "many wait"),
            {"code": 111, "message": "too many requests", "temporary": True},
            [],
        ),
        (Refused(Disconnect(4501, "not today")), None, [4501]),
        (Refused(FORCE_DISCONNECT), None, [3503]),
        (RuntimeError("a bug"), None, [3004]),
    ],
)
async def test_what_the_application_raises_is_the_reply_or_the_end(
    bench: Bench, hook: Hook, fault: Exception, error: dict[str, Any] | None, codes: list[int]
) -> None:
    command = {
        Hook.CONNECT: {"id": 2, "connect": {}},
        Hook.SUBSCRIBE: subscribe("room:a"),
        Hook.PUBLISH: {"id": 2, "publish": {"channel": "room:a", "data": 1}},
        Hook.RPC: {"id": 2, "rpc": {}},
    }[hook]
    client = bench.client() if hook is Hook.CONNECT else await bench.connected()
    bench.application.answers[hook] = fault

    client.send(command)
    await turns()

    assert client.got() == ([] if error is None else [{"id": 2, "error": error}])
    assert client.codes == codes


async def test_an_application_hears_of_the_end_of_those_it_was_told_of_alone(bench: Bench) -> None:
    client, stranger = await bench.connected(signed(ADA)), bench.client()

    stranger.vanish()
    client.session.disconnect(SHUTDOWN)
    client.vanish()

    assert [(event.caller.user, event.code) for event in bench.application.gone] == [("ada", 3001)]


async def test_whom_the_application_takes_long_to_know_is_not_stale(bench: Bench) -> None:
    """It would not reconnect after 3502; Redis and the application have deadlines of their own."""
    client = bench.client()
    answer = bench.application.answers[Hook.CONNECT] = asyncio.get_running_loop().create_future()
    client.send({"id": 1, "connect": {}})
    await turns()

    bench.at(bench.now_s + 11)
    assert client.codes == []
    answer.set_result(ConnectAnswer(user="ada"))

    assert "connect" in (await client.replies(1))[0]


async def test_who_is_not_let_in_and_reads_no_answers_is_slow() -> None:
    async with Bench(max_unsent_bytes=65_536, max_message_bytes=32_768) as bench:
        client = bench.client()
        client.transport.stalled = True

        client.send(*[{"id": 1, "connect": {}}] * 2000)
        await until(lambda: client.codes != [])

        assert client.codes == [3008]


async def test_who_was_not_let_in_has_so_long_again_and_no_longer(bench: Bench) -> None:
    client = bench.client()
    answer = bench.application.answers[Hook.CONNECT] = asyncio.get_running_loop().create_future()
    client.send({"id": 1, "connect": {}})
    await turns()
    bench.at(bench.now_s + 11)
    answer.set_exception(ApplicationError(400, "no"))
    await client.replies(1)

    bench.at(bench.now_s + 11)

    assert client.codes == [3502]


@pytest.mark.parametrize(
    ("is_anonymous", "token", "answer", "codes"),
    [
        (False, "", NoConnectAnswer(), [3501]),
        (False, "", ConnectAnswer(), []),
        (True, "", NoConnectAnswer(), []),
        (False, signed(ADA), NoConnectAnswer(), []),
    ],
)
async def test_a_client_about_which_the_application_does_not_decide_needs_a_token_or_permission(
    is_anonymous: bool, token: str, answer: ConnectAnswer, codes: list[int]
) -> None:
    async with Bench(anonymous=is_anonymous) as bench:
        bench.application.answers[Hook.CONNECT] = answer
        client = bench.client()

        client.send({"id": 1, "connect": {"token": token} if token else {}})
        await turns()

        assert client.codes == codes
        assert bool(client.got()) is not bool(codes)
