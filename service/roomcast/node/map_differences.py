"""Differences between the values of a map's keys: which subscriber has which value. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from roomcast.connections.connection import Connection
from roomcast.connections.encoding import Encoding
from roomcast.model.publications import Event, Publication


class Bases(NamedTuple):
    """The values that a client has when it goes live, by key. is_whole: it has all values of the map."""

    entries: Mapping[str, Publication]
    is_whole: bool


class Step(NamedTuple):
    """One event as frames.

    key: of a change; "" of other events. whole: for all clients; difference: for those with the value before of the
        key, the whole frame if it has none.
    """

    key: str
    whole: bytes
    difference: bytes


class MapDifferences:
    """The last written value of each key, and the clients that have them, of one channel with subscribers that get
    differences.
    """

    __slots__ = ("_is_whole", "_known", "_values")

    def __init__(self) -> None:
        self._values: dict[str, Publication] = {}
        self._is_whole = False  # all values of the map are known
        # The keys whose values a client has; None: of all that are known here.
        self._known: dict[Connection, set[str] | None] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, connection: Connection, bases: Bases, pending: Iterable[Event]) -> None:
        """Add a client that has these values, and gets the events that wait for the next flush."""
        if bases.is_whole and self._is_whole:
            self._known[connection] = None
            return
        changing = {event.change.key for event in pending if type(event) is Publication and event.change is not None}
        added = {
            key: entry
            for key, entry in bases.entries.items()
            if key not in changing and entry.change is not None and not entry.change.is_removed
        }
        if bases.is_whole:
            self._known[connection] = None
            self._is_whole = True
            # Those that are here already are the last written ones.
            self._values = {**added, **self._values}
        else:
            self._known[connection] = set(added)
            self._values.update(added)

    def discard(self, connection: Connection) -> None:
        """Remove a client."""
        self._known.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """Send a client whole values, because it may miss some: of each key until it has one."""
        self._known[connection] = set()

    def steps(self, encoding: Encoding, pending: Iterable[Event]) -> list[Step]:
        """Return events encoded, without those that the encoding cannot express."""
        assert encoding.difference is not None  # noqa: S101  (for the type checker)
        written: dict[str, Publication | None] = {}
        found = []
        for event in pending:
            whole = encoding.encode(event)
            if not whole:
                continue
            difference, key = None, ""
            if type(event) is Publication and event.change is not None:
                key = event.change.key
                before = written[key] if key in written else self._values.get(key)
                if before is not None:
                    difference = encoding.difference(before, event)
                written[key] = None if event.change.is_removed else event
            found.append(Step(key, whole, difference or whole))
        return found

    def frames(self, connection: Connection, steps: Sequence[Step], newest: bytes) -> bytes:
        """Return the frames of a client that misses none of them; `newest`: of all differences."""
        known = self._known.get(connection)
        if known is None:
            return newest
        frames = []
        for step in steps:
            frames.append(step.difference if step.key in known else step.whole)
            known.add(step.key)  # also of a removal: the next value of its key is whole for all
        return b"".join(frames)

    def written(self, pending: Iterable[Event]) -> None:
        """Note that events were written."""
        for event in pending:
            if type(event) is Publication and event.change is not None:
                if event.change.is_removed:
                    self._values.pop(event.change.key, None)
                else:
                    self._values[event.change.key] = event
