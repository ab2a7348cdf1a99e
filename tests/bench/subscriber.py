"""One subscriber: it performs its dialogue, then counts messages.

Two million deliveries a second leave no time for a call per message. A read brings many: they are counted by searching
for their beginning, and their first and last number must be those that were due. Only if they are not, and always on
the connections that are checked closely, each message is looked at.
"""

from __future__ import annotations

import contextlib
import socket
import time
from array import array

from tests.bench.dialogue import PONG, TEXT, Dialogue, frame
from tests.bench.messages import MARK, NUMBER, TIME

_PING = b"\x89"
_MAX_CONTROL_BYTES = 125
_ENGINE_IO_PING = b"\x81\x012"
_ENGINE_IO_PONG = b"3"
_CENTRIFUGE_PING = b"\x81\x02{}"
_OPENING_BYTES = len(MARK)


class Subscriber:
    """One connection. All subscribers of a process read into one buffer.

    Args:
        is_checked: look at each message, and note its age.
    """

    __slots__ = (
        "_dialogue",
        "_greeted",
        "_heard",
        "_newest",
        "_size_bytes",
        "age_ns",
        "came_ns",
        "has_ended",
        "in_order_count",
        "is_checked",
        "is_subscribed",
        "other_count",
        "socket",
    )

    def __init__(self, connection: socket.socket, dialogue: Dialogue, *, size_bytes: int, is_checked: bool) -> None:
        self.socket = connection
        self.is_checked = is_checked
        self.is_subscribed = False
        self.has_ended = False
        self.in_order_count = 0
        self.other_count = 0
        self.came_ns = array("q")
        self.age_ns = array("q")
        self._dialogue = dialogue
        self._size_bytes = size_bytes
        self._greeted = -1  # how many of the dialogue's steps are done; -1: not even the handshake
        self._heard = b""  # received and not used yet
        self._newest = -1

    def read(self, buffer: bytearray) -> None:
        """Read the socket, which is readable."""
        try:
            length = self.socket.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError:
            length = 0
        if not length:
            self.has_ended = True
        elif self.is_subscribed:
            if self._heard:
                joined = self._heard + buffer[:length]
                self._heard = b""
                self._count(joined, len(joined))
            else:
                self._count(buffer, length)
        else:
            self._greet(bytes(buffer[:length]))

    def _greet(self, data: bytes) -> None:
        self._heard += data
        if self._greeted < 0:
            head, end, rest = self._heard.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.has_ended = True
                return
            self._heard = rest
            self._greeted = 0
            self._say()
        while self._greeted < len(self._dialogue.steps):
            _, awaited = self._dialogue.steps[self._greeted]
            _, found, rest = self._heard.partition(awaited)
            if not found:
                return
            self._heard = rest
            self._greeted += 1
            self._say()
        self.is_subscribed = True
        heard, self._heard = self._heard, b""
        self._count(heard, len(heard))

    def _say(self) -> None:
        if self._greeted < len(self._dialogue.steps) and self._dialogue.steps[self._greeted][0]:
            self.socket.sendall(frame(self._dialogue.opcode, self._dialogue.steps[self._greeted][0]))

    def _count(self, data: bytes | bytearray, length: int) -> None:
        # Messages are ASCII. This byte may also be part of a length; then the server receives a needless pong.
        ping = data.find(_PING, 0, length)
        if ping >= 0:
            self._answer_ping(bytes(data[ping + 1 : min(length, ping + 2 + _MAX_CONTROL_BYTES)]))
        count = data.count(MARK, 0, length)
        if not count:
            self._take_other(bytes(data[:length]))
            return
        last = data.rfind(MARK, 0, length)
        end = last + self._size_bytes
        if end > length:
            self._heard = bytes(data[last:length])
            count -= 1
            if not count:
                return
            last = data.rfind(MARK, 0, last)
        elif end < length:
            opening = data.rfind(MARK[:1], end, length)
            if opening >= 0 and length - opening < _OPENING_BYTES:
                self._heard = bytes(data[opening:length])
        first = data.find(MARK, 0, length)
        newest = int(data[last + NUMBER.start : last + NUMBER.stop])
        if (
            self.is_checked
            or newest != self._newest + count
            or int(data[first + NUMBER.start : first + NUMBER.stop]) != self._newest + 1
        ):
            self._check_each(data, first, last)
        else:
            self.in_order_count += count
            self._newest = newest

    def _check_each(self, data: bytes | bytearray, first: int, last: int) -> None:
        now_ns = time.monotonic_ns()
        at = first
        while 0 <= at <= last:
            number = int(data[at + NUMBER.start : at + NUMBER.stop])
            if number > self._newest:
                self._newest = number
                self.in_order_count += 1
                if self.is_checked:
                    self.came_ns.append(now_ns)
                    self.age_ns.append(now_ns - int(data[at + TIME.start : at + TIME.stop]))
            else:
                self.other_count += 1
            at = data.find(MARK, at + 1)

    def _take_other(self, data: bytes) -> None:
        """Answer a protocol's own ping; keep the beginning of a message's beginning."""
        if data == _ENGINE_IO_PING:
            self._answer(frame(self._dialogue.opcode, _ENGINE_IO_PONG))
        elif _CENTRIFUGE_PING in data:
            self._answer(frame(self._dialogue.opcode, b"{}"))
        elif b"PING\r\n" in data:  # NATS
            self._answer(frame(self._dialogue.opcode, b"PONG\r\n"))
        elif len(data) < self._size_bytes and MARK[:1] in data:
            self._heard = data[data.rfind(MARK[:1]) :]

    def _answer_ping(self, data: bytes) -> None:
        if self._dialogue.opcode == TEXT and data and data[0] <= _MAX_CONTROL_BYTES:
            self._answer(frame(PONG, data[1 : 1 + data[0]]))

    def _answer(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a server that has just ended the connection: the next read says so
            self.socket.sendall(data)
