"""The changes and entries of maps as subscribers of the Centrifuge protocol get them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

from roomcast.centrifuge.codec import Codec, Members, publication_members
from roomcast.centrifuge.filters import Filter, matches
from roomcast.connections.encoding import Encoding
from roomcast.model.maps import Change
from roomcast.model.publications import Event, Membership, Publication, Resumption, change_of


class MapView(NamedTuple):
    """What a subscriber of a map gets; subscribers with equal views share an encoding.

    tells_offsets: not in ephemeral maps, whose clients cannot recover.
    tells_members: joins and leaves. is_delta: differences to the value before of the same key.
    tags: only entries whose tags match.
    """

    tells_offsets: bool
    tells_members: bool = False
    is_delta: bool = False
    tags: Filter | None = None

    def of(self, publication: Publication) -> Publication | None:
        """Return a change as its subscriber sees it: one that takes a value out of its view removes it."""
        change = publication.change
        if change is None:  # of another program: a map's subscriber has no key for it
            return None
        if self.tags is None or matches(self.tags, publication.tags):
            return publication
        # Without tags before, the key may have been absent too: its removal changes nothing for the client.
        has_left = not change.is_removed and matches(self.tags, change.tags_before)
        return _without(publication) if has_left else None

    def of_last(self, publication: Publication) -> Publication:
        """Return the last change of a key for a client that has an earlier value, or none: what does not match is none.

        The change before it may have been the one that took the value out of the view.
        """
        is_seen = self.tags is None or matches(self.tags, publication.tags)
        return publication if is_seen else _without(publication)


class MapEncodings:
    """The encodings of maps for one codec on a transport.

    Args:
        frame: makes the transport's frame of a message of the codec.
        membership: encodes joins and leaves.
    """

    def __init__(
        self, codec: Codec, frame: Callable[[bytes], bytes], membership: Callable[[Membership], bytes]
    ) -> None:
        self._codec = codec
        self._frame = frame
        self._membership = membership
        self._encodings: WeakValueDictionary[MapView, Encoding] = WeakValueDictionary()

    def encoding_of(self, view: MapView, ping: bytes) -> Encoding:
        """Return the encoding of a subscription."""
        encoding = self._encodings.get(view)
        if encoding is None:
            encoding = self._encodings[view] = Encoding(
                self._encoder(view),
                missed=lambda _count: b"",  # as of streams
                tells_positions=True,
                ping=ping,
                difference=self._difference_of(view) if view.is_delta else None,
            )
        return encoding

    def state(self, entries: Iterable[Publication], view: MapView) -> bytes:
        """Return those entries of a page that match, as of `Codec.state`; empty if there are none."""
        found = [self._members(each, view) for each in entries if view.tags is None or matches(view.tags, each.tags)]
        return self._codec.state(found) if found else b""

    def cache_name(self, view: MapView) -> tuple[Codec, bool, bool] | None:
        """Return the name of what `state` returns, equal for clients that get the same; None: it is of few clients."""
        return None if view.tags is not None else (self._codec, view.tells_offsets, view.is_delta)

    def publications(self, changes: Sequence[Publication], view: MapView) -> list[Members]:
        """Return changes that a client sees, for a reply; differences from the second one of a key on."""
        before: dict[str, Publication] = {}
        found = []
        for publication in changes:
            key = change_of(publication).key
            patch = self._patch(before.get(key), publication) if view.is_delta else None
            before[key] = publication
            found.append(self._members(publication, view, patch))
        return found

    def _encoder(self, view: MapView) -> Callable[[Event], bytes]:
        def encode(event: Event) -> bytes:
            if isinstance(event, Publication):
                seen = view.of(event)
                return b"" if seen is None else self._push(seen, view)
            if isinstance(event, Resumption) or not view.tells_members:
                return b""
            return self._membership(event)

        return encode

    def _difference_of(self, view: MapView) -> Callable[[Publication, Publication], bytes | None]:
        def difference(before: Publication, publication: Publication) -> bytes | None:
            patch = self._patch(before, publication)
            return None if patch is None else self._push(publication, view, patch)

        return difference

    def _patch(self, before: Publication | None, publication: Publication) -> bytes | None:
        """Return the difference to the value before of the same key; None if there is none, or it is not smaller."""
        if before is None or not before.data or not publication.data:
            return None
        return self._codec.patch(self._codec.payload(before), self._codec.payload(publication))

    def _push(self, publication: Publication, view: MapView, patch: bytes | None = None) -> bytes:
        members = self._members(publication, view, patch)
        if view.tells_offsets and publication.position is not None and publication.position.offset == 1:
            members["epoch"] = publication.position.epoch  # as the first one of Centrifugo
        return self._frame(self._codec.push(publication.channel, "pub", members))

    def _members(self, publication: Publication, view: MapView, patch: bytes | None = None) -> Members:
        """Return the Publication of the schema; `patch`: its data as a difference."""
        change = change_of(publication)
        data = b"" if change.is_removed else publication.data
        if patch is not None:
            data = patch
        elif data:
            data = self._codec.payload(publication)
        elif view.is_delta:
            data = self._codec.no_data  # the SDK for JavaScript parses the data of each publication
        if view.is_delta and patch is None and data:
            data = self._codec.full(data)
        members = publication_members(publication, data, is_patch=patch is not None)
        if not data:
            del members["data"]
        if not view.tells_offsets:
            members.pop("offset", None)
        members["key"] = change.key
        if change.is_removed:
            members["removed"] = True
            members.pop("info", None)
        return members


def _without(publication: Publication) -> Publication:
    """Return the removal of a key in place of a change that a client must not see."""
    change = Change(change_of(publication).key, is_removed=True)
    return publication._replace(data=b"", tags=None, info=None, change=change)
