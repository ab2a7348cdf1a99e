"""Whether the promise was kept: each subscriber's log against what was acknowledged and what Redis keeps. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.journal import Acknowledged, Heard, Line, Log, Name, Place, Told

LOST = "lost"  # acknowledged, and neither heard nor announced as lost
SILENT = "silent losses"  # a log goes on behind a gap, and nothing has said so
DOUBLED = "doubled"  # heard twice in one numbering
DISORDERED = "disordered"  # heard in another order than published, or than others heard it
NEEDLESS = "needless announcements"  # told that something is lost which was there to be had
ZEROS = (LOST, DOUBLED, DISORDERED, SILENT, NEEDLESS)

FAILOVER = "a failover lost the tail"
AWAY = "away longer than the window"

_SHOWN_LINES = 4

# Takes the kind of an offence, what it is, and the index of its line.
_Offend = Callable[[str, str, int], None]


class Offence(NamedTuple):
    """One broken promise. evidence: the lines of the log around it."""

    kind: str
    subscriber: str
    what: str
    evidence: Sequence[Line] = ()


@dataclass(slots=True)
class Verdict:
    """What the logs show. announced: losses that a subscriber was told of, by cause."""

    offences: list[Offence] = field(default_factory=list)
    announced: Counter[str] = field(default_factory=Counter)
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
    """An announced loss: nothing after `before` and up to `after` need have been heard."""

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
    """Return what is wrong with the logs.

    Args:
        acknowledged: by room. streams: what Redis has at the end, by room: whose each entry is, and its digest.
        window_size: how many publications a client that comes back may get.
        may_lose_tail: a failover may take publications with it that were acknowledged.
    """
    verdict = Verdict()
    for log in logs:
        room_acknowledged = acknowledged.get(log.room, ())
        _check_log(verdict, log, room_acknowledged, window_size=window_size, may_lose_tail=may_lose_tail)
    for room in sorted({log.room for log in logs}):
        of_room = [log for log in logs if log.room == room]
        _check_agreement(verdict, of_room, streams.get(room, {}))
    _check_streams(verdict, acknowledged, streams, may_lose_tail=may_lose_tail)
    return verdict


def _check_log(
    verdict: Verdict, log: Log, acknowledged: Iterable[Acknowledged], *, window_size: int, may_lose_tail: bool
) -> None:
    heard: dict[Name, Place] = {}
    gaps: list[_Gap] = []
    at: Place | None = None

    def offend(kind: str, what: str, index: int) -> None:
        evidence = log.lines[max(0, index - _SHOWN_LINES) : index + 2]
        verdict.offences.append(Offence(kind, log.subscriber, what, evidence))

    for index, line in enumerate(log.lines):
        if at is None:
            if isinstance(line, Heard):
                offend(SILENT, "a publication came before the place was told", index)
        elif isinstance(line, Told):
            if not line.is_recovered:
                cause = _cause(at, line.place, window_size=window_size, may_lose_tail=may_lose_tail)
                if cause is None:
                    offend(NEEDLESS, f"from {at} to {line.place}", index)
                else:
                    verdict.announced[cause] += 1
                gaps.append(_Gap(at, line.place))
            elif line.place != at:
                offend(SILENT, f"recovered at {line.place}, but the log ends at {at}", index)
        elif line.place.epoch != at.epoch:
            offend(SILENT, f"the epoch changed from {at} to {line.place}, and nothing said so", index)
        elif line.place.offset > at.offset + 1:
            offend(SILENT, f"{line.place.offset - at.offset - 1} missing between {at} and {line.place}", index)
        elif line.place.offset <= at.offset:
            kind = DOUBLED if line.name in heard else DISORDERED
            offend(kind, f"{line.place} came after {at}", index)
        if isinstance(line, Heard):
            verdict.delivery_count += 1
            before = heard.get(line.name)
            # What a failover has lost its publisher may publish again: in another epoch it is another publication.
            if before is not None and before.epoch == line.place.epoch and line.place.offset > (at or before).offset:
                offend(DOUBLED, f"{line.name} came at {before} and at {line.place}", index)
            heard.setdefault(line.name, line.place)
        at = line.place

    _check_publishers(log, offend)
    if not log.lines:
        verdict.offences.append(Offence(LOST, log.subscriber, "nothing was heard at all"))
        return
    missing = [
        (name, place)
        for name, place in acknowledged
        if name not in heard and not _is_before(place, log.lines[0].place) and not any(g.covers(place) for g in gaps)
    ]
    for name, place in missing:
        around = min(range(len(log.lines)), key=lambda index: _distance(log.lines[index].place, place))
        offend(LOST, f"{name} was acknowledged at {place}", around)


def _check_publishers(log: Log, offend: _Offend) -> None:
    """Check that each publisher's publications came in the order of publishing, within each epoch."""
    newest: dict[tuple[str, str], int] = {}
    for index, line in enumerate(log.lines):
        if isinstance(line, Heard):
            key = (line.place.epoch, line.name.publisher)
            if line.name.number < newest.get(key, -1):
                offend(DISORDERED, f"{line.name} came after number {newest[key]}", index)
            newest[key] = max(line.name.number, newest.get(key, -1))


def _check_agreement(verdict: Verdict, logs: Sequence[Log], stream: Mapping[Place, tuple[Name, int]]) -> None:
    """Check that at one place everybody heard the same, and that it is what Redis keeps there."""
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
    """Check that Redis has what it has acknowledged, once."""
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


def _cause(at: Place, after: Place, *, window_size: int, may_lose_tail: bool) -> str | None:
    """Return why a loss may have been announced, or None if nothing was lost."""
    if at.epoch != after.epoch:
        return FAILOVER if may_lose_tail else None
    if after.offset - at.offset > window_size:
        return AWAY
    return FAILOVER if may_lose_tail and after.offset < at.offset else None


def _is_before(place: Place, start: Place) -> bool:
    return place.epoch == start.epoch and place.offset <= start.offset


def _distance(one: Place, other: Place) -> float:
    return abs(one.offset - other.offset) if one.epoch == other.epoch else float("inf")
