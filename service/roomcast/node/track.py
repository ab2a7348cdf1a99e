"""A node's position in one channel with history: in order, without duplicates, and repaired after a gap. Pure.

docs/architecture.md, "Repairing a gap", has the states and the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from roomcast.brokers.interface import Read
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import History, Publication, Resumption, offset_of
from roomcast.node.map_copy import MapCopy
from roomcast.node.recovery import Window
from roomcast.node.waiting import OVERHEAD_BYTES, Waiting, WaitingTotal, size_of

# Until a page was read the sizes are unknown. A slow link still carries eight of the largest messages, 64 KiB each.
_FIRST_PAGE = 8
_TYPICAL_BYTES = 4096
_PAGE_GROWTH = 4
_MAX_FORMER = 8

Events = list[Publication | Resumption]


class Request(NamedTuple):
    """A read for one track.

    target: read up to this offset; None: the position alone. doubt_count, arrival_count: when it was made.
    """

    track: Track
    read: Read
    target: int | None
    doubt_count: int
    arrival_count: int


class Track:
    """The position of a node in one channel with history.

    It is *resolved* while every publication follows the previous one. After a sign of loss live publications wait. The
    missing ones are read from Redis in pages; each page is broadcast at once.

    Methods that return events return those to broadcast, in order; a Resumption marks lost publications.
    """

    __slots__ = (
        "_doubt_count",
        "_epoch",
        "_former",
        "_has_lost",
        "_is_doubted",
        "_offset",
        "_page_limit",
        "_publication_bytes",
        "_top",
        "_waiting",
        "channel",
        "copy",
        "is_map",
        "is_resolved",
        "namespace",
        "on_change",
        "window",
    )

    def __init__(self, channel: str, namespace: Namespace, total: WaitingTotal) -> None:
        self.channel = channel
        self.namespace = namespace
        self.is_map = namespace.map is not None
        self.is_resolved = False  # its first position is unknown
        self.window: Window | None = None
        self.copy: MapCopy | None = None  # of a map, while clients load it
        self.on_change: Callable[[], None] | None = None  # called when a map whose keys expire may have another one
        self._waiting = Waiting(total)
        self._offset = -1
        self._epoch = ""
        self._former: dict[str, int] = {}  # former epochs, and the offset that was broadcast last in each
        self._has_lost = False  # a loss is to be reported
        self._is_doubted = True  # the position in Redis has to be read
        self._doubt_count = 0
        self._top: int | None = None  # read up to this offset: those after it come live
        self._publication_bytes, self._page_limit = _TYPICAL_BYTES, _FIRST_PAGE

    @property
    def position(self) -> Position | None:
        """Return the newest position that was broadcast; None before the first one is known."""
        return Position(self._offset, self._epoch) if self._epoch else None

    @property
    def seen(self) -> Sequence[Position]:
        """Return the positions that prove a loss if Redis has them no more: the last of each run without a gap."""
        last = (Position(self._offset, self._epoch),) if self._epoch else ()
        return (*last, *self._waiting.seen) if self._waiting.newest is not None else last

    @property
    def needs_position(self) -> bool:
        """Return whether the next read is for the position alone."""
        return self._is_doubted or self._target is None

    @property
    def is_behind(self) -> bool:
        """Return whether publications are known to be missing, or wait."""
        return bool(self._waiting) or (self._top is not None and self._top > self._offset)

    @property
    def _target(self) -> int | None:
        """Return the offset up to which publications are missing; None if it is unknown."""
        first = self._waiting.first
        if first is None:
            return self._top
        return first.place if first.epoch == self._epoch else None

    def accept(self, publication: Publication) -> bool:
        """Return whether a live publication is the next one, to be broadcast now: else it is a duplicate, or waits."""
        position = publication.position
        if self.is_resolved:
            if position is None:
                return True
            offset, epoch = position
            if epoch == self._epoch:
                if offset == self._offset + 1:
                    self._offset = offset
                    self._keep(publication)
                    return True
                if offset <= self._offset:
                    return False
            self.is_resolved = False
        self._publication_bytes = max(self._publication_bytes, size_of(publication))
        self._waiting.add(publication, self._waiting.newest or self.position)
        return False

    def doubt(self) -> None:
        """Make live publications wait until the position in Redis is known: some may be missing."""
        self.is_resolved = False
        self._is_doubted = True
        self._top = None
        self._doubt_count += 1

    def disconnect(self) -> None:
        """Doubt, because the connection was lost: publications may be missing between those before and those after it.

        Unplaced messages are dropped: among those that are missing now their place cannot be known any more.
        """
        self.doubt()
        self._waiting.live = None
        self._waiting.drop_unplaced()

    def request(self, max_bytes: int) -> Request:
        """Return the next read; a page of about `max_bytes`, and of one publication at least."""
        target = None if self.needs_position else self._target
        read = Read(self.channel, self.namespace, seen=self.seen)
        if target is not None:
            limit = min(target - self._offset, self._page_limit, max_bytes // self._publication_bytes)
            before = Position(target + 1, self._epoch)
            read = read._replace(since=self.position, before=before, limit=max(1, limit))
        return Request(self, read, target, self._doubt_count, self._waiting.arrival_count)

    def page_bytes(self, request: Request) -> int:
        """Return about how many bytes a request reads."""
        return request.read.limit * self._publication_bytes

    def needs_sync(self, request: Request, history: History) -> bool:
        """Return whether publications that Redis had when it was read may still be on their way to this node.

        Those that come live must not be read as well: a message without a position may come between them. The first
        live one shows that those before it were missed.
        """
        live = self._waiting.live
        return request.target is None and (live is None or live.epoch != history.position.epoch)

    def settle(self, request: Request, history: History) -> Events:
        """Take the position in Redis, once `needs_sync` is false or the node has received all that was published."""
        if request.doubt_count != self._doubt_count:
            return []
        top, epoch = history.position
        is_live = not self.needs_sync(request, history)
        found: Events = []
        has_forgotten = self._forget_ended(epoch, request.arrival_count)
        if not self._epoch:
            # Clients that have subscribed meanwhile receive the publications since then, and no older ones.
            first = self._waiting.first
            self._offset = first.place if first is not None and first.epoch == epoch else top
        elif epoch != self._epoch or has_forgotten:
            if epoch != self._epoch:
                self._enter(epoch, history)
            self._resume(epoch)
        self._epoch = epoch
        self._jump(dict(history.jumps))
        live = self._waiting.live
        # Ahead of a former epoch: Redis has lost its tail, and ends it once it is asked with this position.
        self._is_doubted = self._offset > max(top, live.offset if live is not None and is_live else 0)
        self._top = None if is_live else max(top, self._offset)
        if not self._is_doubted:
            self._release(found)
        return found

    def page(self, request: Request, history: History) -> Events:
        """Continue with a page; the next one begins after it."""
        if request.target is None or request.read.since != self.position:
            return []  # given up meanwhile
        if history.position.epoch != self._epoch:
            self.doubt()
            return []
        found: Events = []
        jumps = dict(history.jumps)
        self._jump(jumps)
        size = 0
        for publication in history.publications:
            offset = offset_of(publication)
            if self._offset < offset <= request.target:
                self._report_lost(offset - 1)
                self._continue_with(publication, found)
                self._jump(jumps)
                size += size_of(publication)
        if found:
            self._publication_bytes = max(OVERHEAD_BYTES, size // len(history.publications))
            self._page_limit = max(_FIRST_PAGE, _PAGE_GROWTH * len(history.publications))
        else:  # Redis has none of them any more
            self._report_lost(request.target)
        if not self._is_doubted:
            self._release(found)
        return found

    def shrink_page(self, request: Request) -> None:
        """Read less at once, after a page that could not be read in time."""
        self._page_limit = max(1, min(self._page_limit, request.read.limit) // _PAGE_GROWTH)

    def give_up(self) -> Events:
        """Continue with everything that waits, and report the publications that are missing before it as lost."""
        waiting = self._waiting
        found: Events = []
        self._doubt_count += 1
        if not self._epoch:  # no client is subscribed yet
            waiting.clear()
            if waiting.live is None:
                return found
            self._offset, self._epoch = waiting.live
        while (first := waiting.first) is not None:
            if first.epoch != self._epoch:
                self._former[self._epoch] = self._offset
                self._offset = max(first.place, self._former.pop(first.epoch, 0))
                self._resume(first.epoch)
                self._top = None  # it was of the epoch before
            self._report_lost(first.place)
            self._take(found)
        if self._top is not None:
            self._report_lost(self._top)
        if self._top is not None or waiting.live is not None:
            self._resolve(found)
        waiting.drop_unplaced()  # if the position in Redis is still unknown
        return found

    def discard(self) -> None:
        """Drop everything that waits."""
        self._waiting.clear()

    def _release(self, found: Events) -> None:
        """Continue with those that wait, up to the next gap."""
        while (first := self._waiting.first) and first.epoch == self._epoch and first.place <= self._offset:
            self._take(found)
        if first is None and (self._top is None or self._offset >= self._top):
            self._resolve(found)

    def _resolve(self, found: Events) -> None:
        self._announce(found)
        found += self._waiting.pop_unplaced()
        self._waiting.live = self._top = None
        self.is_resolved = True
        self._is_doubted = False
        self._publication_bytes, self._page_limit = _TYPICAL_BYTES, _FIRST_PAGE
        if self.on_change is not None:
            self.on_change()  # a key may have been written meanwhile that was not received

    def _take(self, found: Events) -> None:
        """Continue with the first one that waits, unless it is a duplicate."""
        held = self._waiting.pop()
        if held.publication.position is None:
            self._announce(found)
            found.append(held.publication)
        elif held.place == self._offset:
            self._continue_with(held.publication, found)

    def _forget_ended(self, epoch: str, arrival_count: int) -> bool:
        """Forget publications of other epochs that had arrived before Redis was asked: those epochs have ended."""
        has_forgotten = False
        while (first := self._waiting.first) and first.epoch != epoch and first.number <= arrival_count:
            has_forgotten |= self._waiting.drop().position is not None
        return has_forgotten

    def _enter(self, epoch: str, history: History) -> None:
        """Continue in another epoch where this node has left its data: only later entries are new here.

        Two masters of a split cluster may answer in turn, so the data can be that of an epoch before this one.
        """
        self._former[self._epoch] = self._offset
        known = [self._former[name] for name in (*history.former, epoch) if name in self._former]
        # An epoch of other data restarts at zero: all of its entries are new.
        last = known[-1] if known else self._offset
        self._offset = last if epoch in self._former else min(history.base, last)
        self._former.pop(epoch, None)
        while len(self._former) > _MAX_FORMER:
            del self._former[next(iter(self._former))]

    def _continue_with(self, publication: Publication, found: Events) -> None:
        self._announce(found)
        self._offset = offset_of(publication)
        found.append(publication)
        self._keep(publication)

    def _keep(self, publication: Publication) -> None:
        if self.window is not None:
            self.window.append(publication)
        if self.is_map:
            if self.copy is not None:
                self.copy.apply(publication)
            if self.on_change is not None:
                self.on_change()

    def _jump(self, jumps: Mapping[int, int]) -> None:
        while self._offset in jumps:
            self._offset = jumps[self._offset]
            self.window = None  # it knows only the jumps before
            if self.copy is not None:
                self.copy.position = Position(self._offset, self._epoch)

    def _report_lost(self, offset: int) -> None:
        """Report as lost the missing publications up to an offset."""
        if offset > self._offset:
            self._offset = offset
            self._resume(self._epoch)

    def _resume(self, epoch: str) -> None:
        """Report that publications were lost before the next one that is broadcast."""
        self._epoch = epoch
        self.window = self.copy = None
        self._has_lost = True

    def _announce(self, found: Events) -> None:
        if self._has_lost:
            self._has_lost = False
            found.append(Resumption(self.channel, self.position, is_recovered=False))
