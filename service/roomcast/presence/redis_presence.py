"""Presence on Redis (or Valkey): changes are collected, and written in rounds, many clients to a call."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import structlog
from typing_extensions import override

from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import Namespaces
from roomcast.presence.interface import Counts, Page, Presence, Registry, Roster
from roomcast.presence.node_registry import NodeKeys
from roomcast.presence.presence_commands import MAX_JOINED, MAX_LEFT, TTL_S, PresenceCommands
from roomcast.presence.sweeper import Sweeper
from roomcast.redis_access.client import OUTAGES, Client, outage_reason, outages_reported, publish_verb
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all, run_pipeline
from roomcast.redis_access.scripts import Command
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)

T = TypeVar("T")

# The first change is written at once; the changes within this time after a round are written together.
_ROUND_INTERVAL_S = 0.05
_RETRY_S = 1.0
_WRITE_TIMEOUT_S = 1.0
# A client that joins and leaves within a round is reported while its channel has no more changes in this round.
_MAX_TURNS = 100
_CALLS_AT_ONCE = 100
_NAMES_AT_ONCE = 1000
# A client that only reloads its page vacates no channel.
_LINGER_S = 1.0
_TURN_S = 1.0
# The keys of each channel are kept alive once in 20 turns.
_TURN_COUNT = 20
# Outlives the keys of the channels that it names.
_LEASE_CHANNELS_TTL_S = 10 * TTL_S


class _Round(NamedTuple):
    """The changes that are written together.

    occupied: channels with a subscriber here; vacated: channels without.
    changed: by channel the steps, one after the other, in each of which a client has changed once; None: it has left.
    """

    occupied: set[str]
    changed: dict[str, list[dict[str, ClientInfo | None]]]
    vacated: list[str]


class RedisPresence(Presence):
    """Presence in Redis. It keeps only changes: the roster has the clients, in case they must be written again.

    Args:
        client: from `redis_access.client.connect`.
        node_id: leases are named after it.
    """

    def __init__(
        self, client: Client, registry: Registry, roster: Roster, namespaces: Namespaces, *, prefix: str, node_id: str
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
        self._changed: defaultdict[str, list[dict[str, ClientInfo | None]]] = defaultdict(list)
        self._unsure: set[str] = set()  # channels of which all members are written again
        self._fading: set[str] = set()  # channels whose keys are to be kept alive
        self._vacating: dict[str, float] = {}  # channel -> loop time at which it is vacated
        self._has_changed = asyncio.Event()
        # Set when the next round, or the one under way, is over.
        self._next_round = asyncio.Event()
        self._round: tuple[_Round, asyncio.Event] | None = None

    @property
    @override
    def lease(self) -> str:
        return f"{self._node_id}.{self._lease_number}"

    @override
    async def run(self) -> None:
        await run_together(write=self._write_forever(), turn=self._turn_forever(), sweep=self._sweeper.run())

    @override
    def join(self, channel: str, info: ClientInfo) -> None:
        self._change(channel, info.client, info)

    @override
    def leave(self, channel: str, client: str) -> None:
        # Also a client that was not written yet: Redis decides whether it was a member.
        self._change(channel, client, None)

    @override
    def occupy(self, channel: str) -> None:
        if self._vacating.pop(channel, None) is None:
            self._unsure.add(channel)
            self._has_changed.set()

    @override
    def vacate(self, channel: str) -> None:
        self._vacating[channel] = asyncio.get_running_loop().time() + _LINGER_S

    @override
    def doubt(self) -> None:
        self._unsure.update(self._roster.channels())
        self._has_changed.set()

    @override
    def renew(self) -> None:
        log.warning("presence.lease_lost", lease=self.lease)
        self._lease_number += 1
        self.doubt()

    @override
    async def retire(self) -> None:
        with outages_reported():
            await self._sweeper.sweep(self.lease)

    @override
    async def page(self, channel: str, *, cursor: str = "", limit: int = 100) -> Page:
        await self._wait_written(channel)
        (reply,) = await self._read([self._commands.page(channel, cursor, limit)])
        return self._commands.read_page(channel, reply)

    @override
    async def count(self, channel: str) -> Counts:
        await self._wait_written(channel)
        return Counts(*await self._read(self._commands.count(channel)))

    def _change(self, channel: str, client: str, info: ClientInfo | None) -> None:
        steps = self._changed[channel]
        step = steps[-1] if steps else _first(steps)
        turns = len(step) < _MAX_TURNS and client in step and (step[client] is None) is not (info is None)
        if turns and sum(map(len, steps)) < _MAX_TURNS:
            steps.append(step := {})
        step[client] = info
        self._has_changed.set()

    async def _wait_written(self, channel: str) -> None:
        """Wait, a second at most, for the changes of a channel: a client that has just joined finds itself."""
        if channel in self._changed:
            is_over = self._next_round
        elif self._round is not None and channel in self._round[0].changed:
            is_over = self._round[1]
        else:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await is_over.wait()

    async def _read(self, commands: Sequence[Command]) -> list[Any]:  # Any: redis-py's replies
        with outages_reported():
            return await run_all(self._client, commands, ())

    async def _turn_forever(self) -> None:
        """Each second, select the channels whose keys are kept alive, and start a round that also vacates channels."""
        turn = 0
        while True:
            await asyncio.sleep(_TURN_S)
            turn = (turn + 1) % _TURN_COUNT
            self._fading.update(channel for channel in self._roster.channels() if hash(channel) % _TURN_COUNT == turn)
            self._has_changed.set()

    async def _write_forever(self) -> None:
        """Write the rounds, one after the other: their order is the order in Redis."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            changes, is_over = self._drain(), self._next_round
            self._next_round = asyncio.Event()
            self._round = changes, is_over
            try:
                refused = await self._write(changes)
            except OUTAGES as exc:
                log.debug("presence.tell_failed", reason=outage_reason(exc))  # the broker logs an outage once
                refused = {*changes.occupied, *changes.changed, *changes.vacated}
            finally:
                self._round = None
                is_over.set()
            self._restore(changes, refused)
            await asyncio.sleep(_RETRY_S if refused else _ROUND_INTERVAL_S)

    def _drain(self) -> _Round:
        """Return the changes so far."""
        here = self._roster.channels()
        unsure, self._unsure = self._unsure, set()
        fading, self._fading = self._fading, set()
        changed, self._changed = self._changed, defaultdict(list)
        for channel in unsure:
            step = _first(changed[channel])
            for info in self._roster.members(channel):
                step.setdefault(info.client, info)
        now = asyncio.get_running_loop().time()
        vacated = [channel for channel, due_at in self._vacating.items() if due_at <= now]
        for channel in vacated:
            del self._vacating[channel]
        return _Round((unsure | fading).intersection(here), changed, vacated)

    def _restore(self, changes: _Round, refused: set[str]) -> None:
        """Keep the changes of refused channels for the next round: leaves by name, members by the roster."""
        here = self._roster.channels()
        for channel in refused:
            newest = dict(chain.from_iterable(step.items() for step in changes.changed.get(channel, ())))
            for client, info in newest.items():
                if info is None:
                    _first(self._changed[channel]).setdefault(client, None)
            if channel in here:
                self._unsure.add(channel)
            elif channel in changes.vacated:
                self.vacate(channel)
        if refused:
            self._has_changed.set()

    async def _write(self, changes: _Round) -> set[str]:
        """Write changes to Redis; return the channels of which it refused some. Raises: OUTAGES."""
        lease = self.lease  # if it changes meanwhile, everything is written again
        await self._name([*changes.occupied, *changes.changed], lease)
        refused = set()
        for batch in _batches(list(self._calls(changes, lease)), _CALLS_AT_ONCE):
            replies = await run_pipeline(self._client, [command for _, command in batch], self._commands.scripts)
            for (channel, _), reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    log.debug("presence.refused", channel=channel, reason=outage_reason(reply))
                    refused.add(channel)
        for vacated in _batches(changes.vacated, _CALLS_AT_ONCE):
            swept = await self._sweeper.sweep_channels(vacated, lease)
            refused.update(set(vacated).difference(swept))
            if done := set(swept) - refused:
                await self._client.srem(self._keys.channels(lease), *done)
        return refused

    async def _name(self, channels: list[str], lease: str) -> None:
        """Add channels to the lease's set before any of their keys is written, so that a sweep finds them."""
        if not channels:
            return
        key = self._keys.channels(lease)
        for batch in _batches(channels, _NAMES_AT_ONCE):
            await self._client.sadd(key, *batch)
        await self._client.expire(key, _LEASE_CHANNELS_TTL_S)
        await self._client.sadd(self._keys.leases, lease)

    def _calls(self, changes: _Round, lease: str) -> Iterator[tuple[str, Command]]:
        for channel in changes.occupied:
            yield channel, self._commands.occupy(channel, lease)
        for channel, changed in ((channel, step) for channel, steps in changes.changed.items() for step in steps):
            left = [client for client, info in changed.items() if info is None]
            for clients in _batches(left, MAX_LEFT):
                yield channel, self._commands.leave(channel, lease, clients)
            joined = [info for info in changed.values() if info is not None]
            for infos in _batches(joined, MAX_JOINED):
                yield channel, self._commands.join(channel, lease, infos)


def _first(steps: list[dict[str, ClientInfo | None]]) -> dict[str, ClientInfo | None]:
    if not steps:
        steps.append({})
    return steps[0]


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
