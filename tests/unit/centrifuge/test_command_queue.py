"""The order of a client's commands, their limits, and pongs, on fakes."""

from __future__ import annotations

import pytest

from tests.support.sessions import Bench, ids, subscribe, turns, until

pytestmark = pytest.mark.anyio


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
