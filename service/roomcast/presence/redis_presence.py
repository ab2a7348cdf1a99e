"""Presence on Redis (or Valkey): changes are collected, and written in rounds, many clients to a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import structlog
from typing_extensions import override

from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import Namespaces
from roomcast.presence.changes import Changes, Round
from roomcast.presence.interface import Counts, LeaseState, Page, Presence, Registry, Roster
from roomcast.presence.node_registry import NodeKeys
from roomcast.presence.presence_commands import MAX_JOINED, MAX_LEFT, TTL_S, PresenceCommands
from roomcast.presence.sweeper import Sweeper
from roomcast.redis_access.client import OUTAGES, Client, outage_reason, outages_reported, publish_verb
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import batches, run_pipeline
from roomcast.redis_access.scripts import Command
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)

# The first change is written at once; the changes within this time after a round are written together.
_ROUND_INTERVAL_S = 0.05
_RETRY_S = 1.0
_WRITE_TIMEOUT_S = 1.0
_CALLS_AT_ONCE = 100
_NAMES_AT_ONCE = 1000
_TURN_S = 1.0
# Outlives the keys of the channels that it names.
_LEASE_CHANNELS_TTL_S = 10 * TTL_S


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
        self._node_id = node_id
        self._lease_number = 1
        self._keys = NodeKeys(prefix)
        self._commands = PresenceCommands(ChannelKeys(prefix), namespaces, publish_command=publish_verb(client))
        self.sweeper = Sweeper(
            client, registry, self._commands, self._keys, own_lease=lambda: self.lease, clock=time.monotonic
        )
        self._changes = Changes(roster)
        self._has_changed = asyncio.Event()
        # Set when the next round, or the one under way, is over.
        self._next_round = asyncio.Event()
        self._round: tuple[Round, asyncio.Event] | None = None
        self._warned: set[str] = set()  # channels that Redis refuses, as the log says
        self._fault_count = 0

    @property
    @override
    def lease(self) -> str:
        return f"{self._node_id}.{self._lease_number}"

    @property
    @override
    def fault_count(self) -> int:
        return self._fault_count

    @override
    async def run(self) -> None:
        await run_together(write=self._write_forever(), turn=self._turn_forever(), sweep=self.sweeper.run())

    @override
    def join(self, channel: str, info: ClientInfo) -> None:
        self._changes.join(channel, info)
        self._has_changed.set()

    @override
    def leave(self, channel: str, client: str) -> None:
        self._changes.leave(channel, client)
        self._has_changed.set()

    @override
    def occupy(self, channel: str) -> None:
        self._changes.occupy(channel)
        self._has_changed.set()

    @override
    def vacate(self, channel: str) -> None:
        self._changes.vacate(channel, asyncio.get_running_loop().time())

    @override
    def doubt(self) -> None:
        self._changes.suspect_all()

    @override
    def reported(self, state: LeaseState) -> None:
        if state is LeaseState.ENDED:
            log.warning("presence.lease_lost", lease=self.lease)
            self._lease_number += 1
            self._changes.rejoin_all()
        else:
            if state is LeaseState.STARTED:
                self._changes.suspect_all()
            self._changes.allow_rewriting()
        self._has_changed.set()

    @override
    async def retire(self) -> None:
        with outages_reported():
            await self.sweeper.sweep(self.lease)

    @override
    async def page(self, channel: str, *, cursor: str = "", limit: int = 100) -> Page:
        await self._wait_written(channel)
        (reply,) = await self._read(channel, [self._commands.page(channel, cursor, limit)])
        return self._commands.read_page(channel, reply)

    @override
    async def count(self, channel: str) -> Counts:
        await self._wait_written(channel)
        return Counts(*await self._read(channel, self._commands.count(channel)))

    async def _wait_written(self, channel: str) -> None:
        """Wait, a second at most, for the changes of a channel: a client that has just joined finds itself."""
        if self._changes.is_pending(channel):
            is_over = self._next_round
        elif self._round is not None and channel in self._round[0].changed:
            is_over = self._round[1]
        else:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await is_over.wait()

    async def _read(self, channel: str, commands: Sequence[Command]) -> list[Any]:  # Any: redis-py's replies
        """Return the replies. Dead leases of a channel are found here too, because no node may have a subscriber."""
        with outages_reported():
            *replies, leases = await run_pipeline(self._client, [*commands, self._commands.leases(channel)], ())
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            if not isinstance(leases, Exception):
                await self._register({channel: {str(lease, "utf-8", "replace") for lease in leases}})
        return replies

    async def _turn_forever(self) -> None:
        """Each second, retry refused channels, and start a round that also checks and vacates channels."""
        while True:
            await asyncio.sleep(_TURN_S)
            self._changes.turn()
            self._has_changed.set()

    async def _write_forever(self) -> None:
        """Write the rounds, one after the other: their order is the order in Redis."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            await asyncio.sleep(_ROUND_INTERVAL_S if await self.write_round() else _RETRY_S)

    async def write_round(self) -> bool:
        """Write the changes so far; return whether Redis was there."""
        now_s = asyncio.get_running_loop().time
        changes, is_over = self._changes.take(now_s()), self._next_round
        self._next_round = asyncio.Event()
        self._round = changes, is_over
        all_channels = {*changes.changed, *changes.checked, *changes.vacated}
        try:
            refused = await self._write(changes)
        except OUTAGES as exc:
            log.debug("presence.tell_failed", reason=outage_reason(exc))  # the broker logs an outage once
            self._changes.restore(changes, all_channels, now_s())
            self._has_changed.set()
            return False
        finally:
            self._round = None
            is_over.set()
        self._changes.restore(changes, refused, now_s())
        self._warned -= all_channels - refused
        return True

    async def _write(self, changes: Round) -> set[str]:
        """Write changes to Redis; return the channels of which it refused some. Raises: OUTAGES."""
        lease = self.lease  # if it changes meanwhile, everything is written again
        await self._name([*{*changes.checked, *changes.changed}], lease)
        extra = await self._extra_members(changes, lease)
        refused: set[str] = set()
        for batch in _batches_of_one_call(self._calls(changes, extra, lease)):
            replies = await run_pipeline(self._client, [command for _, command in batch], self._commands.scripts)
            found: dict[str, set[str]] = {}
            for (channel, _), reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    self._refuse(channel, outage_reason(reply))
                    refused.add(channel)
                elif isinstance(reply, list):
                    is_whole, found[channel] = self._commands.read_check(reply)
                    # All of it was written just now: what is still wrong is left to the next check.
                    if not is_whole and channel not in changes.news and channel not in changes.rewritten:
                        log.warning("presence.lost", channel=channel)
                        self._fault_count += 1
                        self._changes.suspect(channel)
            await self._register(found)
        for vacated in batches(changes.vacated, _CALLS_AT_ONCE):
            swept = await self.sweeper.sweep_channels(vacated, lease)
            refused.update(set(vacated).difference(swept))
            if done := set(swept) - refused:
                await run_pipeline(self._client, [("SREM", self._keys.channels(lease), *done)], ())
        return refused

    def _refuse(self, channel: str, reason: str) -> None:
        self._fault_count += 1
        if channel not in self._warned:
            self._warned.add(channel)
            log.warning("presence.refused", channel=channel, reason=reason)

    async def _name(self, channels: list[str], lease: str) -> None:
        """Add channels to the lease's set before any of their keys is written, so that a sweep finds them.

        If Redis refuses, the channels' own sets of leases remain (`_register`).
        """
        if not channels:
            return
        key, commands = self._keys.channels(lease), self._naming(channels, lease)
        replies = await run_pipeline(self._client, commands, ())
        if str(replies[0]).startswith("WRONGTYPE"):  # the key is of this lease alone: another program's is deleted
            replies = await run_pipeline(self._client, [("UNLINK", key), *commands], ())
        for reply in replies:
            if isinstance(reply, Exception):
                self._refuse(key, outage_reason(reply))

    async def _register(self, found: dict[str, set[str]]) -> None:
        """Add leases, found in channels, to the sets that a sweep reads, if they are not known to be alive."""
        commands: list[Command] = []
        for channel, leases in found.items():
            for lease in leases - self.sweeper.alive - {self.lease}:
                commands += self._naming([channel], lease)
        if commands:
            await run_pipeline(self._client, commands, ())

    def _naming(self, channels: list[str], lease: str) -> list[Command]:
        key = self._keys.channels(lease)
        commands: list[Command] = [("SADD", key, *batch) for batch in batches(channels, _NAMES_AT_ONCE)]
        return [*commands, ("EXPIRE", key, _LEASE_CHANNELS_TTL_S), ("SADD", self._keys.leases, lease)]

    async def _extra_members(self, changes: Round, lease: str) -> dict[str, list[bytes]]:
        """Return, for channels that are written again, the lease's members in Redis that are not here any more."""
        extra: dict[str, list[bytes]] = {}
        for channels in batches(list(changes.rewritten), _CALLS_AT_ONCE):
            commands = [self._commands.own_members(channel, lease) for channel in channels]
            for channel, reply in zip(channels, await run_pipeline(self._client, commands, ()), strict=True):
                if not isinstance(reply, Exception):  # else the calls that follow are refused too
                    here = {info.client.encode() for info in changes.rewritten[channel]}
                    here.update(client.encode() for step in changes.changed.get(channel, ()) for client in step)
                    extra[channel] = [client for client in reply if client not in here]
        return extra

    def _calls(self, changes: Round, extra: dict[str, list[bytes]], lease: str) -> dict[str, Iterator[Command]]:
        """Return each channel's calls."""
        channels = {*changes.changed, *changes.rewritten, *changes.checked}
        return {channel: self._calls_of(channel, changes, extra.get(channel, []), lease) for channel in channels}

    def _calls_of(self, channel: str, changes: Round, extra: Sequence[bytes], lease: str) -> Iterator[Command]:
        for step in changes.changed.get(channel, ()):
            left = [client for client, info in step.items() if info is None]
            for clients in batches(left, MAX_LEFT):
                yield self._commands.leave(channel, lease, clients)
            joined = [info for info in step.values() if info is not None]
            for infos in batches(joined, MAX_JOINED):
                yield self._commands.join(channel, lease, infos)
        for names in batches(extra, MAX_LEFT):
            yield self._commands.leave(channel, lease, names)
        for infos in batches(changes.rewritten.get(channel, []), MAX_JOINED):
            yield self._commands.join(channel, lease, infos, is_news=False)
        if channel in changes.checked:
            count = changes.checked[channel]
            yield self._commands.occupy(channel, lease, count, is_news=channel in changes.news)


def _batches_of_one_call(calls: dict[str, Iterator[Command]]) -> Iterator[Sequence[tuple[str, Command]]]:
    """Return batches with one call of a channel each: a pipeline would join several, and block Redis meanwhile."""
    while calls:
        batch = [(channel, command) for channel, rest in calls.items() if (command := next(rest, None)) is not None]
        calls = {channel: calls[channel] for channel, _ in batch}
        yield from batches(batch, _CALLS_AT_ONCE)
