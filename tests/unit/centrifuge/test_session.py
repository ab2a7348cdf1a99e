"""One client of the Centrifuge protocol, on fakes: the order of its commands, and its end."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from roomcast.centrifuge.command_handlers import HANDLERS
from roomcast.model.errors import SHUTDOWN
from roomcast.model.positions import Position
from roomcast.model.publications import History, Kind, Publication
from tests.support.processes import eventually
from tests.support.sessions import ADA, Bench, ids, subscribe, turns, until
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("method", [method for method in HANDLERS if method != "connect"])
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


async def test_the_reply_to_subscribe_comes_before_what_is_published_meanwhile(bench: Bench) -> None:
    listener, client = await bench.connected(), await bench.connected()
    listener.send(subscribe("room:a"))
    await listener.replies(1)
    bench.broker.shut("room:a")
    client.send(subscribe("room:a"))
    await turns()

    bench.node.on_event(Publication("room:a", b'"hi"', Kind.JSON))  # read, and not written yet
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
    kept = [Publication("kept:a", b"%d" % offset, Kind.JSON, position=Position(offset, "e")) for offset in (1, 2, 3)]
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
        Publication("kept:a", b'"%b"' % text.encode(), Kind.JSON, position=Position(offset, "e"))
        for offset, text in enumerate(texts, 1)
    ]
    bench.broker.histories["kept:a"] = History(Position(5, "e"), 0, kept)
    client = await bench.connected()

    client.send(subscribe("kept:a", 2, recover=True, offset=0, epoch="e"))
    reply, *pushes = await client.replies(4)
    bench.publish("kept:a", "live", position=Position(6, "e"))
    (live,) = await client.replies(1)

    assert (reply["subscribe"]["recovered"], reply["subscribe"]["offset"]) == (True, 0)
    in_reply = reply["subscribe"]["publications"]
    assert in_reply == [{"data": text, "offset": offset} for offset, text in enumerate(texts[:2], 1)]
    in_pushes = [line["push"]["pub"] for line in [*pushes, live]]
    assert in_pushes == [{"data": text, "offset": offset} for offset, text in enumerate([*texts[2:], "live"], 3)]


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

    client.queue.on_message(client.connection, Kind.BINARY, b'{"id":2,"ping":{}}')

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

    assert not await bench.operations.emulate("n1", client.session.id, b'{"id":2,"ping":{}}')
    assert not await bench.operations.emulate("n1", "no such session", b'{"id":2,"ping":{}}')
    assert client.got() == []


async def test_a_request_that_was_overtaken_is_done_first_and_one_that_was_lost_is_not_waited_for(bench: Bench) -> None:
    client = await bench.connected()
    client.queue.on_request(b'{"id":2,"ping":{}}')

    client.queue.on_request(b'{"id":4,"ping":{}}')
    client.queue.on_request(b'{"id":3,"ping":{}}')
    client.queue.on_request(b'{"id":6,"ping":{}}')
    assert [reply["id"] for reply in await client.replies(3)] == [2, 3, 4]

    async def is_answered() -> bool:
        return bool(client.transport.written)

    await eventually(is_answered)
    assert [reply["id"] for reply in await client.replies(1)] == [6]
