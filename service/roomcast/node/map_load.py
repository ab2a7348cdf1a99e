"""A client's load of a map: page after page, then the changes since the first page."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.node.map_copy import EncodedPage, LoadStart, MapCopy

# A page is no larger, so that it fits into what a client may have unsent.
_PAGE_BYTES = 64 * 1024


class MapLoad:
    """One client's load, from `Maps.load` to `close`. While it lasts the node receives the channel.

    position: of the map at its start. Entries that were written later are in no page: they are in `changes`.
    copy: the node's copy. start: shared with other loads.
    Raises, in pages and changes: ClientError 112 once the client must load the map from the beginning: changes were
        lost, or it was cleared.
    """

    __slots__ = ("_close", "_is_current", "_keep", "copy", "position", "start")

    def __init__(
        self,
        copy: MapCopy,
        *,
        is_current: Callable[[MapCopy], bool],
        keep: Callable[[MapCopy], None],
        close: Callable[[], None],
    ) -> None:
        self.copy = copy
        self.start = copy.start()
        self.position: Position = self.start.position
        self._is_current = is_current
        self._keep = keep
        self._close: Callable[[], None] | None = close

    def encoded_page(
        self, after: str, length: int, name: Hashable | None, encode: Callable[[list[Publication]], bytes]
    ) -> EncodedPage:
        """Return the entries after a key, encoded: at most `length`, and 64 KiB of data; at least one if there are any.

        Args:
            name: of what `encode` returns: loads with the same start share it. None: it is not shared.
        """
        self._check()
        return encoded_page(self.copy, self.start, after, length, name=name, encode=encode)

    def changes(self, since: int) -> list[Publication]:
        """Return the last change of each key after an offset, in their order."""
        self._check()
        found = self.copy.changes(since)
        if found is None:
            raise _lost()
        return found

    @property
    def is_current(self) -> bool:
        """Return whether the copy is in step with the node."""
        return self._close is not None and self._is_current(self.copy)

    def keep(self) -> bool:
        """Keep the copy while the client is slow; return false if it must load the map from the beginning."""
        if self.is_current:
            self._keep(self.copy)
        return self.is_current

    def close(self) -> None:
        """End the load, also before it is finished; again: nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()

    def _check(self) -> None:
        if not self.is_current:
            raise _lost()
        self._keep(self.copy)


def _lost() -> ClientError:
    return ClientError(ErrorCode.UNRECOVERABLE_POSITION, "changes are lost: load the map from the beginning")


def encoded_page(
    copy: MapCopy,
    start: LoadStart,
    after: str,
    length: int,
    *,
    name: Hashable | None,
    encode: Callable[[list[Publication]], bytes],
) -> EncodedPage:
    """Return a page as `MapLoad.encoded_page`, also of a copy that has fallen behind.

    Args:
        start: of the client's load.
    """

    def page() -> EncodedPage:
        entries, cursor = copy.page(after, length, up_to=start.position.offset, max_bytes=_PAGE_BYTES)
        return EncodedPage(encode(entries), cursor)

    return page() if name is None else start.page((name, after, length), page)
