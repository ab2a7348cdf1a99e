"""What a subscription is made of: the terms on which a client may have it, and what it wants of the publications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from roomcast.auth import SubscriptionOptions
from roomcast.centrifuge.filters import Filter
from roomcast.model.publications import Publication, size_in_reply

# Of missed publications in one reply: a client that disconnects before it has all of a reply has none of it.
REPLY_BYTES = 64 * 1024


class Terms(NamedTuple):
    """A subscription that the client may have; the last two as of a SessionSubscription."""

    options: SubscriptionOptions
    expire_at_s: float = 0
    is_by_permission: bool = False
    is_refreshed_by_application: bool = False


class View(NamedTuple):
    """The publications that a client wants. is_delta: as differences. tags: only those whose tags match."""

    is_delta: bool = False
    tags: Filter | None = None


def count_in_reply(found: Sequence[Publication], reply_bytes: int) -> int:
    """Return how many of the missed publications are in the reply; the rest follows as pushes."""
    size_bytes = 0
    for count, publication in enumerate(found):
        size_bytes += size_in_reply(publication)
        if size_bytes > reply_bytes:
            return count
    return len(found)
