"""The tokens of a session: authentication, and expiry, on fakes."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from roomcast.hooks.interface import ConnectAnswer, Hook, RefreshAnswer
from tests.support.sessions import ADA, GRACE_S, Bench, subscribe, turns, until
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio


# Tokens, and how long they last.


async def test_a_client_that_says_nothing_for_10_s_is_stale(bench: Bench) -> None:
    silent, client = bench.client(), await bench.connected()

    bench.at(bench.now_s + 9.9)
    assert silent.codes == []
    bench.at(bench.now_s + 0.1)

    assert silent.codes == [3502]
    assert client.codes == []


async def test_a_connection_ends_when_its_token_has_expired_and_the_grace_is_over(bench: Bench) -> None:
    expire_at_s = int(bench.now_s) + 60
    client = await bench.connected(signed({**ADA, "exp": expire_at_s}))

    bench.at(expire_at_s + GRACE_S - 0.1)
    assert client.codes == []
    bench.at(expire_at_s + GRACE_S)

    assert client.codes == [3005]


async def test_a_new_token_lets_the_client_stay_and_changes_what_others_see(bench: Bench) -> None:
    expire_at_s = int(bench.now_s) + 60
    client = await bench.connected(signed({**ADA, "exp": expire_at_s}))

    client.send({"id": 2, "refresh": {"token": signed({**ADA, "exp": expire_at_s + 100, "info": {"n": 2}})}})
    (reply,) = await client.replies(1)
    bench.at(expire_at_s + GRACE_S)
    assert client.codes == []
    bench.at(expire_at_s + 100 + GRACE_S)

    assert (reply["refresh"]["expires"], reply["refresh"]["ttl"]) == (True, 160)
    assert reply["refresh"]["client"] == client.session.client_id
    assert client.connection.info == b'{"n":2}'
    assert client.codes == [3005]


async def test_a_token_without_an_end_ends_the_waiting_for_it(bench: Bench) -> None:
    expire_at_s = int(bench.now_s) + 60
    client = await bench.connected(signed({**ADA, "exp": expire_at_s}))

    client.send({"id": 2, "refresh": {"token": signed({**ADA, "expire_at": 0})}})
    (reply,) = await client.replies(1)
    bench.at(expire_at_s + 1e6)

    assert "expires" not in reply["refresh"]
    assert client.codes == []


async def test_a_token_of_somebody_else_refreshes_nothing(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))

    client.send({"id": 2, "refresh": {"token": signed({"sub": "bob"})}})
    await turns()

    assert client.codes == [3500]


async def test_a_client_that_the_application_knows_by_another_name_refreshes_with_the_tokens(bench: Bench) -> None:
    bench.application.answers[Hook.CONNECT] = ConnectAnswer(user="user 7")
    client = await bench.connected(signed(ADA))

    client.send({"id": 2, "refresh": {"token": signed(ADA)}})
    (reply,) = await client.replies(1)
    client.send({"id": 3, "refresh": {"token": signed({"sub": "user 7"})}})
    await turns()

    assert "refresh" in reply
    assert client.session.client.user == "user 7"
    assert client.codes == [3500], "a token of somebody else"


async def test_a_client_that_came_without_a_token_refreshes_with_one_of_the_user_that_it_is(bench: Bench) -> None:
    bench.application.answers[Hook.CONNECT] = ConnectAnswer(user="ada")
    client = await bench.connected()

    client.send({"id": 2, "refresh": {"token": signed(ADA)}})
    (reply,) = await client.replies(1)
    client.send({"id": 3, "refresh": {"token": signed({})}})
    await turns()

    assert "refresh" in reply
    assert client.codes == [3500]


async def test_refreshing_without_a_token_where_no_application_helps_is_refused(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))

    client.send({"id": 2, "refresh": {}})
    (no_token,) = await client.replies(1)

    assert no_token["error"]["code"] == 107
    assert client.codes == []


async def test_the_application_may_refresh(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))
    bench.application.answers[Hook.REFRESH] = RefreshAnswer(int(bench.now_s) + 7, info=b"1")

    client.send({"id": 2, "refresh": {}})
    (refreshed,) = await client.replies(1)

    assert refreshed["refresh"]["ttl"] == 7
    assert client.connection.info == b"1"


async def test_a_token_that_is_over_lets_nobody_in_and_leaves_nothing(bench: Bench) -> None:
    client = bench.client()

    client.send({"id": 1, "connect": {"token": signed({**ADA, "expire_at": 1, "channels": ["room:a"]})}})
    (reply,) = await client.replies(1)

    assert reply["error"]["code"] == 110
    assert (bench.broker.subscribed, client.session.is_connected) == ([], False)


async def test_a_subscription_ends_when_its_token_has_expired_unless_it_is_refreshed(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))
    end_s = int(bench.now_s) + 60

    def token(channel: str, expire_at_s: int) -> str:
        return signed({**ADA, "channel": channel, "exp": expire_at_s})

    client.send(
        subscribe("room:a", 2, token=token("room:a", end_s)), subscribe("room:b", 3, token=token("room:b", end_s))
    )
    subscribed, _ = await client.replies(2)
    client.send({"id": 4, "sub_refresh": {"channel": "room:b", "token": token("room:b", end_s + 100)}})
    (refreshed,) = await client.replies(1)
    bench.at(end_s + GRACE_S)

    assert (subscribed["subscribe"]["expires"], subscribed["subscribe"]["ttl"]) == (True, 60)
    assert refreshed["sub_refresh"] == {"expires": True, "ttl": 160}
    ended = {"code": 2501, "reason": "subscription expired"}
    assert [line["push"] for line in client.got()] == [{"channel": "room:a", "unsubscribe": ended}]
    bench.at(end_s + 100 + GRACE_S)
    assert [line["push"] for line in client.got()] == [{"channel": "room:b", "unsubscribe": ended}]
    assert client.codes == []


async def test_a_subscription_of_the_server_that_expires_ends_the_connection(bench: Bench) -> None:
    client = await bench.connected(signed({**ADA, "expire_at": 0}))
    expire_at_s = int(bench.now_s) + 60
    await bench.handlers["subscribe"]({"user": "ada", "channel": "room:a", "expire_at": expire_at_s})

    bench.at(expire_at_s + GRACE_S)

    assert client.codes == [3006]


async def test_a_subscription_is_refreshed_by_its_own_token_or_the_application_alone(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))
    client.send(subscribe("room:a", 2))
    await client.replies(1)

    tokens = [
        signed({**ADA, "channel": "room:b"}),
        signed({"sub": "bob", "channel": "room:a"}),
        "",
    ]
    for token in tokens:
        client.send({"id": 3, "sub_refresh": {"channel": "room:a", "token": token}})
    client.send({"id": 3, "sub_refresh": {"channel": "room:none"}}, {"id": 3, "sub_refresh": {"channel": "user:#ada"}})
    refused = await client.replies(5)
    bench.application.answers[Hook.SUB_REFRESH] = RefreshAnswer(int(bench.now_s) + 9)
    client.send({"id": 5, "sub_refresh": {"channel": "room:a"}})
    (refreshed,) = await client.replies(1)

    assert [reply["error"]["code"] for reply in refused] == [103, 103, 107, 107, 107]
    assert refreshed["sub_refresh"] == {"expires": True, "ttl": 9}


async def test_a_service_lets_a_users_connections_end_at_another_time_or_now(bench: Bench) -> None:
    client = await bench.connected(signed({**ADA, "expire_at": 0}))

    await bench.handlers["refresh"]({"user": "ada", "expire_at": int(bench.now_s) + 30, "info": {"n": 3}})
    (push,) = client.got()
    assert push["push"] == {"refresh": {"expires": True, "ttl": 30}}
    assert client.connection.info == b'{"n":3}'
    await bench.handlers["refresh"]({"user": "ada", "expired": True})

    assert client.codes == [3005]


async def test_a_session_that_is_gone_is_not_kept_for_its_deadlines(bench: Bench) -> None:
    client = await bench.connected(signed({**ADA, "exp": int(bench.now_s) + 60}))

    client.vanish()
    connection = weakref.ref(client.connection)
    bench.forget(client)
    del client
    gc.collect()

    assert connection() is None


async def test_an_answer_about_a_client_that_is_gone_keeps_nothing_of_it(bench: Bench) -> None:
    answer: asyncio.Future[RefreshAnswer] = asyncio.get_running_loop().create_future()
    bench.application.answers |= {Hook.CONNECT: ConnectAnswer(expire_at_s=int(bench.now_s) + 60), Hook.REFRESH: answer}
    client = await bench.connected()
    bench.at(bench.now_s + 60)
    await turns()

    client.vanish()
    answer.set_result(RefreshAnswer(int(bench.now_s) + 1000))
    await turns()
    connection = weakref.ref(client.connection)
    bench.forget(client)
    del client
    bench.application.asked.clear()
    gc.collect()

    assert connection() is None


# Authentication.


async def test_a_bad_token_ends_the_connection_and_is_counted(bench: Bench) -> None:
    client = bench.client()

    client.send({"id": 1, "connect": {"token": signed(ADA, "another secret, of 32 characters")}}, subscribe("room:a"))
    await turns()

    assert client.codes == [3500]
    assert client.got() == []
    assert bench.node.counts["refused_tokens"] == 1


async def test_an_expired_token_is_answered_and_a_new_one_may_follow_on_the_same_connection(bench: Bench) -> None:
    client = bench.client()

    client.send({"id": 1, "connect": {"token": signed({**ADA, "exp": 1})}})
    (refused,) = await client.replies(1)
    client.send({"id": 2, "connect": {"token": signed(ADA)}})
    (reply,) = await client.replies(1)

    assert refused["error"] == {"code": 109, "message": "token expired"}
    assert "connect" in reply
    assert bench.node.hub.of_user("ada") == (client.connection,)


async def test_without_a_token_only_those_come_in_whom_the_settings_or_the_application_let() -> None:
    async with Bench() as bench:
        stranger = bench.client()
        stranger.send({"id": 1, "connect": {}})
        (refused,) = await stranger.replies(1)
        bench.application.answers[Hook.CONNECT] = ConnectAnswer(user="carl")
        await bench.connected()

        assert refused["error"] == {"code": 101, "message": "unauthorized"}
        assert len(bench.node.hub.of_user("carl")) == 1


async def test_where_nobody_is_checked_tokens_are_not_even_read() -> None:
    async with Bench(secret=None, insecure=True) as bench:
        client = await bench.connected("no token at all")

        client.send(subscribe("room:a", 2, token="neither"), subscribe("$room:a", 3), subscribe("closed:a", 4))
        done, private, closed = await client.replies(3)

        assert ("subscribe" in done, "subscribe" in private) == (True, True)
        assert closed["error"]["code"] == 103, "what namespaces say holds all the same"


async def test_too_many_subscriptions_of_the_server_end_the_connection() -> None:
    async with Bench(channel_limit=2) as bench:
        client = bench.client()

        client.send({"id": 1, "connect": {"token": signed({**ADA, "channels": ["room:a", "room:b"]})}})
        await turns()

        assert client.codes == [3505], "two of the token, and its own"


async def test_a_connect_that_fails_half_way_is_undone_and_may_be_tried_again(bench: Bench) -> None:
    client = bench.client()
    token = signed({**ADA, "channels": ["room:a", "room:b"]})
    bench.broker.shut("room:b")
    client.send({"id": 1, "connect": {"token": token}})
    await until(lambda: "room:a" in client.session.subscriptions)

    bench.broker.away = "Redis is away"
    bench.broker.open()
    (refused,) = await client.replies(1)
    assert refused["error"] == {"code": 100, "message": "internal server error", "temporary": True}
    assert (client.session.subscriptions, len(bench.node.hub.channels())) == ({}, 0)
    bench.broker.away = None
    client.send({"id": 2, "connect": {"token": token}})
    (reply,) = await client.replies(1)
    bench.publish("room:a", "hi")

    assert list(reply["connect"]["subs"]) == ["room:a", "room:b", "user:#ada"]
    assert len(client.got()) == 1
    client.vanish()
    assert sorted(bench.broker.unsubscribed) == ["room:a", "room:a", "room:b", "room:b", "user:#ada"]
