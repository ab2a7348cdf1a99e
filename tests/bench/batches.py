"""Services that write to maps through the server API."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle

from tests.bench.companions import Pipe
from tests.bench.errors import BenchError
from tests.bench.maps import Maps, batches
from tests.bench.place import HOST
from tests.bench.turned import Connected, Turned

_TIMEOUT_S = 30.0
_CONNECTION_COUNT = 8


class _Service:
    """One connection to the server API."""

    def __init__(self, port: int, maps: Maps) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_S)
        self._headers = dict(maps.headers)

    def write(self, body: bytes) -> tuple[int, int]:
        """Make the writes of a batch; return how many were made, and how many were refused."""
        self._connection.request("POST", "/api/batch", body, self._headers)
        answer = self._connection.getresponse().read()
        return answer.count(b'"offset":'), answer.count(b'"error":')


def fill(port: int, maps: Maps, channel: str, *, key_count: int, size_bytes: int) -> None:
    """Set every key of a map. Raises: BenchError if not every key was set."""
    service = _Service(port, maps)
    written = [service.write(body) for body in batches(channel, key_count=key_count, size_bytes=size_bytes)]
    count = sum(made for made, _ in written)
    if count != key_count:
        raise BenchError(f"{count} of {key_count} keys of {channel} were written")


@contextmanager
def writing(port: int, maps: Maps, channel: str, *, rate_per_s: int, key_count: int, size_bytes: int) -> Iterator[None]:
    """Set key after key, one in a call, for as long as the block runs."""
    bodies = batches(channel, key_count=key_count, size_bytes=size_bytes, batch_length=1)
    has_ended = threading.Event()

    def write() -> None:
        service = _Service(port, maps)
        at_s = time.monotonic()
        for body in cycle(bodies):
            service.write(body)
            at_s += 1 / rate_per_s
            if has_ended.wait(at_s - time.monotonic()):
                return

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            yield
        finally:
            has_ended.set()
    writer.result()


def run(
    pipe: Pipe,
    *,
    port: int,
    maps: Maps,
    channel: str,
    key_count: int,
    size_bytes: int,
    warm_up_s: float,
    seconds: float,
) -> None:
    """Write batches, one at a time on each connection; report those after the warm-up as `Turned`."""
    bodies = batches(channel, key_count=key_count, size_bytes=size_bytes)
    pipe.send(Connected())
    pipe.recv()
    started_s = time.monotonic() + warm_up_s
    end_s = started_s + seconds

    def write(first: int) -> tuple[int, int]:
        service = _Service(port, maps)
        count = refused_count = 0
        for body in cycle(bodies[first:] + bodies[:first]):
            made, refused = service.write(body)
            refused_count += refused
            now_s = time.monotonic()
            if now_s >= end_s:
                return count, refused_count
            if now_s >= started_s:
                count += made
        raise AssertionError

    with ThreadPoolExecutor(_CONNECTION_COUNT) as pool:
        firsts = range(0, len(bodies), len(bodies) // _CONNECTION_COUNT)
        results = list(pool.map(write, firsts[:_CONNECTION_COUNT]))
        pipe.send(Turned(sum(count for count, _ in results) / seconds, sum(refused for _, refused in results)))
        pipe.poll(None)
