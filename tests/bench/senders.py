"""The load client of inbound publishing: some clients publish over their WebSockets, one more subscribes and counts.

For each message that the subscriber receives another one is published. After some silence the messages under way count
as lost and are replaced.
"""

from __future__ import annotations

import selectors
import socket
import time

from tests.bench.companions import Pipe
from tests.bench.dialogue import Dialogue, handshake
from tests.bench.messages import MARK, NUMBER, message
from tests.bench.place import HOST
from tests.bench.subscriber import Subscriber
from tests.bench.turned import Connected, Turned

_BUFFER_BYTES = 1 << 18
_TIMEOUT_S = 20.0
_SILENCE_S = 0.5


class LaneSubscriber(Subscriber):
    """Checks order sender by sender: sender `n` of `count` has the numbers n, n + count, n + 2 count, and so on."""

    __slots__ = ("_newest_of",)

    def __init__(self, connection: socket.socket, dialogue: Dialogue, *, size_bytes: int, sender_count: int) -> None:
        super().__init__(connection, dialogue, size_bytes=size_bytes, is_checked=True)
        self._newest_of = [-1] * sender_count

    def _check_each(self, data: bytes | bytearray, first: int, last: int) -> None:
        sender_count = len(self._newest_of)
        at = first
        while 0 <= at <= last:
            number = int(data[at + NUMBER.start : at + NUMBER.stop])
            if number > self._newest_of[number % sender_count]:
                self.in_order_count += 1
            else:
                self.other_count += 1
            self._newest_of[number % sender_count] = number
            at = data.find(MARK, at + 1)


class Senders:
    """Publishes numbered messages, from each sender in turn."""

    def __init__(self, sockets: list[socket.socket], dialogue: Dialogue, size_bytes: int) -> None:
        self._sockets = sockets
        self._dialogue = dialogue
        self._size_bytes = size_bytes
        self._sent_count = 0

    def send(self, count: int) -> None:
        """Publish so many more."""
        parts: list[list[bytes]] = [[] for _ in self._sockets]
        for number in range(self._sent_count, self._sent_count + count):
            publication = self._dialogue.publication(message(number, 0, size_bytes=self._size_bytes))
            parts[number % len(parts)].append(publication)
        self._sent_count += count
        for sender, frames in zip(self._sockets, parts, strict=True):
            if frames:
                sender.sendall(b"".join(frames))


def run(
    pipe: Pipe,
    *,
    port: int,
    dialogue: Dialogue,
    sender_count: int,
    window_count: int,
    size_bytes: int,
    warm_up_s: float,
    seconds: float,
) -> None:
    """Keep `window_count` messages under way; report those after the warm-up as `Turned`."""
    buffer = bytearray(_BUFFER_BYTES)
    subscriber = LaneSubscriber(_connect(port, dialogue), dialogue, size_bytes=size_bytes, sender_count=sender_count)
    _subscribe(subscriber, buffer)
    sockets = [_connect(port, dialogue) for _ in range(sender_count)]
    for sender in sockets:
        _subscribe(Subscriber(sender, dialogue, size_bytes=size_bytes, is_checked=False), buffer)
    pipe.send(Connected())
    pipe.recv()
    selector = selectors.DefaultSelector()
    selector.register(subscriber.socket, selectors.EVENT_READ, subscriber)
    for sender in sockets:  # they receive the room too, and must not fall behind
        selector.register(sender, selectors.EVENT_READ, None)
    senders = Senders(sockets, dialogue, size_bytes)
    senders.send(window_count)
    now_s = time.monotonic()
    started_s, end_s = now_s + warm_up_s, now_s + warm_up_s + seconds
    count = missed_count = 0
    while now_s < end_s and not subscriber.has_ended:
        events = selector.select(_SILENCE_S)
        if not events:
            senders.send(window_count)
            missed_count += window_count
        for key, _ in events:
            if key.data is None:
                key.fileobj.recv_into(buffer)  # type: ignore[union-attr]  # it is one of our sockets
                continue
            before_count = subscriber.in_order_count + subscriber.other_count
            subscriber.read(buffer)
            turned_count = subscriber.in_order_count + subscriber.other_count - before_count
            senders.send(turned_count)
            if now_s >= started_s:
                count += turned_count
        now_s = time.monotonic()
    if subscriber.has_ended:
        raise ConnectionResetError("the server has ended the subscriber")
    pipe.send(Turned(count / seconds, subscriber.other_count, missed_count))
    pipe.poll(None)


def _connect(port: int, dialogue: Dialogue) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(handshake(dialogue.path, port))
    return connection


def _subscribe(subscriber: Subscriber, buffer: bytearray) -> None:
    while not subscriber.is_subscribed:
        subscriber.read(buffer)
        if subscriber.has_ended:
            raise ConnectionRefusedError("the server refused a WebSocket")
