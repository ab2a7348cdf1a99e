from __future__ import annotations

from collections.abc import Iterator

from roomcast.connections.connection import State
from roomcast.model.errors import SHUTDOWN, SLOW
from roomcast.model.namespaces import SlowPolicy
from tests.support.fakes import connection


def test_what_is_sent_before_the_handshake_is_answered_waits_for_it_in_order() -> None:
    client, transport = connection(is_open=False)

    client.send(b"1")
    client.send(b"2")
    assert transport.written == []
    client.open()
    client.send(b"3")

    assert transport.written == [b"12", b"3"]


def test_a_connection_that_takes_nothing_is_closed_as_slow_past_its_bound() -> None:
    client, transport = connection(stalled=True, max_unsent_bytes=10)

    client.send(b"x" * 10)
    assert transport.closed_with == []
    client.send(b"x")

    assert client.state is State.CLOSING
    assert transport.closed_with == [SLOW]


def test_what_waits_for_the_handshake_is_bounded_too() -> None:
    client, transport = connection(is_open=False, max_unsent_bytes=10)

    client.send(b"x" * 11)
    client.open()

    assert transport.closed_with == [SLOW]
    assert transport.written == []


def test_a_client_that_catches_up_gets_its_backlog_whatever_is_still_unsent() -> None:
    client, transport = connection(stalled=True, max_unsent_bytes=10)

    transport.write(b"unsent")
    assert client.send_congested("draw:a", [b"0", b"12345", b"67890"], SlowPolicy.DROP_OLDEST) == 1
    client.on_drained()

    assert transport.closed_with == []
    assert transport.written == [b"unsent", b"missed 1;1234567890"]


def test_a_client_that_catches_up_gets_the_last_change_of_each_key_of_a_map() -> None:
    client, transport = connection(stalled=True, max_unsent_bytes=10)

    client.send_congested("cursors:a", [b"a1", b"b1", b"a2"], SlowPolicy.LATEST, ["a", "b", "a"])
    assert client.send_congested("cursors:a", [b"b2"], SlowPolicy.LATEST, ["b"]) == 1
    client.on_drained()

    assert transport.written == [b"a2b2"]


def test_a_client_is_closed_as_slow_before_a_change_of_a_map_is_dropped() -> None:
    client, transport = connection(stalled=True, max_unsent_bytes=10)

    client.send_congested("cursors:a", [b"a" * 5, b"b" * 5], SlowPolicy.LATEST, ["a", "b"])
    assert transport.closed_with == []
    client.send_congested("cursors:a", [b"c"], SlowPolicy.LATEST, ["c"])
    client.on_drained()

    assert transport.closed_with == [SLOW]
    assert transport.written == []


def test_the_backlog_of_a_subscription_ends_with_it() -> None:
    client, transport = connection(stalled=True)

    client.send_congested("cursors:a", [b"old"], SlowPolicy.LATEST, ["a"])
    client.send_congested("draw:a", [b"drawn"], SlowPolicy.DROP_OLDEST)
    client.forget_backlog("cursors:a")
    client.on_drained()

    assert transport.written == [b"drawn"]


def test_catching_up_without_a_backlog_writes_nothing() -> None:
    client, transport = connection(stalled=True)

    client.send_congested("draw:a", [], SlowPolicy.DROP_OLDEST)
    client.on_drained()

    assert transport.written == []


def test_a_connection_closes_once_and_with_the_first_reason() -> None:
    client, transport = connection()

    client.close(SHUTDOWN)
    client.close(SLOW)

    assert transport.closed_with == [SHUTDOWN]


def test_nothing_is_sent_after_the_end() -> None:
    client, transport = connection()

    client.close(SHUTDOWN)
    client.send(b"late")
    client.on_closed()
    client.send(b"later")
    client.open()

    assert transport.written == []
    assert client.state is State.CLOSED


def test_missed_frames_are_written_in_pieces_and_later_ones_follow_them() -> None:
    taken: list[int] = []

    def frames() -> Iterator[bytes]:
        for number in range(10):
            taken.append(number)
            yield b"%d" % number * 40_000

    client, transport = connection(is_open=False, max_unsent_bytes=100_000)
    client.send_missed(frames())
    client.send(b"live")
    transport.on_write = client.on_congested
    client.open()

    assert (len(taken), transport.written) == (1, [b"0" * 40_000])
    client.send(b"more")
    client.send_congested("draw:a", [b"drawn"], SlowPolicy.DROP_OLDEST)
    for _ in range(11):
        client.on_drained()
    assert max(map(len, transport.written)) == 40_000
    assert b"".join(transport.written) == b"".join(b"%d" % n * 40_000 for n in range(10)) + b"livemoredrawn"
    transport.on_write = lambda: None
    client.on_drained()
    client.send(b"!")
    assert transport.written[-1] == b"!"


def test_what_is_sent_behind_missed_frames_is_bounded() -> None:
    client, transport = connection(stalled=True, max_unsent_bytes=10)
    client.send_missed([b"x" * 100])

    client.send(b"1234567890")
    assert transport.closed_with == []
    client.send(b"1")

    assert transport.closed_with == [SLOW]


def test_nothing_is_left_of_an_attempt_that_was_refused() -> None:
    client, transport = connection(is_open=False)
    client.send_missed([b"missed"])
    client.discard_held()
    client.open()

    assert transport.written == []
