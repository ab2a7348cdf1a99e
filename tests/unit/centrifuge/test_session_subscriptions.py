"""The subscriptions of a session, by its commands and by the server, and how they end, on fakes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from roomcast.centrifuge import client_pb2
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.hooks.interface import Hook, PublishAnswer
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode
from roomcast.model.positions import Position
from roomcast.model.publications import History, Kind, Publication, Resumption
from tests.support.sessions import ADA, Bench, subscribe, turns, until
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio


# Subscriptions by the server, and how subscriptions end.


@pytest.mark.parametrize(("is_reversed", "offsets"), [(False, [1, 2, 3, 4]), (True, [20, 19, 18, 17])])
async def test_a_history_of_large_publications_comes_in_replies_that_a_client_can_take(
    bench: Bench, is_reversed: bool, offsets: list[int]
) -> None:
    text = json.dumps("x" * 120_000).encode()
    kept = [Publication("kept:a", text, Kind.JSON, position=Position(offset, "e")) for offset in range(1, 21)]
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
    assert len(bench.node.hub.channels()) == 0


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
    assert len(bench.node.hub.channels()) == 0


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

    client.queue.on_lost(client.connection, "room:a")

    assert (client.codes, client.got()) == ([], [])


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
    assert len(bench.node.hub.channels()) == 1, "its own channel alone"


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
    client.session.wire = bench.context.wires.stream_protobuf
    bench.application.answers[Hook.PUBLISH] = PublishAnswer(b"\xff")

    frame = client_pb2.Command(id=2, publish=client_pb2.PublishRequest(channel="room:a", data=b"1"))
    client.queue.on_message(client.connection, Kind.BINARY, b"%c%b" % (frame.ByteSize(), frame.SerializeToString()))
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
