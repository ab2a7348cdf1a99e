"""The service with a bug put in on purpose, which CHAOS_BUG names: the chaos test must find it."""

from __future__ import annotations

import itertools
import os
from typing import Any

from roomcast.__main__ import main
from roomcast.model.publications import Event, Publication
from roomcast.node.hub import Hub
from roomcast.node.map_load import MapLoad
from roomcast.node.repair import Repairs
from roomcast.node.track import Events

SKIP_REPAIR = "skip-repair"  # missed publications are not broadcast after a gap, and the loss is not reported
DROP_OFFSET = "drop-offset"  # one publication of ten is not broadcast
DROP_CHANGES = "drop-changes"  # a client that loads a map does not receive the changes between its pages

_DROPPED_EVERY = 10


def _skip_repair() -> None:
    take = Repairs.take

    def take_only(repairs: Repairs, *args: Any, **options: Any) -> Events:
        take(repairs, *args, **options)
        return []

    setattr(Repairs, "take", take_only)  # noqa: B010  (mypy allows no bug to be put in by assignment)


def _drop_offset() -> None:
    broadcast, count = Hub.broadcast, itertools.count(1)

    def broadcast_most(hub: Hub, event: Event) -> None:
        if next(count) % _DROPPED_EVERY:
            broadcast(hub, event)

    setattr(Hub, "broadcast", broadcast_most)  # noqa: B010  (as above)


def _drop_changes() -> None:
    changes = MapLoad.changes

    def no_changes(load: MapLoad, *args: Any, **options: Any) -> list[Publication]:
        return changes(load, *args, **options)[:0]

    setattr(MapLoad, "changes", no_changes)  # noqa: B010  (as above)


_BUGS = {SKIP_REPAIR: _skip_repair, DROP_OFFSET: _drop_offset, DROP_CHANGES: _drop_changes}

if __name__ == "__main__":
    _BUGS[os.environ["CHAOS_BUG"]]()
    main()
