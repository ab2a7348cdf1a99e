"""Requests that overtook each other: they are executed in the order in which they were sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.request_order import MAX_EARLY, RequestOrder

CODEC = JsonCodec()
PONG = b"{}"


def request(*ids: int) -> bytes:
    return b"\n".join(b'{"id":%d,"ping":{}}' % number for number in ids)


def connected(last_id: int = 1) -> RequestOrder:
    order = RequestOrder()
    assert order.put(CODEC, request(last_id)) == [request(last_id)]
    return order


def test_the_first_request_has_any_id() -> None:
    assert connected(17).put(CODEC, request(18)) == [request(18)]


def test_who_comes_too_early_waits_for_all_in_between() -> None:
    order = connected()

    assert order.put(CODEC, request(4, 5)) == []
    assert order.put(CODEC, request(3)) == []
    assert order.put(CODEC, PONG) == [PONG]
    assert order.put(CODEC, request(2)) == [request(2), request(3), request(4, 5)]
    assert not order.is_waiting
    assert order.put(CODEC, request(6)) == [request(6)]


def test_what_never_comes_is_waited_for_until_it_is_given_up() -> None:
    order = connected()
    order.put(CODEC, request(5))
    order.put(CODEC, request(3))

    assert order.give_up() == [request(3), request(5)]
    assert not order.is_waiting
    assert order.put(CODEC, request(6)) == [request(6)]
    assert order.put(CODEC, request(2)) == [request(2)], "late, and done all the same"
    assert order.put(CODEC, request(7)) == [request(7)]


def test_only_so_many_wait() -> None:
    order = connected()
    for number in range(3, 3 + MAX_EARLY):
        assert order.put(CODEC, request(number)) == []

    assert order.put(CODEC, request(99)) == [request(99)]
    assert len(order.give_up()) == MAX_EARLY


def test_what_is_no_command_waits_for_nobody() -> None:
    order = connected()

    assert order.put(CODEC, b"what?") == [b"what?"]
    assert order.put(CODEC, b'{"id":9,"ping":{}}\nwhat?') == [b'{"id":9,"ping":{}}\nwhat?']


@given(ids=st.integers(2, MAX_EARLY + 2).flatmap(lambda last: st.permutations(range(2, last + 1))))
def test_in_whatever_order_they_come_they_are_done_in_theirs(ids: list[int]) -> None:
    order = connected()

    done = [each for number in ids for each in order.put(CODEC, request(number))]

    assert done == [request(number) for number in sorted(ids)]
    assert not order.is_waiting
