"""`refresh` and `sub_refresh` with tokens that have expired, or that permit something else than the old one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.hooks.interface import Hook, RefreshAnswer, SubscribeAnswer
from tests.support.sessions import ADA, Bench, Client, subscribe, turns
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio

OVER = [{"exp": 1}, {"expire_at": 1}]


def grant(*patterns: str, actions: tuple[str, ...] = ("subscribe",)) -> dict[str, Any]:
    return {"permissions": [{"channels": list(patterns), "allow": list(actions)}]}


async def refresh(client: Client, **claims: Any) -> list[Any]:
    client.send({"id": 9, "refresh": {"token": signed({**ADA, **claims})}})
    await turns()
    return client.got()


@pytest.mark.parametrize("claims", OVER)
async def test_an_expired_token_in_a_refresh_closes_the_connection_so_that_the_client_gets_a_new_one(
    bench: Bench, claims: dict[str, Any]
) -> None:
    client = await bench.connected(signed(ADA))

    assert await refresh(client, info={"n": 2}, **claims) == []

    assert client.codes == [3005]
    assert (client.connection.info, client.session.expire_at_s > 1) == (b"", True), "nothing was changed"


@pytest.mark.parametrize("claims", OVER)
async def test_an_expired_token_in_a_sub_refresh_ends_the_subscription_so_that_the_client_gets_a_new_one(
    bench: Bench, claims: dict[str, Any]
) -> None:
    client = await bench.connected(signed(ADA))
    client.send(subscribe("room:a"), subscribe("room:b", 3))
    await client.replies(2)

    token = signed({**ADA, "channel": "room:a", **claims})
    client.send({"id": 4, "sub_refresh": {"channel": "room:a", "token": token}})
    reply, push = await client.replies(2)

    assert reply == {"id": 4, "sub_refresh": {}}
    ended = {"code": 2501, "reason": "subscription expired"}
    assert push == {"push": {"channel": "room:a", "unsubscribe": ended}}
    assert (sorted(client.session.subscriptions), client.codes) == (["room:b", "user:#ada"], [])


@pytest.mark.parametrize("answer", [RefreshAnswer(is_expired=True), RefreshAnswer(1)])
async def test_an_application_that_lets_a_client_expire_ends_it_as_an_expired_token_does(
    bench: Bench, answer: RefreshAnswer
) -> None:
    client = await bench.connected(signed(ADA))
    client.send(subscribe("room:a"))
    await client.replies(1)
    bench.application.answers |= {Hook.REFRESH: answer, Hook.SUB_REFRESH: answer}

    client.send({"id": 4, "sub_refresh": {"channel": "room:a"}})
    _, push = await client.replies(2)
    client.send({"id": 5, "refresh": {}})
    await turns()

    assert push["push"]["unsubscribe"]["code"] == 2501
    assert (client.codes, client.got()) == ([3005], [])


async def test_a_refresh_ends_the_subscriptions_that_the_new_token_does_not_permit(bench: Bench) -> None:
    client = await bench.connected(signed({**ADA, **grant("closed:*", "$room:*")}))
    token = signed({**ADA, "channel": "closed:token"})
    client.send(subscribe("room:a", 2), subscribe("closed:a", 3), subscribe("closed:b", 4), subscribe("$room:a", 5))
    client.send(subscribe("closed:token", 6, token=token))
    assert all("subscribe" in reply for reply in await client.replies(5))

    reply, *pushes = await refresh(client, **grant("closed:b"))
    bench.publish("closed:a", "secret")
    bench.publish("closed:b", "hi")

    assert "refresh" in reply
    ended = {"code": 2500, "reason": "insufficient state"}
    assert pushes == [{"push": {"channel": channel, "unsubscribe": ended}} for channel in ("closed:a", "$room:a")]
    assert sorted(client.session.subscriptions) == ["closed:b", "closed:token", "room:a", "user:#ada"]
    assert [line["push"]["channel"] for line in client.got()] == ["closed:b"]
    client.send(subscribe("closed:a", 7))
    (refused,) = await client.replies(1)
    assert refused["error"]["code"] == 103


async def test_a_refresh_leaves_what_the_application_or_a_service_has_allowed(bench: Bench) -> None:
    bench.application.answers[Hook.SUBSCRIBE] = SubscribeAnswer()
    client = await bench.connected(signed({**ADA, **grant("closed:*")}))
    client.send(subscribe("closed:a"))
    await client.replies(1)
    await bench.handlers["subscribe"]({"user": "ada", "channel": "closed:b"})
    client.got()

    assert len(await refresh(client)) == 1
    assert {"closed:a", "closed:b"} <= set(client.session.subscriptions)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"channels": ["room:a", "room:b"]}, {"channels": ["room:a"]}),
        ({"channels": ["room:a"]}, {"channels": ["room:a", "room:b"]}),
        ({"channels": ["room:a"]}, {}),
        ({}, {"subs": {"room:a": {}}}),
        ({"subs": {"room:a": {}}}, {"subs": {"room:b": {}}}),
    ],
)
async def test_a_refresh_with_other_channels_closes_the_connection_so_that_the_client_gets_them(
    bench: Bench, old: dict[str, Any], new: dict[str, Any]
) -> None:
    client = await bench.connected(signed({**ADA, **old}))

    assert await refresh(client, **new) == []
    assert client.codes == [3010]


async def test_a_refresh_with_the_same_channels_keeps_the_connection(bench: Bench) -> None:
    client = await bench.connected(signed({**ADA, "channels": ["room:a", "room:b"]}))

    (reply,) = await refresh(client, channels=["room:b"], subs={"room:a": {"data": 1}})

    assert "refresh" in reply
    assert client.codes == []


PATTERNS = st.lists(st.sampled_from(["*", "closed:*", "closed:a", "closed:b", "$*", "$room:a", "room:*"]), unique=True)
CHANNELS = ("room:a", "closed:a", "closed:b", "$room:a", "room:#ada,bob", "room:#bob")


@given(old=PATTERNS, new=PATTERNS)
async def test_after_a_refresh_a_client_has_no_subscription_that_it_could_not_make(
    old: list[str], new: list[str]
) -> None:
    async with Bench() as bench:
        client, other = bench.client(), bench.client()
        for each, patterns in ((client, old), (other, new)):
            each.send({"id": 1, "connect": {"token": signed({**ADA, **grant(*patterns)})}})
            await each.replies(1)
            each.send(*(subscribe(channel, number) for number, channel in enumerate(CHANNELS, 2)))
            await each.replies(len(CHANNELS))
        had = set(client.session.subscriptions)

        await refresh(client, **grant(*new))

        assert set(client.session.subscriptions) == had & set(other.session.subscriptions)
        assert client.codes == []
