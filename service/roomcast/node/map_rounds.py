"""Writes of the keys that belong to connections, in rounds: a herd of clients must not hold up publications."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import structlog

from roomcast.brokers.map_interface import Conditions, MapStore, Suppressed, Written
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.maps import Change, KeyMode
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Kind, Publication

log = structlog.get_logger(__name__)

_ROUND_S = 0.05
# 5,000 a second: they share the outbox with publications.
_MAX_WRITES = 250
_RETRY_S = 1.0
_LOG_INTERVAL_S = 60.0
# Beyond these a key is left to its time, or written with the next refresh.
_MAX_WAITING = 50_000


class _Write(NamedTuple):
    """A write of a key. number: a later write has a higher one."""

    number: int
    info: ClientInfo | None = None
    is_removal: bool = False
    mode: KeyMode = KeyMode.REPLACE


class MapRounds:
    """Gathers the last write of each key for 50 ms, so that many share a round trip and the push to each watcher.

    A write that fails while Redis is away is repeated, unless a later one was made.
    Args:
        on_existing: called with the map and the key where a key was not set because it was there.
    """

    def __init__(self, store: MapStore, namespaces: Namespaces, on_existing: Callable[[str, str], None]) -> None:
        self._store = store
        self._namespaces = namespaces
        self._on_existing = on_existing
        self._numbers = itertools.count()
        self._waiting: OrderedDict[tuple[str, str], _Write] = OrderedDict()  # by map and key
        self._next_s = 0.0  # the loop's time of the next round
        self._next_log_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, channel: str, key: str, info: ClientInfo | None) -> None:
        """Set a key soon, unless it is there."""
        self._put((channel, key), _Write(next(self._numbers), info, mode=KeyMode.IF_NEW))

    def remove(self, channel: str, key: str) -> None:
        """Remove a key soon."""
        self._put((channel, key), _Write(next(self._numbers), is_removal=True))

    def keep(self, channel: str, key: str) -> None:
        """Do not remove a key, because its client has written it again."""
        self._waiting.pop((channel, key), None)

    def flush(self) -> None:
        """Submit everything that waits."""
        self._submit(len(self._waiting))

    def _put(self, place: tuple[str, str], write: _Write) -> None:
        """Let a write wait instead of an earlier one."""
        before = self._waiting.get(place)
        if before is None:
            if len(self._waiting) >= _MAX_WAITING:
                return
        elif before.number > write.number:
            return
        elif not write.is_removal:
            write = write._replace(mode=before.mode)  # a key that was to be removed may be there with another info
        self._waiting[place] = write
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._next_s, loop.time()), self._write)

    def _write(self) -> None:
        self._timer = None
        self._next_s = asyncio.get_running_loop().time() + _ROUND_S
        self._submit(min(_MAX_WRITES, len(self._waiting)))
        if self._waiting:
            self._schedule()

    def _submit(self, count: int) -> None:
        for _ in range(count):
            place, write = self._waiting.popitem(last=False)
            channel, key = place
            change = Change(key, is_removed=write.is_removal)
            self._store.submit(
                Publication(channel, b"", Kind.JSON, info=write.info, change=change),
                self._namespaces.of(channel),
                partial(self._on_done, place, write),
                conditions=Conditions(mode=write.mode),
            )

    def _on_done(
        self, place: tuple[str, str], write: _Write, result: Written | ClientError | BrokerUnavailable
    ) -> None:
        now_s = asyncio.get_running_loop().time()
        if isinstance(result, BrokerUnavailable):
            self._next_s = now_s + _RETRY_S
            self._put(place, write)
            return
        waiting = self._waiting.get(place)
        if waiting is not None and waiting.number < write.number:  # it has failed, and would undo this one
            del self._waiting[place]
        if isinstance(result, ClientError):
            if now_s >= self._next_log_s:
                self._next_log_s = now_s + _LOG_INTERVAL_S
                log.warning("map_rounds.refused", channel=place[0], reason=str(result))
        elif result.suppressed is Suppressed.KEY_EXISTS:
            self._on_existing(*place)
