"""Checks the delivery guarantees: each subscriber's log against the acknowledged publications and Redis. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.journal import Acknowledged, Heard, Line, Log, Name, Place, Told

LOST = "lost"  # acknowledged, and neither received nor announced as lost
SILENT = "silent losses"  # a log continues after a gap that was not announced
DOUBLED = "doubled"  # received twice in one epoch
DISORDERED = "disordered"  # received in another order than published, or than by others
NEEDLESS = "needless announcements"  # a loss was announced, but the publications were available
ZEROS = (LOST, DOUBLED, DISORDERED, SILENT, NEEDLESS)

FAILOVER = "Redis lost the tail"
AWAY = "away longer than the window"

_SHOWN_LINES = 4


class Offence(NamedTuple):
    """One broken promise. evidence: the lines of the log around it, or their texts."""

    kind: str
    subscriber: str
    what: str
    evidence: Sequence[Line | str] = ()


@dataclass(slots=True)
class Verdict:
    """The result of a check.

    announced: losses that subscribers were notified of, by cause. republished: lost in a failover and published again.
    """

    offences: list[Offence] = field(default_factory=list)
    announced: Counter[str] = field(default_factory=Counter)
    republished: set[Name] = field(default_factory=set)
    delivery_count: int = 0

    def counts(self) -> dict[str, int]:
        """Return how often each promise was broken."""
        found = Counter(offence.kind for offence in self.offences)
        return {kind: found[kind] for kind in ZEROS}

    @property
    def is_good(self) -> bool:
        """Return whether every promise was kept."""
        return not self.offences


class _Gap(NamedTuple):
    """An announced loss: publications after `before` and up to `after` may be missing."""

    before: Place
    after: Place

    def covers(self, place: Place) -> bool:
        if self.before.epoch == self.after.epoch:
            return place.epoch == self.before.epoch and self.before.offset < place.offset <= self.after.offset
        if place.epoch == self.before.epoch:
            return place.offset > self.before.offset
        # An epoch between the two is one in which the subscriber never was.
        return place.epoch != self.after.epoch or place.offset <= self.after.offset


def check(
    logs: Sequence[Log],
    acknowledged: Mapping[str, Sequence[Acknowledged]],
    streams: Mapping[str, Mapping[Place, tuple[Name, int]]],
    *,
    window_size: int,
    may_lose_tail: bool,
) -> Verdict:
    """Return the offences in the logs.

    Args:
        acknowledged: by room. streams: the entries in Redis at the end, by room, each with its name and digest.
        window_size: how many publications a reconnecting client may recover.
        may_lose_tail: acknowledged publications may be lost, by a failover or by older data.
    """
    verdict = Verdict()
    published = _published(logs, acknowledged, streams)
    for log in logs:
        reading = _Reading(
            verdict,
            log,
            dict(acknowledged.get(log.room, ())),
            kept=streams.get(log.room, {}).keys(),
            published=published[log.room],
            window_size=window_size,
            may_lose_tail=may_lose_tail,
        )
        reading.read()
        reading.look_for_lost()
    for room in sorted({log.room for log in logs}):
        of_room = [log for log in logs if log.room == room]
        _check_agreement(verdict, of_room, streams.get(room, {}))
    _check_streams(verdict, acknowledged, streams, may_lose_tail=may_lose_tail)
    return verdict


class _Reading:
    """Reads one log from its first line to its last."""

    def __init__(
        self,
        verdict: Verdict,
        log: Log,
        acknowledged: Mapping[Name, Place],
        *,
        kept: Set[Place],
        published: Set[Place],
        window_size: int,
        may_lose_tail: bool,
    ) -> None:
        self._kept = kept
        self._published = published
        self._verdict = verdict
        self._log = log
        self._acknowledged = acknowledged
        self._window_size = window_size
        self._may_lose_tail = may_lose_tail
        self._heard: dict[Name, Place] = {}
        self._newest: dict[tuple[str, str], int] = {}  # number by epoch and publisher
        self._gaps: list[_Gap] = []
        self._at: Place | None = None

    def read(self) -> None:
        """Check each line against the one before."""
        for index, line in enumerate(self._log.lines):
            if isinstance(line, Told):
                self._take_told(line, index)
            else:
                self._take_heard(line, index)
            self._at = line.place

    def look_for_lost(self) -> None:
        """Check that each acknowledged publication was received, or announced as lost."""
        lines = self._log.lines
        if not lines:
            self._verdict.offences.append(Offence(LOST, self._log.subscriber, "nothing was heard at all"))
            return
        for name, place in self._acknowledged.items():
            is_known = name in self._heard or _is_before(place, lines[0].place)
            if not is_known and not any(gap.covers(place) for gap in self._gaps):
                nearest = min(range(len(lines)), key=lambda index: _distance(lines[index].place, place))
                self._offend(LOST, f"{name} was acknowledged at {place}", nearest)

    def _take_told(self, line: Told, index: int) -> None:
        at = self._at
        if at is None:
            return
        if line.is_recovered:
            if line.place != at:
                self._offend(SILENT, f"recovered at {line.place}, but the log ends at {at}", index)
            return
        cause = self._cause(at, line.place)
        if cause is None:
            self._offend(NEEDLESS, f"from {at} to {line.place}", index)
        else:
            self._verdict.announced[cause] += 1
        self._gaps.append(_Gap(at, line.place))

    def _take_heard(self, line: Heard, index: int) -> None:
        self._verdict.delivery_count += 1
        at, place, name = self._at, line.place, line.name
        before = self._heard.get(name)
        self._heard.setdefault(name, place)
        # A publisher may publish again after a failover lost a publication: in another epoch it is another one.
        if before is not None and before.epoch == place.epoch:
            self._offend(DOUBLED, f"{name} came at {before} and at {place}", index)
            return
        if at is None:
            self._offend(SILENT, "a publication came before the place was told", index)
        elif place.epoch != at.epoch:
            self._offend(SILENT, f"the epoch changed from {at} to {place}, and nothing said so", index)
        elif place.offset > at.offset + 1 and self._missed(at, Place(place.epoch, place.offset - 1)):
            self._offend(SILENT, f"{place.offset - at.offset - 1} missing between {at} and {place}", index)
        elif place.offset <= at.offset:
            self._offend(DISORDERED, f"{place} came after {at}", index)
        if self._may_lose_tail and self._acknowledged.get(name, place) != place:
            # Lost with its idempotency key after it was acknowledged: an older attempt, delayed in a frozen node, has
            # published it again, perhaps after later ones of its publisher.
            self._verdict.republished.add(name)
            return
        key = (place.epoch, name.publisher)
        newest = self._newest.get(key, 0)
        if newest > name.number:
            self._offend(DISORDERED, f"{name} came after number {newest}", index)
        self._newest[key] = max(newest, name.number)

    def _missed(self, before: Place, after: Place) -> Set[Place]:
        """Return the places from `before` to `after`, in one epoch, that a publication had."""
        offsets = range(before.offset + 1, after.offset + 1)
        return {place for place in self._published if place.epoch == after.epoch and place.offset in offsets}

    def _cause(self, at: Place, after: Place) -> str | None:
        """Return why a loss may have been announced, or None if nothing was lost."""
        if at.epoch == after.epoch and at.offset <= after.offset:
            missed = self._missed(at, after)
            if len(missed) > self._window_size:
                return AWAY
            if len(missed) == after.offset - at.offset and self._kept >= missed:
                return None
        return FAILOVER if self._may_lose_tail else None

    def _offend(self, kind: str, what: str, index: int) -> None:
        evidence = self._log.lines[max(0, index - _SHOWN_LINES) : index + 2]
        self._verdict.offences.append(Offence(kind, self._log.subscriber, what, evidence))


def _check_agreement(verdict: Verdict, logs: Sequence[Log], stream: Mapping[Place, tuple[Name, int]]) -> None:
    """Check that all subscribers received the same publication at each place, and the one in Redis."""
    known: dict[Place, tuple[Name, int]] = dict(stream)
    for log in logs:
        for line in log.lines:
            if isinstance(line, Heard):
                first = known.setdefault(line.place, (line.name, line.digest))
                if first != (line.name, line.digest):
                    what = f"at {line.place} others have {first[0]}"
                    verdict.offences.append(Offence(DISORDERED, log.subscriber, what, [line]))


def _check_streams(
    verdict: Verdict,
    acknowledged: Mapping[str, Sequence[Acknowledged]],
    streams: Mapping[str, Mapping[Place, tuple[Name, int]]],
    *,
    may_lose_tail: bool,
) -> None:
    """Check that Redis has each acknowledged publication once."""
    for room, stream in streams.items():
        places: defaultdict[Name, list[Place]] = defaultdict(list)
        for place, (name, _) in stream.items():
            places[name].append(place)
        for name, found in places.items():
            if len(found) > 1 and not may_lose_tail:
                verdict.offences.append(Offence(DOUBLED, f"the stream of {room}", f"{name} is kept at {found}"))
        for name, place in acknowledged.get(room, ()):
            if place not in places[name] and not may_lose_tail:
                what = f"{name} was acknowledged at {place}, is kept at {places[name]}"
                verdict.offences.append(Offence(LOST, f"the stream of {room}", what))


def _published(
    logs: Sequence[Log],
    acknowledged: Mapping[str, Sequence[Acknowledged]],
    streams: Mapping[str, Mapping[Place, tuple[Name, int]]],
) -> Mapping[str, Set[Place]]:
    """Return all places that are known to have had a publication, by room."""
    places: defaultdict[str, set[Place]] = defaultdict(set)
    for log in logs:
        places[log.room].update(line.place for line in log.lines if isinstance(line, Heard))
    for room, known in acknowledged.items():
        places[room].update(each.place for each in known)
    for room, stream in streams.items():
        places[room].update(stream)
    return places


def _is_before(place: Place, start: Place) -> bool:
    return place.epoch == start.epoch and place.offset <= start.offset


def _distance(one: Place, other: Place) -> float:
    return abs(one.offset - other.offset) if one.epoch == other.epoch else float("inf")
