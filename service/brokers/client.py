"""The Redis client: how it connects, and what its failures are called."""

from __future__ import annotations

from collections.abc import Iterable

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

# What a lost, silent or refusing server raises; anything else is a fault of ours and ends the process.
OUTAGES = (RedisConnectionError, RedisTimeoutError, InvalidResponse, ResponseError, OSError, TimeoutError)


def connect(url: str, *, timeout_s: float, client_name: str) -> redis.asyncio.Redis:
    """Return a client whose every wait ends after `timeout_s`; nothing is connected yet.

    No retries: a PUBLISH repeated after a lost reply would be delivered twice.
    RESP2, because redis-py formats a log line for every pub/sub message on RESP3.
    """
    client = redis.asyncio.Redis.from_url(
        url,
        client_name=client_name,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout_s,
        socket_timeout=timeout_s,
    )
    pool = client.connection_pool
    pool.connection_class = guarded(pool.connection_class)
    return client


class _Guard(AbstractConnection):
    """Makes an outage of what uvloop calls an error of ours.

    The pool takes a connection that was reset for a living one (it looks for an end of stream, and a reset is none);
    writing to it is a RuntimeError on uvloop, and ended the whole node
    (tests/test_cluster.py::test_a_node_whose_redis_connections_are_reset_lives_on).
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as exc:
            raise RedisConnectionError("the connection was reset") from exc


def guarded(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return a kind of connection whose every failure is one of OUTAGES."""
    return type(f"Guarded{kind.__name__}", (_Guard, kind), {})


def outage_reason(exc: BaseException) -> str:
    """Return what can be told to anyone about a failed Redis call: no address, no user, no password."""
    if isinstance(exc, ResponseError):
        return f"Redis refuses a command ({type(exc).__name__})"
    return f"Redis is away ({type(exc).__name__})"
