"""The faults of Redis: it ends, hangs, fails over, refuses, or has older data."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

from tests.chaos.fleet import Fleet
from tests.support.processes import eventually
from tests.support.redis_servers import RedisError, Server
from tests.support.redis_shapes import Servers
from tests.support.refusals import allow, fill_disk, fill_memory, forbid, free_disk, free_memory

LONGEST_OUTAGE_S = 4.0
_MENDED_WITHIN_S = 30.0
# A clean failover takes part of a second; a frozen or killed primary is replaced only once it is missed.
_UNDER_WAY_S = 1.0
# One command of each step of a publication, of a recovery, and of a map's change and load.
_FORBIDDEN = ("evalsha", "hset", "publish", "spublish", "xadd", "xrange", "hdel", "zadd", "zrangebylex")

FAILOVER = "failover"
OLDER_DATA = "Redis restarted with older data"

Act = Callable[[Server], Awaitable[None]]


class RedisFaults:
    """Each fault breaks one primary for a while, at most `longest_s`, and mends it."""

    def __init__(self, servers: Servers, fleet: Fleet, chance: random.Random, longest_s: float) -> None:
        self._servers = servers
        self._fleet = fleet
        self._chance = chance
        self._longest_s = longest_s

    def by_name(self) -> Mapping[str, Act]:
        """Return the faults that this shape of Redis can have."""
        faults: dict[str, Act] = {
            "Redis killed and restarted": self._kill,
            "Redis frozen": self._freeze,
            "subscriptions killed": self._kill_subscriptions,
            "all Redis connections killed": self._kill_connections,
            "memory full": partial(self._refuse, fill_memory, free_memory),
            "disk full": partial(self._refuse, fill_disk, free_disk),
            "permission missing": self._forbid,
            "EVALSHA renamed": self._rename,
        }
        if self._servers.name == "address":
            faults[FAILOVER] = self._demote
        elif self._servers.name != "single":
            faults[FAILOVER] = self._fail_over
        if self._servers.name in ("single", "address"):
            faults[OLDER_DATA] = self._restore_older
        return faults

    async def _kill(self, primary: Server) -> None:
        primary.kill()
        await asyncio.sleep(self._chance.uniform(0, self._longest_s))
        await self._start(primary)

    async def _freeze(self, primary: Server) -> None:
        primary.freeze()
        await self._wait()
        primary.thaw()
        await asyncio.to_thread(self._servers.wait_until_whole)

    async def _kill_subscriptions(self, primary: Server) -> None:
        await primary.command("CLIENT", "KILL", "TYPE", "pubsub")

    async def _kill_connections(self, primary: Server) -> None:
        for kind in ("normal", "pubsub"):
            await primary.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def _refuse(self, refuse: Act, accept: Act, primary: Server) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_mend, accept, primary)
            await refuse(primary)
            await self._wait()

    async def _forbid(self, primary: Server) -> None:
        command = self._chance.choice(_FORBIDDEN)
        await self._refuse(partial(forbid, command=command), partial(allow, command=command), primary)

    async def _rename(self, primary: Server) -> None:
        """Restart without EVALSHA, as a hardened configuration has it, and then with it."""
        primary.kill()
        await asyncio.to_thread(primary.start, "--rename-command", "EVALSHA", "")
        await self._wait()
        primary.kill()
        await self._start(primary)

    async def _fail_over(self, primary: Server) -> None:
        await asyncio.to_thread(self._servers.failover)
        await asyncio.sleep(_UNDER_WAY_S)
        await asyncio.to_thread(self._servers.wait_until_whole)

    async def _demote(self, primary: Server) -> None:
        """Fail over; the address follows later, and open connections stay at the demoted server."""
        await asyncio.to_thread(self._servers.failover)
        await self._wait()
        self._fleet.lead_to(self._servers.primaries()[0].port)
        await asyncio.to_thread(self._servers.wait_until_whole)

    async def _restore_older(self, primary: Server) -> None:
        older = await asyncio.to_thread(primary.copy_data)
        await self._wait()
        primary.kill()
        await asyncio.to_thread(primary.restore, older)
        await self._start(primary)

    async def _start(self, server: Server) -> None:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(self._servers.wait_until_whole)

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.uniform(min(0.5, self._longest_s), self._longest_s))


async def _mend(accept: Act, server: Server) -> None:
    """Let a server accept again. It may be busy, or still end an earlier snapshot."""

    async def is_mended() -> bool:
        try:
            await accept(server)
        except RedisError:
            return False
        return True

    await eventually(is_mended, within_s=_MENDED_WITHIN_S)
