"""A node's copy of a map while clients load it: whole and in step with the node's position. Pure.

A page is read from Redis once, and for all clients. Whatever changes while a client loads page after page is known
here, so that the client goes live with the last change of each key since its first page, in every mode of maps.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Iterable

from roomcast.brokers.map_interface import MapPage
from roomcast.model.maps import Change
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, offset_of

# Of keys whose last change is remembered for clients that are loading.
_MAX_CHANGES = 20_000


class MapCopy:
    """A copy of one map; `position` is that of the last change which it has.

    It is filled by pages of Redis, which may be older or newer than the changes that come live: of each key the write
    with the highest offset counts. Offsets never restart as long as the copy lives.

    needed_until_s: clients that load it have time until then, as of the tracker's clock. cache: what encodings make of
        its entries, by their names; emptied by each change.
    """

    __slots__ = ("_changes", "_encoded", "_entries", "_floor", "_keys", "cache", "needed_until_s", "position")

    def __init__(self, position: Position, *, needed_until_s: float) -> None:
        self.position = position
        self.needed_until_s = needed_until_s
        self.cache: dict[Hashable, object] = {}
        self._encoded: dict[Hashable, dict[int, bytes]] = {}  # entries by encoding and offset
        self._entries: dict[str, Publication] = {}
        self._keys: list[str] = []  # sorted; code points sort as UTF-8 does, and so as Redis does
        self._changes: dict[str, Publication] = {}  # the last change of each key, in the order of the offsets
        self._floor = position.offset  # the changes after it are known

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str) -> Publication | None:
        """Return the last write of a key; None if it is absent."""
        return self._entries.get(key)

    def entries(self) -> dict[str, Publication]:
        """Return the last write of each key, by key; not to be changed."""
        return self._entries

    def fill(self, page: MapPage) -> bool:
        """Add a page that was read from Redis; return false if changes since then are forgotten."""
        if page.position.offset < self._floor:
            return False
        for entry in page.entries:
            key = _change(entry).key
            known = self._changes.get(key)
            if known is None or offset_of(known) < offset_of(entry):
                self._set(key, entry)
        return True

    def encoded(
        self, entries: Iterable[Publication], name: Hashable, encode: Callable[[Publication], bytes]
    ) -> list[bytes]:
        """Return each entry as `encode` makes it: once for all callers with this name, until it is written again."""
        known = self._encoded.setdefault(name, {})
        if len(known) > 2 * len(self._keys):  # most are of old values
            known.clear()
        found = []
        for entry in entries:
            offset = offset_of(entry)
            text = known.get(offset)
            if text is None:
                text = known[offset] = encode(entry)
            found.append(text)
        return found

    def apply(self, publication: Publication) -> None:
        """Apply the next change."""
        assert publication.position is not None  # noqa: S101  (for the type checker)
        self.position = publication.position
        change = publication.change
        if change is None:  # another program has written into the history
            return
        if self.cache:
            self.cache.clear()
        if change.is_removed:
            if self._entries.pop(change.key, None) is not None:
                del self._keys[bisect_right(self._keys, change.key) - 1]
        else:
            self._set(change.key, publication)
        self._changes.pop(change.key, None)
        self._changes[change.key] = publication
        if len(self._changes) > _MAX_CHANGES:
            self._floor = offset_of(self._changes.pop(next(iter(self._changes))))

    def page(self, after: str, length: int, *, up_to: int, max_bytes: int) -> tuple[list[Publication], str]:
        """Return the next entries of a client's load, and the key after which the next page begins; "" after the last.

        Args:
            up_to: the offset of the client's first page: what was written later comes with `changes`.
            max_bytes: of data; at least one entry is returned.
        """
        found: list[Publication] = []
        size_bytes = 0
        start = bisect_right(self._keys, after) if after else 0
        for index in range(start, len(self._keys)):
            entry = self._entries[self._keys[index]]
            if offset_of(entry) > up_to:
                continue
            size_bytes += len(entry.data)
            if found and (len(found) == length or size_bytes > max_bytes):
                return found, _change(found[-1]).key
            found.append(entry)
        return found, ""

    def changes(self, since: int) -> list[Publication] | None:
        """Return the last change of each key after an offset, in their order; None if older ones are forgotten."""
        if since < self._floor:
            return None
        found = []
        for publication in reversed(self._changes.values()):
            if offset_of(publication) <= since:
                break
            found.append(publication)
        return found[::-1]

    def _set(self, key: str, publication: Publication) -> None:
        if key not in self._entries:
            insort(self._keys, key)
        self._entries[key] = publication


def _change(publication: Publication) -> Change:
    assert publication.change is not None  # noqa: S101  (for the type checker)
    return publication.change
