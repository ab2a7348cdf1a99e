"""The service with a bug put in on purpose, which CHAOS_BUG names: the chaos test must find it."""

from __future__ import annotations

import itertools
import os

from roomcast.__main__ import main
from roomcast.model.publications import Event, History, Publication, Resumption
from roomcast.node.hub import Hub
from roomcast.node.recovery import Track

SKIP_REPAIR = "skip-repair"  # missed publications are not broadcast after a gap, and the loss is not reported
DROP_OFFSET = "drop-offset"  # one publication of ten is not broadcast
BUGS = (SKIP_REPAIR, DROP_OFFSET)

_DROPPED_EVERY = 10


def _skip_repair() -> None:
    resolve = Track.resolve

    def resolve_only(track: Track, history: History) -> list[Publication | Resumption]:
        resolve(track, history)
        return []

    setattr(Track, "resolve", resolve_only)  # noqa: B010  (mypy allows no bug to be put in by assignment)


def _drop_offset() -> None:
    broadcast, count = Hub.broadcast, itertools.count(1)

    def broadcast_most(hub: Hub, event: Event) -> None:
        if next(count) % _DROPPED_EVERY:
            broadcast(hub, event)

    setattr(Hub, "broadcast", broadcast_most)  # noqa: B010  (as above)


if __name__ == "__main__":
    {SKIP_REPAIR: _skip_repair, DROP_OFFSET: _drop_offset}[os.environ["CHAOS_BUG"]]()
    main()
