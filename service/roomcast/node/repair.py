"""The repair of all gaps on a node, round by round: what to read next, how much, and when to give up. Pure.

docs/architecture.md, "Repairing a gap", has the states and the reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from roomcast.model.errors import BrokerUnavailable
from roomcast.model.publications import History
from roomcast.node.track import Events, Request, Track
from roomcast.node.waiting import WaitingTotal

log = structlog.get_logger(__name__)

_MAX_WAITING_BYTES = 32 * 1024 * 1024
# Positions take about 100 bytes each.
_POSITIONS_AT_ONCE = 200
# All pages of a round: a link of 50 KB/s needs less than the usual timeout for the largest.
_MIN_ROUND_BYTES = 4 * 1024
_FIRST_ROUND_BYTES = 64 * 1024
_MAX_ROUND_BYTES = 256 * 1024
# A round that takes longer is halved, a full one that takes less is doubled.
_LONG_ROUND_S = 1.0
_SHORT_ROUND_S = 0.1
# The node is not ready while a repair has lasted this part of the patience, and for as long after it was given up.
_NOT_READY_PART = 1 / 6


class Repairs:
    """The tracks that are not resolved.

    Args:
        patience_s: publications wait so long at most.
    """

    def __init__(self, *, patience_s: float, max_waiting_bytes: int = _MAX_WAITING_BYTES) -> None:
        self.waiting = WaitingTotal(max_waiting_bytes)
        self._patience_s = patience_s
        self._positions: dict[Track, None] = {}  # to be read, in the order of the requests
        self._pages: dict[Track, None] = {}
        self._behind: dict[Track, float] = {}  # unresolved ones, and since when their publications wait or are missing
        self._round_bytes = _FIRST_ROUND_BYTES
        self._given_up_at_s: float | None = None

    @property
    def has_asked(self) -> bool:
        """Return whether there is anything to read."""
        return bool(self._positions or self._pages)

    def ask(self, track: Track, now_s: float) -> None:
        """Repair a track."""
        if track.needs_position:
            self._pages.pop(track, None)
            self._positions[track] = None
        else:
            self._positions.pop(track, None)
            self._pages[track] = None
        self._behind.setdefault(track, now_s)

    def forget(self, track: Track) -> None:
        """Repair a track no longer."""
        for tracks in (self._positions, self._pages, self._behind):
            tracks.pop(track, None)

    def connect(self, now_s: float) -> None:
        """Begin again to be patient: only now the missing publications can be read."""
        self._behind = dict.fromkeys(self._behind, now_s)
        self._round_bytes = _FIRST_ROUND_BYTES

    def next_round(self) -> list[Request]:
        """Return the next reads, in turns, so that no channel waits for the repair of another one."""
        requests: list[Request] = []
        for track in tuple(self._positions)[:_POSITIONS_AT_ONCE]:
            del self._positions[track]
            requests.append(track.request(0))
        left = self._round_bytes
        while self._pages and left > 0:
            track = next(iter(self._pages))
            del self._pages[track]
            requests.append(track.request(left))
            left -= track.page_bytes(requests[-1])
        return requests

    def to_sync(self, requests: Sequence[Request], histories: Sequence[History | BrokerUnavailable]) -> set[str]:
        """Return the channels that `take` needs to be synced."""
        return {
            request.track.channel
            for request, history in zip(requests, histories, strict=True)
            if isinstance(history, History) and request.track.needs_sync(request, history)
        }

    def take(
        self,
        requests: Sequence[Request],
        histories: Sequence[History | BrokerUnavailable],
        *,
        synced: Collection[str],
        took_s: float,
        now_s: float,
    ) -> Events:
        """Take the results of a round, ask again for what is still missing, and return the events to broadcast.

        Args:
            synced: the channels of which this node has received everything that Redis had when it was read.
            took_s: the time of the reads.
        """
        self._measure(requests, histories, took_s)
        found: Events = []
        for request, history in zip(requests, histories, strict=True):
            track = request.track
            if track not in self._behind:  # closed, or given up
                continue
            if isinstance(history, BrokerUnavailable):
                track.shrink_page(request)
            elif request.target is not None:
                found += track.page(request, history)
            elif track.channel in synced or not track.needs_sync(request, history):
                found += track.settle(request, history)
            self._ask_again(track, now_s)
        return found

    def give_up(self, now_s: float) -> Events:
        """Give up the repairs that have lasted too long, and return the events to broadcast."""
        found: Events = []
        for track, since_s in tuple(self._behind.items()):
            if not track.is_behind:
                self._behind[track] = now_s
            elif now_s - since_s > self._patience_s:
                found += self._give_up(track, now_s)
        return found

    def make_space(self, track: Track, now_s: float) -> Events:
        """Give up a track if too much waits on this node, and return the events to broadcast."""
        return self._give_up(track, now_s) if self.waiting.is_exceeded() else []

    def reason_not_ready(self, now_s: float) -> str | None:
        """Return why this node's clients are behind, or None."""
        patience_s = self._patience_s * _NOT_READY_PART
        count = sum(now_s - since_s > patience_s and track.is_behind for track, since_s in self._behind.items())
        if count:
            return f"{count} channels are behind Redis"
        if self._given_up_at_s is not None and now_s - self._given_up_at_s < patience_s:
            return "publications were lost, because Redis could not be read in time"
        return None

    def _give_up(self, track: Track, now_s: float) -> Events:
        log.warning("tracker.gave_up", channel=track.channel, position=track.position)
        self._given_up_at_s = now_s
        found = track.give_up()
        self._behind.pop(track, None)
        self._ask_again(track, now_s)
        return found

    def _ask_again(self, track: Track, now_s: float) -> None:
        if track.is_resolved:
            self.forget(track)
        else:
            self.ask(track, now_s)

    def _measure(
        self, requests: Sequence[Request], histories: Sequence[History | BrokerUnavailable], took_s: float
    ) -> None:
        pages = [
            (request, history)
            for request, history in zip(requests, histories, strict=True)
            if request.target is not None
        ]
        if not pages:
            return
        has_failed = any(isinstance(history, BrokerUnavailable) for _, history in pages)
        is_full = bool(self._pages) or any(
            len(history.publications) == request.read.limit
            for request, history in pages
            if isinstance(history, History)
        )
        if has_failed or took_s > _LONG_ROUND_S:
            self._round_bytes = max(_MIN_ROUND_BYTES, self._round_bytes // 2)
        elif is_full and took_s < _SHORT_ROUND_S:
            self._round_bytes = min(_MAX_ROUND_BYTES, self._round_bytes * 2)
