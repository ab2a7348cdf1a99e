"""A lease in Redis: of any number of workers, one works."""

from __future__ import annotations

import math
import uuid
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

    from service.brokers.client import Client


def script(client: Client, name: str) -> AsyncScript:
    """Return a Lua script of this package as a callable; it is sent whole once, by its hash after that."""
    return client.register_script(files("workers").joinpath(f"{name}.lua").read_text())


class Lease:
    """The right to work, for `ttl_s` at a time.

    Holding it is a belief that ends by itself; what must not happen twice checks `owner` in the same step in Redis
    (`brokers.Once`).
    """

    def __init__(self, client: Client, key: str, *, ttl_s: float) -> None:
        self.key = key
        self.owner = uuid.uuid4().hex
        self._ttl_ms = math.ceil(ttl_s * 1000)
        self._take = script(client, "lease")
        self._release = script(client, "release")

    async def take(self) -> bool:
        """Take the lease or extend it; return whether it is held now. Raises: redis.RedisError."""
        return bool(await self._take(keys=[self.key], args=[self.owner, self._ttl_ms]))

    async def release(self) -> None:
        """Give the lease back, so that the next worker need not wait. Raises: redis.RedisError."""
        await self._release(keys=[self.key], args=[self.owner])
