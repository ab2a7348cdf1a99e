"""Random faults: three tasks at the same time, one for nodes, one for Redis, one for clients."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from tests.chaos.client import Client
from tests.chaos.fleet import Fleet, Slot
from tests.chaos.redis_faults import FAILOVER, LONGEST_OUTAGE_S, OLDER_DATA, Act, RedisFaults
from tests.support.redis_servers import RedisError
from tests.support.redis_shapes import Servers

# Long enough to be found out (a silent connection after 5 s and a timeout), short enough for the window of a client.
LONGEST_FAULT_S = 9.0
# Its losses are announced by the nodes that have seen the lost publications: they must not be killed meanwhile.
_ONLY_BY_NAME = (OLDER_DATA,)
_LONGEST_STALL_S = 6.0

Fault = Callable[[], Awaitable[None]]


class _Hand:
    """One task's faults. turns: the kinds that come before one comes again."""

    def __init__(self, faults: Mapping[str, Fault], chance: random.Random) -> None:
        self.faults = faults
        self.chance = chance
        self.turns: list[str] = []


class Faults:
    """Causes faults, and counts them by kind.

    Each task causes one fault at a time and repairs it before the next. Each kind has its turn before one comes again.
    Args:
        seed: the same seed brings the same faults at the same times, as far as the machine allows it.
        only: the kinds to cause, each at least once; empty: all of this shape of Redis.
        longest_s: no fault of Redis or of a node lasts longer.
    """

    def __init__(
        self,
        fleet: Fleet,
        servers: Servers,
        clients: Sequence[Client[Any]],  # Any: of any event
        *,
        seed: int,
        only: Collection[str] = (),
        longest_s: float = LONGEST_FAULT_S,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._fleet = fleet
        self._servers = servers
        self._clients = clients
        self._only = only
        self._longest_s = longest_s
        self._hands = {
            make.__name__: _Hand(make(chance), chance)
            for number, make in enumerate((self._of_nodes, self._of_redis, self._of_clients))
            for chance in [random.Random(seed * 10 + number)]
        }

    @property
    def may_have_lost_data(self) -> bool:
        """Return whether a fault so far may have cost acknowledged publications."""
        return bool(self.counts[FAILOVER] or self.counts[OLDER_DATA] or self._servers.name in ("sentinel", "cluster"))

    async def run(self, *, seconds: float, longest_pause_s: float) -> None:
        """Break things for so long; all is mended when this returns. Again: it continues where it was."""
        ends_at_s = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as tasks:
            for name, hand in self._hands.items():
                tasks.create_task(self._use(hand, ends_at_s, longest_pause_s), name=name)

    async def _use(self, hand: _Hand, ends_at_s: float, longest_pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        kinds = [kind for kind in hand.faults if (kind in self._only if self._only else kind not in _ONLY_BY_NAME)]
        while kinds:
            await asyncio.sleep(hand.chance.uniform(0, longest_pause_s))
            if loop.time() >= ends_at_s and (not self._only or all(self.counts[kind] for kind in kinds)):
                return
            hand.turns = hand.turns or hand.chance.sample(kinds, k=len(kinds))
            kind = hand.turns.pop()
            self.counts[kind] += 1
            await hand.faults[kind]()

    def _of_nodes(self, chance: random.Random) -> Mapping[str, Fault]:
        def slot() -> Slot:
            return chance.choice(self._fleet.slots)

        async def kill() -> None:
            victim = slot()
            await victim.kill()
            await victim.start()

        async def roll() -> None:
            for each in self._fleet.slots:
                await each.end()
                await each.start()

        async def freeze() -> None:
            process = slot().node.process
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(min(0.5, self._longest_s), self._longest_s))
            process.send_signal(signal.SIGCONT)

        async def cut() -> None:
            proxy = slot().proxy
            assert proxy is not None
            proxy.cut()
            await asyncio.sleep(chance.uniform(min(0.5, self._longest_s), self._longest_s))
            if chance.random() < 0.5:
                proxy.reset()
            proxy.heal()

        async def reset() -> None:
            proxy = slot().proxy
            assert proxy is not None
            proxy.reset()

        faults: dict[str, Fault] = {"node killed": kill, "nodes restarted in turn": roll, "node frozen": freeze}
        if self._fleet.slots[0].proxy is not None:
            faults |= {"node cut off from Redis silently": cut, "node's Redis connections reset": reset}
        return faults

    def _of_redis(self, chance: random.Random) -> Mapping[str, Fault]:
        def of_primary(act: Act) -> Fault:
            async def fault() -> None:
                try:
                    primaries = await asyncio.to_thread(self._servers.primaries)
                    await act(chance.choice(primaries))
                except RedisError:
                    self.counts["Redis refused a fault"] += 1

            return fault

        faults = RedisFaults(self._servers, self._fleet, chance, min(LONGEST_OUTAGE_S, self._longest_s)).by_name()
        return {name: of_primary(act) for name, act in faults.items()}

    def _of_clients(self, chance: random.Random) -> Mapping[str, Fault]:
        async def stall() -> None:
            some = chance.sample(self._clients, k=max(1, len(self._clients) // 4))
            for client in some:
                client.stall()
            await asyncio.sleep(chance.uniform(0.5, _LONGEST_STALL_S))
            for client in some:
                client.go_on()

        async def leave() -> None:
            for client in chance.sample(self._clients, k=max(1, len(self._clients) // 2)):
                client.leave()

        return {"clients stalled": stall, "clients changed their network": leave}
