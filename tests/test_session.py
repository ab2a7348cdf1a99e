"""One client of the Centrifuge protocol, on fakes: the order of things, and every way in which it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.centrifuge import client_pb2
from service.centrifuge.codec import METHODS
from service.centrifuge.protobuf_codec import ProtobufCodec
from service.errors import (
    FORCE_DISCONNECT,
    SHUTDOWN,
    ApplicationError,
    ClientError,
    Disconnect,
    ErrorCode,
    Refused,
)
from service.hooks import ConnectAnswer, Hook, PublishAnswer, RefreshAnswer, SubscribeAnswer
from service.messages import History, Kind, Position, Publication, Resumption
from tests.cluster import eventually
from tests.fakes import FakePresence
from tests.sessions import GRACE_S, Bench, turns, until
from tests.tokens import signed

pytestmark = pytest.mark.anyio

ADA = {"sub": "ada"}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Sessions whose clients need a token, or are nobody."""
    async with Bench(anonymous=True) as bench:
        yield bench


def subscribe(channel: str, number: int = 2, **params: Any) -> dict[str, Any]:
    return {"id": number, "subscribe": {"channel": channel, **params}}


def ids(replies: list[Any]) -> list[int]:
    return [reply.get("id", 0) for reply in replies]


# The order of things.


async def test_connect_and_what_follows_in_one_frame_is_done_in_its_order(bench: Bench) -> None:
    client = bench.client()

    client.send(
        {"id": 1, "connect": {}},
        subscribe("room:a", 2),
        {"id": 3, "publish": {"channel": "room:a", "data": 1}},
        {"id": 4, "presence": {"channel": "room:a"}},
        {"id": 5, "unsubscribe": {"channel": "room:a"}},
        {"id": 6, "ping": {}},
    )
    replies = await client.replies(6)

    assert ids(replies) == [1, 2, 3, 4, 5, 6]
    assert list(replies[3]["presence"]["presence"]) == [client.session.client_id], "it was in the channel then"
    assert [publication.data for publication in bench.broker.published] == [b"1"]


async def test_the_reply_to_connect_says_all_that_a_client_needs(bench: Bench) -> None:
    client = bench.client()
    expire_at_s = int(bench.now_s) + 60

    client.send({"id": 1, "connect": {"token": signed({**ADA, "exp": expire_at_s})}})
    (reply,) = await client.replies(1)

    connect = reply["connect"]
    assert connect.pop("version")
    assert connect == {
        "client": f"n1-{client.connection.id}",
        "expires": True,
        "ttl": 60,
        "ping": 25,
        "pong": True,
        "session": client.session.id,
        "node": "n1",
        "subs": {"user:#ada": {}},
    }


@pytest.mark.parametrize("method", [method for method in METHODS if method != "connect"])
async def test_what_comes_before_connect_ends_the_connection(bench: Bench, method: str) -> None:
    client = bench.client()

    client.send({"id": 0 if method == "send" else 1, method: {}}, {"id": 2, "connect": {}})
    await turns()

    assert client.codes == [3501]
    assert client.got() == []


async def test_connecting_twice_ends_the_connection(bench: Bench) -> None:
    client = await bench.connected()

    client.send({"id": 2, "connect": {}})

    assert client.codes == [3501]


async def test_while_a_command_waits_those_behind_it_do_too(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.shut("room:slow")

    client.send(subscribe("room:slow", 2), {"id": 3, "ping": {}})
    client.send({"id": 4, "ping": {}})
    await turns()
    assert client.got() == []
    bench.broker.open()

    assert ids(await client.replies(3)) == [2, 3, 4]


async def test_past_64_waiting_commands_nothing_more_is_read_until_they_are_done(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.shut("room:slow")

    client.send(subscribe("room:slow", 2), *[{"id": number, "ping": {}} for number in range(3, 66)])
    reading = [client.transport.is_reading]
    client.send({"id": 66, "ping": {}})
    reading.append(client.transport.is_reading)
    assert reading == [True, False]
    bench.broker.open()

    assert ids(await client.replies(65)) == list(range(2, 67))
    await until(lambda: client.transport.is_reading)


async def test_a_frame_of_many_commands_is_done_in_several_turns_of_the_loop_and_in_order(bench: Bench) -> None:
    client = await bench.connected()
    numbers = list(range(2, 502))

    client.send(*[{"id": number, "ping": {}} for number in numbers])
    client.send({"id": 502, "ping": {}})
    at_once = ids(client.got())
    other = await bench.connected()

    assert 100 <= len(at_once) <= 200
    other.send({"id": 2, "ping": {}})
    assert ids(other.got()) == [2]
    assert at_once + ids(await client.replies(501 - len(at_once))) == [*numbers, 502]
    await until(lambda: client.transport.is_reading)


async def test_large_commands_that_wait_stop_reading_by_their_size(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.shut("room:slow")
    client.send(subscribe("room:slow", 2))

    for number in (3, 4, 5):
        assert client.transport.is_reading
        client.send({"id": number, "publish": {"channel": "room:a", "data": "x" * 50_000}})
    assert not client.transport.is_reading
    bench.broker.open()

    await client.replies(4)
    await until(lambda: client.transport.is_reading)
    assert len(bench.broker.published) == 3


async def test_who_goes_on_to_send_though_nothing_is_read_has_a_bound(bench: Bench) -> None:
    """Commands that come as requests of their own cannot be held back."""
    client = await bench.connected()
    bench.broker.shut("room:slow")
    client.send(subscribe("room:slow", 2))

    for number in range(3, 28):
        client.send({"id": number, "publish": {"channel": "room:a", "data": "x" * 60_000}})
        if client.codes:
            break

    assert client.codes == [3013]
    assert 1_000_000 < number * 60_000 < 1_500_000
    assert bench.broker.published == []


async def test_commands_of_a_few_bytes_that_wait_count_for_what_they_take_in_memory(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.shut("room:slow")
    client.send(subscribe("room:slow", 2))

    for _ in range(10):
        client.send(*[{"id": 3}] * 1000)

    assert client.codes == [3013], "each takes 150 bytes"


async def test_who_goes_on_to_publish_though_redis_does_not_take_it_has_a_bound(bench: Bench) -> None:
    """The outbox is everyone's."""
    client = await bench.connected()
    bench.broker.is_slow = True

    for number in range(2, 40):
        client.send({"id": number, "publish": {"channel": "room:a", "data": "x" * 60_000}})
        if client.codes:
            break

    assert client.codes == [3013]
    assert 1_000_000 < sum(len(publication.data) for publication in bench.broker.published) < 1_500_000


async def test_the_reply_to_subscribe_comes_before_what_is_published_meanwhile(bench: Bench) -> None:
    listener, client = await bench.connected(), await bench.connected()
    listener.send(subscribe("room:a"))
    await listener.replies(1)
    bench.broker.shut("room:a")
    client.send(subscribe("room:a"))
    await turns()

    bench.node.on_event(Publication("room:a", b'"hi"'))  # read, and not written yet
    bench.broker.open()
    await until(lambda: "room:a" in client.session.subscriptions)
    bench.turn.run()

    replies = await client.replies(2)
    assert replies[0]["id"] == 2
    assert replies[1]["push"]["pub"] == {"data": "hi"}


async def test_what_is_published_while_a_client_connects_comes_after_its_reply(bench: Bench) -> None:
    client = bench.client()
    bench.broker.shut("room:b")
    client.send({"id": 1, "connect": {"token": signed({**ADA, "channels": ["room:a", "room:b"]})}})
    await until(lambda: "room:a" in client.session.subscriptions)

    bench.publish("room:a", "hi")
    await turns()
    assert client.got() == []
    bench.broker.open()

    reply, push = await client.replies(2)
    assert list(reply["connect"]["subs"]) == ["room:a", "room:b", "user:#ada"]
    assert push["push"] == {"channel": "room:a", "pub": {"data": "hi"}}


async def test_where_a_subscription_begins_and_what_was_missed_stands_in_the_reply(bench: Bench) -> None:
    kept = [Publication("kept:a", b"%d" % offset, position=Position(offset, "e")) for offset in (1, 2, 3)]
    bench.broker.histories["kept:a"] = History(Position(3, "e"), 0, kept)
    client = await bench.connected()

    client.send(subscribe("kept:a", 2))
    (begun,) = await client.replies(1)
    client.send({"id": 3, "unsubscribe": {"channel": "kept:a"}})
    client.send(subscribe("kept:a", 4, recover=True, offset=1, epoch="e"))
    client.send({"id": 5, "unsubscribe": {"channel": "kept:a"}})
    client.send(subscribe("kept:a", 6, recover=True, offset=1, epoch="other"))
    client.send({"id": 7, "unsubscribe": {"channel": "kept:a"}})
    client.send(subscribe("kept:a", 8, recover=True, offset=1, epoch="other", flag=3))
    _, recovered, _, lost, _, refused = await client.replies(6)

    place = {"recoverable": True, "positioned": True, "epoch": "e"}
    assert begun["subscribe"] == {**place, "offset": 3}
    assert recovered["subscribe"] == {
        **place,
        "offset": 1,
        "was_recovering": True,
        "recovered": True,
        "publications": [{"data": 2, "offset": 2}, {"data": 3, "offset": 3}],
    }
    assert lost["subscribe"] == {**place, "offset": 3, "was_recovering": True, "publications": []}
    assert refused["error"]["code"] == 112
    assert client.session.subscriptions == {}


async def test_what_is_too_much_for_one_reply_follows_it_before_anything_else(bench: Bench) -> None:
    texts = [f"{offset}" + "x" * 30_000 for offset in range(1, 6)]
    kept = [
        Publication("kept:a", b'"%b"' % text.encode(), position=Position(offset, "e"))
        for offset, text in enumerate(texts, 1)
    ]
    bench.broker.histories["kept:a"] = History(Position(5, "e"), 0, kept)
    client = await bench.connected()

    client.send(subscribe("kept:a", 2, recover=True, offset=0, epoch="e"))
    reply, *pushes = await client.replies(3)
    bench.publish("kept:a", "live", position=Position(6, "e"))
    (live,) = await client.replies(1)

    assert (reply["subscribe"]["recovered"], reply["subscribe"]["offset"]) == (True, 0)
    in_reply = reply["subscribe"]["publications"]
    assert in_reply == [{"data": text, "offset": offset} for offset, text in enumerate(texts[:3], 1)]
    in_pushes = [line["push"]["pub"] for line in [*pushes, live]]
    assert in_pushes == [{"data": text, "offset": offset} for offset, text in enumerate([*texts[3:], "live"], 4)]


# Pongs.


async def test_a_pong_that_nobody_asked_for_ends_the_connection(bench: Bench) -> None:
    client = await bench.connected()

    client.send({})

    assert client.codes == [3501]


async def test_each_ping_has_one_pong(bench: Bench) -> None:
    client = await bench.connected()

    for _ in range(2):
        client.ping()
        client.send({})
    assert client.codes == []
    client.send({})

    assert client.codes == [3501]


async def test_pings_that_reach_a_client_together_have_a_pong_each(bench: Bench) -> None:
    """A congested client is not given up, and pinged on: it answers all of it when it reads again."""
    client = await bench.connected()

    for _ in range(3):
        client.ping()
    client.send({}, {}, {})
    assert client.codes == []
    client.send({})

    assert client.codes == [3501]


async def test_pongs_do_not_wait_for_a_command_that_takes_long(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.shut("room:slow")
    client.send(subscribe("room:slow", 2))

    for _ in range(3):
        client.ping()
        client.send({})
        assert not client.connection.awaited_pongs
    bench.broker.open()

    assert ids(await client.replies(1)) == [2]
    assert client.codes == []


# Malformed frames.


@pytest.mark.parametrize("text", ["", "\n", "x", "[]", "1", '{"id":-1,"ping":{}}', '{"id":"1","ping":{}}'])
async def test_what_is_no_command_ends_the_connection(bench: Bench, text: str) -> None:
    client = await bench.connected()

    client.send_text(text)

    assert client.codes == [3501]


async def test_commands_before_what_is_none_are_done(bench: Bench) -> None:
    client = await bench.connected()

    client.send_text('{"id":2,"ping":{}}\nx\n{"id":3,"ping":{}}')

    assert ids(client.got()) == [2]
    assert client.codes == [3501]


async def test_a_frame_of_the_other_kind_ends_the_connection(bench: Bench) -> None:
    client = await bench.connected()

    client.session.on_message(client.connection, Kind.BINARY, b'{"id":2,"ping":{}}')

    assert client.codes == [3501]


async def test_only_send_has_no_id(bench: Bench) -> None:
    commands: list[dict[str, Any]] = [
        {"ping": {}},
        {"id": 0, "publish": {"channel": "room:a", "data": 1}},
        {"id": 2, "send": {}},
    ]
    for command in commands:
        client = await bench.connected()
        client.send(command)
        assert client.codes == [3501], command


# Subscriptions by the server, and how subscriptions end.


@pytest.mark.parametrize(("is_reversed", "offsets"), [(False, [1, 2, 3, 4]), (True, [20, 19, 18, 17])])
async def test_a_history_of_large_publications_comes_in_replies_that_a_client_can_take(
    bench: Bench, is_reversed: bool, offsets: list[int]
) -> None:
    text = json.dumps("x" * 120_000).encode()
    kept = [Publication("kept:a", text, position=Position(offset, "e")) for offset in range(1, 21)]
    bench.broker.histories["kept:a"] = History(Position(20, "e"), 0, kept)
    client = await bench.connected()

    client.send({"id": 2, "history": {"channel": "kept:a", "limit": -1, "reverse": is_reversed}})
    (reply,) = await client.replies(1)

    assert [publication["offset"] for publication in reply["history"]["publications"]] == offsets
    assert client.codes == []


async def test_a_subscription_can_be_made_once(bench: Bench) -> None:
    client = await bench.connected()

    client.send(subscribe("room:a", 2), subscribe("room:a", 3))
    _, refused = await client.replies(2)

    assert refused["error"] == {"code": 105, "message": "already subscribed"}


async def test_unsubscribing_what_is_none_is_answered_and_what_is_the_servers_refused(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))

    client.send({"id": 2, "unsubscribe": {"channel": "room:a"}}, {"id": 3, "unsubscribe": {"channel": "user:#ada"}})
    done, refused = client.got()

    assert done == {"id": 2, "unsubscribe": {}}
    assert refused["error"]["code"] == 107
    assert list(client.session.subscriptions) == ["user:#ada"]


async def test_a_service_subscribes_a_users_clients_which_are_told_and_ends_it_again(bench: Bench) -> None:
    ada, bob = await bench.connected(signed(ADA)), await bench.connected(signed({"sub": "bob"}))
    asked = {"user": "ada", "channel": "room:a", "info": {"c": 1}, "data": {"d": 1}}

    assert await bench.handlers["subscribe"](asked) == {"count": 1}
    assert await bench.handlers["subscribe"](asked) == {"count": 0}, "it is subscribed already"
    bench.publish("room:a", "hi")
    await bench.handlers["unsubscribe"]({"user": "ada", "channel": "room:a"})
    bench.publish("room:a", "late")

    assert [line["push"] for line in ada.got()] == [
        {"channel": "room:a", "subscribe": {"data": {"d": 1}}},
        {"channel": "room:a", "pub": {"data": "hi"}},
        {"channel": "room:a", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}},
    ]
    assert bob.got() == []


async def test_a_client_that_subscribes_while_a_service_does_it_has_one_subscription(bench: Bench) -> None:
    ada = await bench.connected(signed(ADA))
    bench.broker.shut("room:a")

    ada.send(subscribe("room:a"))
    by_service = asyncio.ensure_future(bench.handlers["subscribe"]({"user": "ada", "channel": "room:a"}))
    await turns()
    bench.broker.open()
    answer = await by_service
    (reply,) = await ada.replies(1)
    bench.publish("room:a", "hi")

    assert answer == {"count": 0}
    assert "subscribe" in reply
    assert len(ada.got()) == 1, "once, and not once for each"
    ada.vanish()
    assert bench.broker.unsubscribed.count("room:a") == 1
    assert bench.node.hub.channel_count() == 0


async def test_a_client_that_goes_while_a_service_subscribes_it_leaves_nothing(bench: Bench) -> None:
    ada, other = await bench.connected(signed(ADA)), await bench.connected(signed(ADA))
    bench.broker.shut("room:a")
    by_service = asyncio.ensure_future(bench.handlers["subscribe"]({"user": "ada", "channel": "room:a"}))
    await turns()

    ada.vanish()
    bench.broker.open()

    assert await by_service == {"count": 1}
    assert bench.node.hub.connections == {other.connection}
    other.vanish()
    assert bench.node.hub.channel_count() == 0


async def test_lost_publications_end_a_subscription_of_the_clients_own_with_2500(bench: Bench) -> None:
    client = await bench.connected()
    client.send(subscribe("kept:a"))
    await client.replies(1)

    bench.node.hub.broadcast(Resumption("kept:a", None, is_recovered=False))

    (push,) = client.got()
    assert push["push"] == {"channel": "kept:a", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
    assert client.codes == []
    assert bench.broker.unsubscribed == ["kept:a"]


async def test_lost_publications_of_a_subscription_of_the_server_end_the_connection_with_3010(bench: Bench) -> None:
    client = await bench.connected(signed({**ADA, "channels": ["kept:a"]}))

    bench.node.hub.broadcast(Resumption("kept:a", None, is_recovered=False))

    assert client.codes == [3010]


async def test_who_was_not_told_where_it_is_hears_of_no_loss(bench: Bench) -> None:
    client = await bench.connected()
    client.send(subscribe("room:a"))
    (reply,) = await client.replies(1)

    bench.node.hub.broadcast(Resumption("room:a", None, is_recovered=False))

    assert "positioned" not in reply["subscribe"]
    assert (client.got(), client.codes) == ([], [])


async def test_a_service_subscribes_nobody_to_more_channels_than_one_may_have() -> None:
    async with Bench(channel_limit=1) as bench:
        client = await bench.connected(signed(ADA))  # it has its own channel

        assert await bench.handlers["subscribe"]({"user": "ada", "channel": "room:a"}) == {"count": 0}

        assert client.codes == [3505]


async def test_what_was_lost_in_a_channel_that_is_left_already_matters_to_nobody(bench: Bench) -> None:
    client = await bench.connected()

    client.session.on_lost(client.connection, "room:a")

    assert (client.codes, client.got()) == ([], [])


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

    client.send({"id": 2, "refresh": {}}, {"id": 3, "refresh": {"token": signed({**ADA, "exp": 1})}})
    no_token, expired = await client.replies(2)

    assert (no_token["error"]["code"], expired["error"]["code"]) == (107, 109)
    assert client.codes == []


async def test_the_application_may_refresh_or_not(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))
    bench.application.answers[Hook.REFRESH] = RefreshAnswer(int(bench.now_s) + 7, info=b"1")

    client.send({"id": 2, "refresh": {}})
    (refreshed,) = await client.replies(1)
    bench.application.answers[Hook.REFRESH] = RefreshAnswer(is_expired=True)
    client.send({"id": 3, "refresh": {}})
    (refused,) = await client.replies(1)

    assert refreshed["refresh"]["ttl"] == 7
    assert client.connection.info == b"1"
    assert refused["error"]["code"] == 110


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
        signed({**ADA, "channel": "room:a", "exp": 1}),
        "",
    ]
    for token in tokens:
        client.send({"id": 3, "sub_refresh": {"channel": "room:a", "token": token}})
    client.send({"id": 3, "sub_refresh": {"channel": "room:none"}}, {"id": 3, "sub_refresh": {"channel": "user:#ada"}})
    refused = await client.replies(6)
    bench.application.answers[Hook.SUB_REFRESH] = RefreshAnswer(is_expired=True)
    client.send({"id": 4, "sub_refresh": {"channel": "room:a"}})
    (expired,) = await client.replies(1)
    bench.application.answers[Hook.SUB_REFRESH] = RefreshAnswer(int(bench.now_s) + 9)
    client.send({"id": 5, "sub_refresh": {"channel": "room:a"}})
    (refreshed,) = await client.replies(1)

    assert [reply["error"]["code"] for reply in refused] == [103, 103, 109, 107, 107, 107]
    assert expired["error"]["code"] == 110
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


# Who may come in.


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
    assert (client.session.subscriptions, bench.node.hub.channel_count()) == ({}, 0)
    bench.broker.away = None
    client.send({"id": 2, "connect": {"token": token}})
    (reply,) = await client.replies(1)
    bench.publish("room:a", "hi")

    assert list(reply["connect"]["subs"]) == ["room:a", "room:b", "user:#ada"]
    assert len(client.got()) == 1
    client.vanish()
    assert sorted(bench.broker.unsubscribed) == ["room:a", "room:a", "room:b", "room:b", "user:#ada"]


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
    """It would not come back after 3502; what is waited for has deadlines of its own."""
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


# The end.


async def test_a_client_that_goes_while_it_subscribes_leaves_no_interest_behind(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.shut("room:a")
    client.send(subscribe("room:a", 2), subscribe("room:b", 3))
    await turns()

    client.vanish()
    await turns()

    assert bench.broker.subscribed == ["room:a"]
    assert bench.broker.unsubscribed == ["room:a"]
    assert bench.node.hub.connections == set()
    assert client.got() == []


async def test_a_client_that_goes_while_it_connects_is_told_of_to_nobody(bench: Bench) -> None:
    client = bench.client()
    bench.broker.shut("room:b")
    client.send({"id": 1, "connect": {"token": signed({**ADA, "channels": ["room:a", "room:b"]})}})
    await until(lambda: "room:a" in client.session.subscriptions)

    client.vanish()
    bench.broker.open()
    await turns()

    assert sorted(bench.broker.unsubscribed) == ["room:a", "room:b"]
    assert (bench.application.connected, bench.application.gone) == ([], [])


async def test_a_client_that_goes_in_the_turn_of_its_command_leaves_nothing_that_was_never_awaited(
    bench: Bench,
) -> None:
    client = await bench.connected()

    client.send(subscribe("room:a", 2), subscribe("room:b", 3))
    client.vanish()
    await turns()
    gc.collect()  # a coroutine that was never awaited warns as it goes, and warnings are errors

    assert bench.broker.subscribed == []


async def test_after_the_end_nothing_that_waited_is_done(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.shut("room:a")
    client.send(subscribe("room:a", 2), {"id": 3, "publish": {"channel": "room:a", "data": 1}})

    client.session.disconnect(SHUTDOWN)
    client.send({"id": 4, "publish": {"channel": "room:a", "data": 2}})
    bench.broker.open()
    await turns()

    assert client.codes == [3001]
    assert bench.broker.published == []


async def test_a_publication_that_redis_does_not_take_is_a_temporary_error(bench: Bench) -> None:
    client = await bench.connected()
    bench.broker.away = "Redis is away"

    client.send({"id": 2, "publish": {"channel": "room:a", "data": 1}}, subscribe("room:a", 3))
    replies = await client.replies(2)

    assert [reply["error"] for reply in replies] == [
        {"code": 100, "message": "internal server error", "temporary": True}
    ] * 2


# Commands of clients whose replies stream.


async def test_only_who_streams_takes_commands_from_elsewhere(bench: Bench) -> None:
    client = await bench.connected()

    assert not await bench.sessions.emulate("n1", client.session.id, b'{"id":2,"ping":{}}')
    assert not await bench.sessions.emulate("n1", "no such session", b'{"id":2,"ping":{}}')
    assert client.got() == []


async def test_a_request_that_was_overtaken_is_done_first_and_one_that_was_lost_is_not_waited_for(bench: Bench) -> None:
    client = await bench.connected()
    client.session.on_request(b'{"id":2,"ping":{}}')

    client.session.on_request(b'{"id":4,"ping":{}}')
    client.session.on_request(b'{"id":3,"ping":{}}')
    client.session.on_request(b'{"id":6,"ping":{}}')
    assert [reply["id"] for reply in await client.replies(3)] == [2, 3, 4]

    async def is_answered() -> bool:
        return bool(client.transport.written)

    await eventually(is_answered)
    assert [reply["id"] for reply in await client.replies(1)] == [6]


# What a subscription may have.


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"channel": ""}, 107),
        ({"channel": "room:\n"}, 107),
        ({"channel": "x" * 256}, 107),
        ({"channel": "none:a"}, 102),
        ({"channel": "room"}, 102),
        ({"channel": "closed:a"}, 103),
        ({"channel": "$room:a"}, 103),
        ({"channel": "room:#bob"}, 103),
        ({"channel": "room:a", "token": "x"}, 103),
        ({"channel": "room:a", "delta": "xdelta"}, 107),
        ({"channel": "kept:a", "tf": {"key": "a", "cmp": "eq", "val": "b"}}, 108),
        ({"channel": "room:a", "tf": {"op": "xor"}}, 107),
        ({"channel": "kept:a", "recover": True, "offset": 2**60}, 107),
    ],
)
async def test_what_a_client_cannot_have_is_refused_and_the_connection_lives_on(
    bench: Bench, params: dict[str, Any], code: int
) -> None:
    client = await bench.connected(signed(ADA))

    client.send({"id": 2, "subscribe": params}, {"id": 3, "ping": {}})
    refused, ping = await client.replies(2)

    assert refused["error"]["code"] == code
    assert ping["id"] == 3
    assert bench.node.hub.channel_count() == 1, "its own channel alone"


async def test_past_the_limit_no_subscription_is_made_until_one_has_ended() -> None:
    async with Bench(anonymous=True, channel_limit=3) as bench:
        client = await bench.connected()

        client.send(*[subscribe(f"room:{number}", number) for number in range(2, 7)])
        replies = await client.replies(5)
        client.send({"id": 7, "unsubscribe": {"channel": "room:2"}}, subscribe("room:5", 8))
        _, again = await client.replies(2)

        assert [reply.get("error", {}).get("code") for reply in replies] == [None, None, None, 106, 106]
        assert "subscribe" in again


async def test_joins_differences_and_tags_are_for_who_asks_for_them(bench: Bench) -> None:
    plain, told, delta, tagged = [await bench.connected() for _ in range(4)]
    plain.send(subscribe("room:a"))
    told.send(subscribe("room:a", join_leave=True))
    delta.send(subscribe("room:a", delta="fossil"))
    tagged.send(subscribe("room:a", tf={"key": "kind", "cmp": "eq", "val": "new"}))
    for client in (plain, told, tagged):
        assert (await client.replies(1))[0]["subscribe"] == {}
    assert (await delta.replies(1))[0]["subscribe"] == {"delta": True}

    text = "a long text of which only the end changes, time after time: "
    bench.publish("room:a", text + "1", tags={"kind": "old"})
    bench.publish("room:a", text + "2", tags={"kind": "new"})

    whole = [
        {"push": {"channel": "room:a", "pub": {"data": text + number, "tags": {"kind": kind}}}}
        for number, kind in (("1", "old"), ("2", "new"))
    ]
    assert plain.got() == told.got() == whole
    assert tagged.got() == whole[1:]
    first, second = [line["push"]["pub"] for line in delta.got()]
    assert (first["data"], first.get("delta")) == (f'"{text}1"', None)
    assert second["delta"]
    assert len(second["data"]) < len(text)


@pytest.mark.parametrize("answer", [ApplicationError(400, "no"), ClientError(ErrorCode.INTERNAL, "no answer")])
async def test_a_message_that_wants_no_answer_gets_none_when_it_fails(bench: Bench, answer: Exception) -> None:
    client = await bench.connected()
    bench.application.answers[Hook.RPC] = answer

    client.send({"send": {"data": 1}}, {"id": 2, "ping": {}})

    assert await client.replies(1) == [{"id": 2, "ping": {}}], "what has no id would count as a ping"


async def test_a_procedure_may_answer_with_nothing(bench: Bench) -> None:
    client = await bench.connected()
    bench.application.answers[Hook.RPC] = b""

    client.send({"id": 2, "rpc": {"method": "f"}})

    assert await client.replies(1) == [{"id": 2, "rpc": {}}]


async def test_a_service_finds_a_client_without_a_name_by_its_id(bench: Bench) -> None:
    client, other = await bench.connected(), await bench.connected()
    who = {"user": "", "client": client.session.client_id}

    done = await bench.handlers["subscribe"]({**who, "channel": "room:news"})
    await bench.handlers["refresh"]({"user": "", "session": client.session.id, "expire_at": int(bench.now_s) + 30})
    await bench.handlers["unsubscribe"]({**who, "channel": "room:news"})

    assert done == {"count": 1}
    assert [next(iter(push["push"].keys() - {"channel"})) for push in client.got()] == [
        "subscribe",
        "refresh",
        "unsubscribe",
    ]
    assert other.got() == []


async def test_a_time_to_live_fits_into_the_schema_s_32_bits(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))

    client.send({"id": 2, "refresh": {"token": signed({**ADA, "exp": 99_999_999_999})}})
    (reply,) = await client.replies(1)

    assert reply["refresh"]["ttl"] == 2**31 - 1
    assert ProtobufCodec().reply(2, "refresh", reply["refresh"])


async def test_what_an_application_publishes_instead_is_text_or_binary_by_itself(bench: Bench) -> None:
    client = await bench.connected()
    client.session.wire = bench.sessions.stream_protobuf
    bench.application.answers[Hook.PUBLISH] = PublishAnswer(b"\xff")

    frame = client_pb2.Command(id=2, publish=client_pb2.PublishRequest(channel="room:a", data=b"1"))
    client.session.on_message(client.connection, Kind.BINARY, b"%c%b" % (frame.ByteSize(), frame.SerializeToString()))
    await until(lambda: bool(bench.broker.published))

    assert [(each.data, each.kind) for each in bench.broker.published] == [(b"\xff", Kind.BINARY)]


async def test_a_service_may_give_what_others_see_in_base64(bench: Bench) -> None:
    client = await bench.connected(signed(ADA))

    await bench.handlers["refresh"]({"user": "ada", "b64info": "eyJuIjozfQ=="})

    assert client.connection.info == b'{"n":3}'


async def test_a_reply_that_cannot_be_written_ends_the_connection(bench: Bench) -> None:
    client = await bench.connected()
    bench.application.answers[Hook.RPC] = object()

    client.send({"id": 2, "rpc": {"method": "f"}}, {"id": 3, "ping": {}})
    await turns()

    assert client.codes == [3004]
    assert client.got() == []


async def test_a_token_that_is_taken_though_its_time_has_just_come_is_to_be_refreshed_at_once(bench: Bench) -> None:
    """Clocks differ: error 110 would end it for good, and 109 would not help where the issuer's clock is behind."""
    just_over = int(bench.now_s) - 3
    client = bench.client()

    client.send(
        {"id": 1, "connect": {"token": signed({**ADA, "exp": just_over})}},
        subscribe("room:a", 2, token=signed({**ADA, "channel": "room:a", "exp": just_over})),
        {"id": 3, "refresh": {"token": signed({**ADA, "exp": just_over})}},
        {
            "id": 4,
            "sub_refresh": {"channel": "room:a", "token": signed({**ADA, "channel": "room:a", "exp": just_over})},
        },
    )
    replies = await client.replies(4)

    methods = ("connect", "subscribe", "refresh", "sub_refresh")
    assert [reply.get(method, reply).get("ttl") for reply, method in zip(replies, methods, strict=True)] == [1] * 4
