"""Checks the guarantees of maps: each subscriber's copies against the map that Redis holds. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.checker import Offence
from tests.chaos.map_journal import Change, Changed, Entries, Kept, Loaded, MapEvent, MapLog, Note, Stop, Write

DIFFERENT = "map differences"  # a live copy is not the map of Redis at its position
LOST_WRITE = "lost map writes"  # the last acknowledged write of a key is not what the map has
ZEROS = (DIFFERENT, LOST_WRITE)

_SHOWN_EVENTS = 5
_SHOWN_KEYS = 3


@dataclass(slots=True)
class MapVerdict:
    """The result of a check. notes: compared with the stream; stops: copies compared with the map."""

    offences: list[Offence] = field(default_factory=list)
    note_count: int = 0
    copy_count: int = 0

    def counts(self) -> dict[str, int]:
        """Return how often each promise was broken."""
        found = Counter(offence.kind for offence in self.offences)
        return {kind: found[kind] for kind in ZEROS}

    @property
    def is_good(self) -> bool:
        """Return whether every promise was kept."""
        return not self.offences


def check_maps(
    logs: Sequence[MapLog],
    writes: Sequence[Write],
    stops: Sequence[Stop],
    streams: Sequence[Kept],
    *,
    key_ttls_s: Mapping[str, float],
) -> MapVerdict:
    """Return the offences of maps.

    Args:
        stops, streams: in their order; a stream as it was at the last stop of its epoch.
        key_ttls_s: by channel; 0: keys do not expire.
    """
    verdict = MapVerdict()
    by_name = {log.subscriber: log for log in logs}
    for stop in stops:
        _check_copies(verdict, stop, by_name)
        if not stop.may_have_lost_data:
            _check_writes(verdict, stop, writes, key_ttl_s=key_ttls_s[stop.kept.channel])
    for kept in streams:
        _check_kept(verdict, kept)
        for log in logs:
            if log.channel == kept.channel:
                _check_notes(verdict, log, kept)
    for kept in {kept.channel: kept for kept in streams}.values():  # the last ones
        if not any(stop.may_have_lost_data for stop in stops):
            _check_stream(verdict, kept, [write for write in writes if write.channel == kept.channel])
    return verdict


def _check_copies(verdict: MapVerdict, stop: Stop, logs: Mapping[str, MapLog]) -> None:
    """Check that each subscriber has the map of Redis."""
    for subscriber, copy in stop.copies.items():
        verdict.copy_count += 1
        events = _events_before(logs[subscriber], stop, _different_keys(stop.kept.entries, copy or {}))
        if copy is None:
            verdict.offences.append(Offence(DIFFERENT, subscriber, "is not live at a stop", events))
        elif copy != stop.kept.entries:
            what = f"at a stop, offset {stop.kept.offset}: {_difference(stop.kept.entries, copy)}"
            verdict.offences.append(Offence(DIFFERENT, subscriber, what, events))


def _events_before(log: MapLog, stop: Stop, keys: Sequence[str]) -> list[str]:
    """Return the last events before a stop, and among them those of a key."""
    events = log.events[: stop.afters[log.subscriber]]
    of_key = [event for event in events if isinstance(event, Changed) and event.key in keys[:1]]
    return [f"of the key: {_short(event)}" for event in of_key[-2:]] + [*map(_short, events[-_SHOWN_EVENTS:])]


def _check_notes(verdict: MapVerdict, log: MapLog, kept: Kept) -> None:
    """Check that each copy that was noted in this epoch is the map at its place."""
    entries: dict[str, str] = {}
    changes = iter(kept.stream)
    following = next(changes, None)
    for note in sorted(log.notes, key=lambda note: note.place.offset):
        if note.place.epoch != kept.epoch or note.place.offset > kept.offset:
            continue
        while following is not None and following.offset <= note.place.offset:
            _apply(entries, following)
            following = next(changes, None)
        verdict.note_count += 1
        if entries != note.entries:
            verdict.offences.append(_offence_of(note, log, entries, kept))


def _offence_of(note: Note, log: MapLog, expected: Entries, kept: Kept) -> Offence:
    keys = _different_keys(expected, note.entries)
    nearest = sorted(
        (change for change in kept.stream if change.key == keys[0]),
        key=lambda change: abs(change.offset - note.place.offset),
    )[:_SHOWN_EVENTS]
    evidence = [
        *map(_short, log.events[max(0, note.after - _SHOWN_EVENTS) : note.after + 2]),
        *(f"in the stream: {_short(change)}" for change in sorted(nearest)),
    ]
    what = f"event {note.after}, noted at {note.place}: {_difference(expected, note.entries)}"
    return Offence(DIFFERENT, log.subscriber, what, evidence)


def _check_kept(verdict: MapVerdict, kept: Kept) -> None:
    """Check that the map in Redis is what its stream makes of it."""
    entries: dict[str, str] = {}
    for change in kept.stream:
        _apply(entries, change)
    if entries != kept.entries:
        what = f"the stream does not lead to the map: {_difference(entries, kept.entries)}"
        verdict.offences.append(Offence(DIFFERENT, f"{kept.channel} in Redis", what))


def _check_stream(verdict: MapVerdict, kept: Kept, writes: Iterable[Write]) -> None:
    """Check that each acknowledged write is in the stream, where it was acknowledged."""
    changes = {change.offset: change for change in kept.stream}
    for write in writes:
        change = changes.get(write.place.offset)
        if write.is_idle or (change is not None and (change.key, change.value) == (write.key, write.value)):
            continue
        what = f"{_short(write)} was acknowledged, the stream has {change and _short(change)}"
        verdict.offences.append(Offence(LOST_WRITE, f"{kept.channel} in Redis", what))


def _check_writes(verdict: MapVerdict, stop: Stop, writes: Iterable[Write], *, key_ttl_s: float) -> None:
    """Check that the map has the last acknowledged write of each key, unless that has expired."""
    by_key: defaultdict[str, list[Write]] = defaultdict(list)
    for write in writes:
        if write.channel == stop.kept.channel and write.acknowledged_s <= stop.at_s:
            by_key[write.key].append(write)
    for key, found in by_key.items():
        newest_s = max(write.sent_s for write in found)
        last = [write for write in found if write.acknowledged_s >= newest_s]  # one of them was made last
        possible = {write.value for write in last}
        if key_ttl_s and any(write.sent_s + key_ttl_s <= stop.at_s for write in last):
            possible.add(None)
        if stop.kept.entries.get(key) not in possible:
            what = f"at a stop, offset {stop.kept.offset}: {key} is {stop.kept.entries.get(key)}, not {possible}"
            verdict.offences.append(Offence(LOST_WRITE, f"{stop.kept.channel} in Redis", what, [*map(_short, last)]))


def _apply(entries: dict[str, str], change: Change) -> None:
    if change.value is None:
        entries.pop(change.key, None)
    else:
        entries[change.key] = change.value


def _different_keys(expected: Entries, found: Entries) -> list[str]:
    return sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))


def _difference(expected: Entries, found: Entries) -> str:
    keys = _different_keys(expected, found)
    shown = [f"{key} is {found.get(key)}, expected {expected.get(key)}" for key in keys[:_SHOWN_KEYS]]
    return f"{len(keys)} keys differ: {'; '.join(shown)}"


def _short(event: MapEvent | Change | Write) -> str:
    return f"loaded {len(event.entries)} keys at {event.place}" if isinstance(event, Loaded) else str(event)
