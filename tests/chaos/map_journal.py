"""The logs of map writers and map subscribers during a chaos run, and what Redis holds of a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.journal import Place

Entries = Mapping[str, str]


class Paged(NamedTuple):
    """A subscriber received a page of a map; more follow before it is live."""

    entry_count: int


class Loaded(NamedTuple):
    """A subscriber has the whole map. place: None in an ephemeral map."""

    place: Place | None
    entries: Entries


class Recovered(NamedTuple):
    """A subscriber continues from its place; the changes since follow."""

    place: Place


class Changed(NamedTuple):
    """A subscriber received a change. value: None if the key was removed; place: None in an ephemeral map."""

    place: Place | None
    key: str
    value: str | None


class Invalidated(NamedTuple):
    """A subscriber was asked to load the map again, or to recover."""

    reason: str


MapEvent = Paged | Loaded | Recovered | Changed | Invalidated


class Note(NamedTuple):
    """A live subscriber's copy at some moment. after: the number of its events until then."""

    after: int
    place: Place
    entries: Entries


@dataclass(slots=True)
class MapLog:
    """All events of one subscriber, in their order, and notes of its copy."""

    subscriber: str
    channel: str
    events: list[MapEvent] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def count(self, kind: type[MapEvent]) -> int:
        """Return the number of events of a kind."""
        return sum(isinstance(event, kind) for event in self.events)


class Write(NamedTuple):
    """An acknowledged write. value: None if it removed the key; place: of the map when it was made.

    sent_s: of the first attempt; it was made once, before acknowledged_s.
    is_idle: it changed nothing.
    """

    channel: str
    key: str
    value: str | None
    place: Place
    sent_s: float
    acknowledged_s: float
    is_idle: bool = False


class Change(NamedTuple):
    """An entry of a map's stream in Redis."""

    offset: int
    key: str
    value: str | None


class Kept(NamedTuple):
    """A map in Redis. epoch: the one at that moment. stream: all changes, none of an ephemeral map."""

    channel: str
    epoch: str
    offset: int
    entries: Entries
    stream: Sequence[Change] = ()


class Stop(NamedTuple):
    """Nothing was broken or written for a while: each subscriber's copy beside the map in Redis, which was read last.

    copies: by subscriber; None: it was not live. afters: the number of its events until then.
    """

    at_s: float
    kept: Kept
    copies: Mapping[str, Entries | None]
    afters: Mapping[str, int]
    may_have_lost_data: bool

    @property
    def is_equal(self) -> bool:
        """Return whether each copy is the map."""
        return all(copy == self.kept.entries for copy in self.copies.values())
