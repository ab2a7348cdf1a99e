"""Presence on Redis (or Valkey): what is here is noted, and told in rounds, many clients to a call."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from roomcast.model.errors import BrokerUnavailable
from roomcast.presence import Counts, Page
from roomcast.presence.commands import MAX_JOINED, MAX_LEFT, TTL_S, PresenceCommands
from roomcast.presence.node_leases import NodeKeys
from roomcast.presence.sweeper import Sweeper
from roomcast.redis_access.client import OUTAGES, outage_reason, publish_verb
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all, run_pipeline
from roomcast.redis_access.scripts import Command
from roomcast.tasks import run_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from roomcast.model.namespaces import Namespaces
    from roomcast.model.publications import ClientInfo
    from roomcast.presence import Registry, Roster
    from roomcast.redis_access.client import Client

log = structlog.get_logger(__name__)

T = TypeVar("T")

# The first change is told at once; what comes within this time after a round goes out together.
_ROUND_INTERVAL_S = 0.05
_RETRY_S = 1.0
_SETTLE_TIMEOUT_S = 1.0
_CALLS_AT_ONCE = 100
_NAMES_AT_ONCE = 1000
# A client that only reloads its page vacates nothing.
_LINGER_S = 1.0
_TURN_S = 1.0
# Each channel's keys are kept alive once in so many turns.
_TURN_COUNT = 20
# Outlives the keys of the channels that it names.
_LEASE_CHANNELS_TTL_S = 10 * TTL_S


class _Round(NamedTuple):
    """What is told at once.

    occupied: channels that have a subscriber here, vacated: that have none.
    changed: by channel and client; None: the client has left.
    """

    occupied: set[str]
    changed: dict[str, dict[str, ClientInfo | None]]
    vacated: list[str]


class RedisPresence:
    """Implements `roomcast.presence.Presence`.

    Nothing is kept here of clients that neither come nor go: the roster knows them, should they have to be told again.

    Args:
        client: from `brokers.client.connect`.
        node_id: leases are named after it.
    """

    def __init__(
        self,
        client: Client,
        registry: Registry,
        roster: Roster,
        namespaces: Namespaces,
        *,
        prefix: str,
        node_id: str,
    ) -> None:
        self._client = client
        self._roster = roster
        self._node_id = node_id
        self._lease_number = 1
        self._keys = NodeKeys(prefix)
        self._commands = PresenceCommands(ChannelKeys(prefix), namespaces, publish_command=publish_verb(client))
        self._sweeper = Sweeper(
            client, registry, self._commands, self._keys, own_lease=lambda: self.lease, clock=time.monotonic
        )
        self._changed: defaultdict[str, dict[str, ClientInfo | None]] = defaultdict(dict)
        self._unsure: set[str] = set()  # channels of which all is to be told
        self._fading: set[str] = set()  # channels whose keys are to be kept alive
        self._vacating: dict[str, float] = {}  # channel -> loop time at which it is vacated
        self._has_changed = asyncio.Event()
        # Of the round that will tell what is noted now, and of the one that is under way: set when it is over.
        self._next_round = asyncio.Event()
        self._round: tuple[_Round, asyncio.Event] | None = None

    @property
    def lease(self) -> str:
        """See `Presence.lease`."""
        return f"{self._node_id}.{self._lease_number}"

    async def run(self) -> None:
        """See `Presence.run`."""
        await run_together(tell=self._tell_forever(), turn=self._turn_forever(), sweep=self._sweeper.run())

    def join(self, channel: str, info: ClientInfo) -> None:
        """See `Presence.join`."""
        self._changed[channel][info.client] = info
        self._has_changed.set()

    def leave(self, channel: str, client: str) -> None:
        """See `Presence.leave`."""
        # Also of a client that was not told of yet: Redis knows best whether it was there.
        self._changed[channel][client] = None
        self._has_changed.set()

    def occupy(self, channel: str) -> None:
        """See `Presence.occupy`."""
        if self._vacating.pop(channel, None) is None:
            self._unsure.add(channel)
            self._has_changed.set()

    def vacate(self, channel: str) -> None:
        """See `Presence.vacate`."""
        self._vacating[channel] = asyncio.get_running_loop().time() + _LINGER_S

    def doubt(self) -> None:
        """See `Presence.doubt`."""
        self._unsure.update(self._roster.channels())
        self._has_changed.set()

    def renew(self) -> None:
        """See `Presence.renew`."""
        log.warning("presence.lease_lost", lease=self.lease)
        self._lease_number += 1
        self.doubt()

    async def retire(self) -> None:
        """See `Presence.retire`."""
        try:
            await self._sweeper.sweep(self.lease)
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc

    async def page(self, channel: str, *, cursor: str = "", limit: int = 100) -> Page:
        """See `Presence.page`."""
        await self._settle(channel)
        (reply,) = await self._ask([self._commands.page(channel, cursor, limit)])
        return self._commands.read_page(channel, reply)

    async def count(self, channel: str) -> Counts:
        """See `Presence.count`."""
        await self._settle(channel)
        return Counts(*await self._ask(self._commands.count(channel)))

    async def _settle(self, channel: str) -> None:
        """Wait, a second at most, until what was noted of a channel here is told: who asks as it comes sees itself."""
        if channel in self._changed:
            is_over = self._next_round
        elif self._round is not None and channel in self._round[0].changed:
            is_over = self._round[1]
        else:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_TIMEOUT_S):
                await is_over.wait()

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:  # Any: redis-py's replies
        try:
            return await run_all(self._client, commands, ())
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc

    async def _turn_forever(self) -> None:
        """See to what time alone brings: channels to be kept alive, or to be vacated."""
        turn = 0
        while True:
            await asyncio.sleep(_TURN_S)
            turn = (turn + 1) % _TURN_COUNT
            self._fading.update(channel for channel in self._roster.channels() if hash(channel) % _TURN_COUNT == turn)
            self._has_changed.set()

    async def _tell_forever(self) -> None:
        """Be the only one who writes what is here: the order of the rounds is the order in Redis."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            told, is_over = self._take(), self._next_round
            self._next_round = asyncio.Event()
            self._round = told, is_over
            try:
                refused = await self._tell(told)
            except OUTAGES as exc:
                log.debug("presence.tell_failed", reason=outage_reason(exc))  # the broker's own log line says it once
                refused = {*told.occupied, *told.changed, *told.vacated}
            finally:
                self._round = None
                is_over.set()
            self._take_back(told, refused)
            await asyncio.sleep(_RETRY_S if refused else _ROUND_INTERVAL_S)

    def _take(self) -> _Round:
        """Return what is to be told now."""
        here = self._roster.channels()
        unsure, self._unsure = self._unsure, set()
        fading, self._fading = self._fading, set()
        changed, self._changed = self._changed, defaultdict(dict)
        for channel in unsure:
            changed[channel].update((info.client, info) for info in self._roster.members(channel))
        now = asyncio.get_running_loop().time()
        vacated = [channel for channel, due_at in self._vacating.items() if due_at <= now]
        for channel in vacated:
            del self._vacating[channel]
        return _Round((unsure | fading).intersection(here), changed, vacated)

    def _take_back(self, told: _Round, refused: set[str]) -> None:
        """Keep what was refused, or may have been: who has left must be named again, who is here the roster knows."""
        here = self._roster.channels()
        for channel in refused:
            for client, info in told.changed.get(channel, {}).items():
                if info is None:
                    self._changed[channel].setdefault(client, None)
            if channel in here:
                self._unsure.add(channel)
            elif channel in told.vacated:
                self.vacate(channel)
        if refused:
            self._has_changed.set()

    async def _tell(self, told: _Round) -> set[str]:
        """Tell Redis; return the channels of which it refused something. Raises: OUTAGES."""
        lease = self.lease  # if another one is taken meanwhile, all is told again
        await self._name([*told.occupied, *told.changed], lease)
        refused = set()
        for batch in _batches(list(self._calls(told, lease)), _CALLS_AT_ONCE):
            replies = await run_pipeline(self._client, [command for _, command in batch], self._commands.scripts)
            for (channel, _), reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    log.debug("presence.refused", channel=channel, reason=outage_reason(reply))
                    refused.add(channel)
        for vacated in _batches(told.vacated, _CALLS_AT_ONCE):
            swept = await self._sweeper.sweep_channels(vacated, lease)
            refused.update(set(vacated).difference(swept))
            if done := set(swept) - refused:
                await self._client.srem(self._keys.channels(lease), *done)
        return refused

    async def _name(self, channels: list[str], lease: str) -> None:
        """Name channels before anything is written of them, so that whoever sweeps the lease finds it."""
        if not channels:
            return
        key = self._keys.channels(lease)
        for batch in _batches(channels, _NAMES_AT_ONCE):
            await self._client.sadd(key, *batch)
        await self._client.expire(key, _LEASE_CHANNELS_TTL_S)
        await self._client.sadd(self._keys.leases, lease)

    def _calls(self, told: _Round, lease: str) -> Iterator[tuple[str, Command]]:
        for channel in told.occupied:
            yield channel, self._commands.occupy(channel, lease)
        for channel, changed in told.changed.items():
            left = [client for client, info in changed.items() if info is None]
            for clients in _batches(left, MAX_LEFT):
                yield channel, self._commands.leave(channel, lease, clients)
            joined = [info for info in changed.values() if info is not None]
            for infos in _batches(joined, MAX_JOINED):
                yield channel, self._commands.join(channel, lease, infos)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
