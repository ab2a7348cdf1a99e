from __future__ import annotations

from roomcast.model.errors import NO_PONG, SLOW, Disconnect
from roomcast.transports.heartbeat import Heartbeat


class Socket:
    """A detached socket that the test drives."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.has_answered = True
        self.is_reading = True
        self.pings = 0
        self.aborted_with: list[Disconnect] = []
        self.unsent = 0
        self.written = 0
        self.heartbeat_slot = heartbeat.add(self)

    def ping(self) -> None:
        self.pings += 1
        self.has_answered = False

    def give_up(self, disconnect: Disconnect) -> None:
        self.abort(disconnect)

    def abort(self, disconnect: Disconnect) -> None:
        self.aborted_with.append(disconnect)

    def unsent_bytes(self) -> int:
        return self.unsent

    def written_while_congested_bytes(self) -> int:
        return self.written


class Beating:
    """A heartbeat of one ping each 50 s, so a tick is a second."""

    def __init__(self, *, ping_timeout_s: float = 10.0) -> None:
        self.now_s = 0.0
        self.heartbeat = Heartbeat(ping_interval_s=50.0, ping_timeout_s=ping_timeout_s, clock=lambda: self.now_s)

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1
            self.heartbeat.tick()


def test_each_connection_is_asked_once_an_interval_and_not_all_at_once() -> None:
    beating = Beating()
    sockets = [Socket(beating.heartbeat) for _ in range(100)]

    beating.pass_s(25)
    assert 40 <= sum(socket.pings for socket in sockets) <= 60
    beating.pass_s(25)
    assert [socket.pings for socket in sockets] == [1] * 100


def test_a_long_interval_makes_no_deadline_late() -> None:
    assert Heartbeat(ping_interval_s=3600.0, ping_timeout_s=10.0, clock=lambda: 0.0).tick_s == 1.0
    assert Heartbeat(ping_interval_s=0.5, ping_timeout_s=0.1, clock=lambda: 0.0).tick_s == 0.01


def test_who_sends_nothing_after_a_ping_is_aborted_in_time_and_who_does_is_not() -> None:
    beating = Beating()
    dead, alive = Socket(beating.heartbeat), Socket(beating.heartbeat)

    for _ in range(120):
        beating.pass_s(1)
        alive.has_answered = True

    assert dead.aborted_with[0] is NO_PONG
    assert alive.aborted_with == []


def test_the_answer_may_take_the_whole_timeout() -> None:
    beating = Beating(ping_timeout_s=10)
    socket = Socket(beating.heartbeat)
    while not socket.pings:
        beating.pass_s(1)

    beating.pass_s(9)
    assert socket.aborted_with == []
    beating.pass_s(1)
    assert socket.aborted_with == [NO_PONG]


def test_a_timeout_as_long_as_the_interval_still_finds_the_dead() -> None:
    beating = Beating(ping_timeout_s=50)
    socket = Socket(beating.heartbeat)

    beating.pass_s(101)

    assert NO_PONG in socket.aborted_with


def test_a_client_that_takes_nothing_for_10_s_is_aborted() -> None:
    beating = Beating()
    stuck, slow = Socket(beating.heartbeat), Socket(beating.heartbeat)
    for socket in (stuck, slow):
        socket.unsent = 100_000
        beating.heartbeat.watch_congested(socket)

    for _ in range(12):
        stuck.written += 1000
        stuck.unsent += 1000
        # It takes as much as is written, so its unsent bytes never fall: that is slow, and no reason to end it.
        slow.written += 1000
        beating.pass_s(1)

    assert stuck.aborted_with == [SLOW] * 2
    assert slow.aborted_with == []


def test_a_client_that_has_caught_up_is_not_watched() -> None:
    beating = Beating()
    socket = Socket(beating.heartbeat)
    beating.heartbeat.watch_congested(socket)
    beating.pass_s(9)
    beating.heartbeat.unwatch_congested(socket)

    beating.pass_s(5)

    assert socket.aborted_with == []


def test_who_does_not_finish_closing_is_aborted() -> None:
    beating = Beating()
    socket = Socket(beating.heartbeat)
    beating.heartbeat.abort_after(socket, 5.0)

    beating.pass_s(4)
    assert socket.aborted_with == []
    beating.pass_s(1)
    assert len(socket.aborted_with) == 1


def test_a_removed_connection_is_forgotten() -> None:
    beating = Beating()
    socket = Socket(beating.heartbeat)
    beating.heartbeat.watch_congested(socket)
    beating.heartbeat.abort_after(socket, 5.0)

    beating.heartbeat.remove(socket)
    beating.pass_s(100)

    assert (socket.pings, socket.aborted_with) == (0, [])
