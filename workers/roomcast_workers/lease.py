"""A lease in Redis: of any number of workers, one works."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from importlib.resources import files
from typing import TYPE_CHECKING

import structlog

from roomcast.redis_access.client import OUTAGES

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

    from roomcast.redis_access.client import Client

log = structlog.get_logger(__name__)

_RELEASE_TIMEOUT_S = 1.0


def script(client: Client, name: str) -> AsyncScript:
    """Return a Lua script of this package as a callable; it is sent whole once, by its hash after that."""
    return client.register_script(files("roomcast_workers").joinpath(f"{name}.lua").read_text())


class Lease:
    """The right to work, for `ttl_s` at a time.

    Holding it is a belief that ends by itself; what must not happen twice checks `owner` in the same step in Redis
    (`brokers.Once`).
    """

    def __init__(self, client: Client, key: str, *, ttl_s: float) -> None:
        self.key = key
        self.owner = uuid.uuid4().hex
        self._ttl_s = ttl_s
        self._held_until_s = 0.0
        self._take = script(client, "lease")
        self._release = script(client, "release")

    async def take(self) -> bool:
        """Take the lease or extend it; return whether it is held now. Raises: redis.RedisError."""
        asked_at_s = time.monotonic()
        is_taken = bool(await self._take(keys=[self.key], args=[self.owner, math.ceil(self._ttl_s * 1000)]))
        self._held_until_s = asked_at_s + self._ttl_s if is_taken else 0.0
        return is_taken

    @property
    def is_held(self) -> bool:
        """Return whether it was taken and cannot have ended since: false in a process that was stopped for too long."""
        return time.monotonic() < self._held_until_s

    async def release(self) -> None:
        """Give the lease back within a second, so that the next worker need not wait; else it ends by itself."""
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                await self._release(keys=[self.key], args=[self.owner])
        except OUTAGES as exc:
            log.debug("lease.release_failed", reason=str(exc))
