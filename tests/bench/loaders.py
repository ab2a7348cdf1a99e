"""The load client of maps: clients that load one map at once, as fast as the server lets them."""

from __future__ import annotations

import gc
import re
import selectors
import socket
import time
from dataclasses import dataclass

import orjson
from typing_extensions import override

from tests.bench.companions import Pipe
from tests.bench.dialogue import TEXT, frame, handshake
from tests.bench.maps import Maps, subscribe
from tests.bench.place import HOST

_BUFFER_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_LENGTH_16 = 126
# Members of a reply that are not in its entries are at its beginning or its end.
_EDGE_BYTES = 300
_KEY = b'"key":"'
_SYNCED = b'"synced":true'
_CURSOR = re.compile(rb'"cursor":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Load:
    """Asks for so many clients, which connect at once; the answer is `Loaded`."""

    count: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """All clients have the map and are live, or failed; `took_s` from the first connect.

    least_count: entries, changes among them, that a client has received at least.
    """

    took_s: float
    failed_count: int
    least_count: int


class _Loader:
    """A client of `/ws/maps/`, until it is live; then it only reads."""

    __slots__ = ("_heard", "entry_count", "has_failed", "is_greeted", "is_live", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.is_greeted = self.is_live = self.has_failed = False
        self.entry_count = 0
        self._heard = bytearray()  # received and not used yet

    def read(self, buffer: bytearray) -> None:
        """Read the socket, which is readable."""
        try:
            length = self.socket.recv_into(buffer)
        except OSError:
            length = 0
        if not length:
            self.has_failed = True
        if self.is_live or self.has_failed:
            return
        self._heard += memoryview(buffer)[:length]
        if not self.is_greeted:
            end = self._heard.find(b"\r\n\r\n")
            if end < 0:
                return
            self.has_failed = not self._heard.startswith(b"HTTP/1.1 101")
            self.is_greeted = True
            del self._heard[: end + 4]
            self._begin()
        self._take()

    def _begin(self) -> None:
        """Ask for the map."""

    def _take(self) -> None:
        """Use what was received. There is no time to look at ten thousand frames one by one."""
        self.entry_count += self._heard.count(_KEY)
        self.is_live = _SYNCED in self._heard
        kept = self._heard[1 - len(_SYNCED) :]
        self.entry_count -= kept.count(_KEY)
        self._heard = kept


class _CentrifugeLoader(_Loader):
    """A client of the Centrifuge protocol."""

    __slots__ = ("_channel", "_connect", "_first")

    def __init__(self, connection: socket.socket, connect: bytes, channel: str) -> None:
        super().__init__(connection)
        self._connect = connect
        self._channel = channel
        self._first = b""  # the position of the first page, as members of the requests for the others

    @override
    def _begin(self) -> None:
        self._say(self._connect + b"\n" + subscribe(self._channel, b',"phase":2'))

    @override
    def _take(self) -> None:
        start = 0
        while not self.is_live and (found := _frame_at(self._heard, start)) is not None:
            start, end = found
            self._take_message(self._heard[start:end])
            start = end
        del self._heard[:start]

    def _take_message(self, message: bytearray) -> None:
        self.entry_count += message.count(_KEY)
        edges = message[:_EDGE_BYTES] + message[-_EDGE_BYTES:]
        if b'"error":' in edges:
            self.has_failed = True
        if b'"subscribe":' not in edges:
            return
        self.is_live = b'"phase":' not in edges
        if self.is_live:
            return
        cursor = _CURSOR.search(edges)
        if not self._first or cursor is None:
            reply = next(filter(None, (orjson.loads(line).get("subscribe") for line in message.splitlines())))
            self._first = b',"offset":%d,"epoch":"%b"' % (reply.get("offset", 0), reply.get("epoch", "").encode())
        more = b',"phase":1' if cursor is None else b',"phase":2,"cursor":"%b"' % cursor[1]
        self._say(subscribe(self._channel, more + self._first))

    def _say(self, text: bytes) -> None:
        self.socket.sendall(frame(TEXT, text))


def run(pipe: Pipe, *, port: int, maps: Maps, channel: str) -> None:
    """Execute the commands from the pipe until it closes. All clients stay connected; those of the last read."""
    gc.disable()
    connected: list[_Loader] = []
    while True:
        load = pipe.recv()
        assert isinstance(load, Load)
        loaders, loaded = _load(load.count, port, maps, channel)
        connected += loaders
        pipe.send(loaded)


def _load(count: int, port: int, maps: Maps, channel: str) -> tuple[list[_Loader], Loaded]:
    buffer = bytearray(_BUFFER_BYTES)
    request = handshake(maps.path(channel), port)
    started_s = time.perf_counter()
    loaders: list[_Loader] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            connection = socket.create_connection((HOST, port), timeout=_TIMEOUT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request)
            loader = _CentrifugeLoader(connection, maps.connect, channel) if maps.connect else _Loader(connection)
            loaders.append(loader)
            selector.register(connection, selectors.EVENT_READ, loader)
        left_count = count
        while left_count and (events := selector.select(_TIMEOUT_S)):
            for key, _ in events:
                loader = key.data
                was_loading = not loader.is_live
                loader.read(buffer)
                if loader.has_failed:
                    selector.unregister(loader.socket)
                left_count -= was_loading and (loader.is_live or loader.has_failed)
        took_s = time.perf_counter() - started_s
    live = [loader for loader in loaders if loader.is_live and not loader.has_failed]
    return loaders, Loaded(took_s, count - len(live), min((loader.entry_count for loader in live), default=0))


def _frame_at(data: bytearray, start: int) -> tuple[int, int] | None:
    """Return where the payload of the server's frame at `start` begins and ends; None if it is not whole."""
    left = len(data) - start
    if left < 2:
        return None
    length, head = data[start + 1], 2
    if length >= _LENGTH_16:
        more = 2 if length == _LENGTH_16 else 8
        head += more
        length = int.from_bytes(data[start + 2 : start + head], "big")
    if left < head + length:
        return None
    return start + head, start + head + length
