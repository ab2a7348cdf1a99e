"""A node's copy of a map while clients load it: whole and in step with the node's position. Pure.

A page is read from Redis once, and for all clients. Whatever changes while a client loads page after page is known
here, so that the client goes live with the last change of each key since its first page, in every mode of maps.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Hashable
from typing import NamedTuple

from roomcast.brokers.map_interface import MapPage
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, change_of, offset_of, size_in_reply

# Of keys whose last change is remembered for clients that are loading.
_MAX_CHANGES = 20_000
# A load starts at most so many changes before the newest, and one for so many keys: it gets them after the pages. Small
# maps are encoded soon enough, and every entry comes once.
_MAX_SHARED_CHANGES = 100
_KEYS_A_CHANGE = 10
# Of a start: clients choose their lengths.
_MAX_PAGES = 256


class EncodedPage(NamedTuple):
    """Entries in a client's encoding. cursor: the last key, if more follow; "" after the last page."""

    entries: bytes
    cursor: str


class LoadStart:
    """The position at which loads start that begin soon after each other, and their pages: encoded once for all.

    The pages stay right while the map changes, because each load gets the changes since `position` too.
    """

    __slots__ = ("_pages", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self._pages: dict[Hashable, EncodedPage] = {}

    def page(self, name: Hashable, encode: Callable[[], EncodedPage]) -> EncodedPage:
        """Return the page of this name; `encode` makes it unless it is there."""
        page = self._pages.get(name)
        if page is None:
            page = encode()
            if len(self._pages) == _MAX_PAGES:
                self._pages.clear()
            self._pages[name] = page
        return page


class MapCopy:
    """A copy of one map; `position` is that of the last change which it has.

    It is filled by pages of Redis, which may be older or newer than the changes that come live: of each key the write
    with the highest offset counts. Offsets never restart as long as the copy lives.

    needed_until_s: clients that load it have time until then, as of the tracker's clock.
    """

    __slots__ = ("_changes", "_entries", "_floor", "_keys", "_start", "needed_until_s", "position")

    def __init__(self, position: Position, *, needed_until_s: float) -> None:
        self.position = position
        self.needed_until_s = needed_until_s
        self._start: LoadStart | None = None
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
            key = change_of(entry).key
            known = self._changes.get(key)
            if known is None or offset_of(known) < offset_of(entry):
                self._set(key, entry)
        return True

    def apply(self, publication: Publication) -> None:
        """Apply the next change."""
        assert publication.position is not None  # noqa: S101  (for the type checker)
        self.position = publication.position
        change = publication.change
        if change is None:  # another program has written into the history
            return
        if change.is_removed:
            if self._entries.pop(change.key, None) is not None:
                del self._keys[bisect_right(self._keys, change.key) - 1]
        else:
            self._set(change.key, publication)
        self._changes.pop(change.key, None)
        self._changes[change.key] = publication
        if len(self._changes) > _MAX_CHANGES:
            self._floor = offset_of(self._changes.pop(next(iter(self._changes))))

    def start(self) -> LoadStart:
        """Return where a load starts that begins now; the copy must be whole."""
        start, now = self._start, self.position
        change_count = min(_MAX_SHARED_CHANGES, len(self._keys) // _KEYS_A_CHANGE)
        is_near = start is not None and start.position.offset >= max(self._floor, now.offset - change_count)
        if start is None or not is_near or start.position.epoch != now.epoch:
            start = self._start = LoadStart(now)
        return start

    def page(self, after: str, length: int, *, up_to: int, max_bytes: int) -> tuple[list[Publication], str]:
        """Return the next entries of a client's load, and the key after which the next page begins; "" after the last.

        Args:
            up_to: the offset of the client's first page: what was written later comes with `changes`.
            max_bytes: of the entries in a reply; at least one is returned.
        """
        found: list[Publication] = []
        size_bytes = 0
        start = bisect_right(self._keys, after) if after else 0
        for index in range(start, len(self._keys)):
            entry = self._entries[self._keys[index]]
            if offset_of(entry) > up_to:
                continue
            size_bytes += size_in_reply(entry)
            if found and (len(found) == length or size_bytes > max_bytes):
                return found, change_of(found[-1]).key
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
