"""A lease in Redis: one of several workers is active."""

from __future__ import annotations

import asyncio
import math
import time
import uuid

import structlog

from roomcast.redis_access.client import OUTAGES, Client
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.scripts import read_script

log = structlog.get_logger(__name__)

_RELEASE_TIMEOUT_S = 1.0
# Workers may have different intervals. A lease with more time left than this counts as free.
_LONGEST_TTL_S = 60.0


class Lease:
    """Makes a worker the active one, for `ttl_s` at a time.

    A worker cannot be sure that it still holds the lease. An action that must not happen twice checks `owner` in the
    same step in Redis (`brokers.interface.Once`).
    """

    def __init__(self, client: Client, key: str, *, ttl_s: float) -> None:
        self.key = key
        self.owner = uuid.uuid4().hex
        self._client = client
        self._ttl_s = ttl_s
        self._held_until_s = 0.0
        self._acquire = read_script("roomcast_workers", "acquire")
        self._release = read_script("roomcast_workers", "release")

    async def acquire(self) -> bool:
        """Acquire the lease or extend it; return whether it is held now. Raises: redis.RedisError."""
        asked_at_s = time.monotonic()
        longest_s = max(self._ttl_s, _LONGEST_TTL_S)
        command = self._acquire.call(
            [self.key], [self.owner, math.ceil(self._ttl_s * 1000), math.ceil(longest_s * 1000)]
        )
        (is_held,) = await run_all(self._client, [command], [self._acquire])
        self._held_until_s = asked_at_s + self._ttl_s if is_held else 0.0
        return bool(is_held)

    @property
    def is_held(self) -> bool:
        """Return whether it was acquired and cannot have expired: false in a process that was stopped too long."""
        return time.monotonic() < self._held_until_s

    async def release(self) -> None:
        """Release the lease within a second, so that another worker need not wait until it expires."""
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                await run_all(self._client, [self._release.call([self.key], [self.owner])], [self._release])
        except OUTAGES as exc:
            log.debug("lease.release_failed", reason=str(exc))
