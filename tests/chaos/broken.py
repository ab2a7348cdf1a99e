"""The service with a bug put in on purpose, which CHAOS_BUG names: the chaos test must find it."""

from __future__ import annotations

import itertools
import os
from typing import Any

from roomcast.__main__ import main
from roomcast.model.publications import Event
from roomcast.node.hub import Hub
from roomcast.node.repair import Repairs
from roomcast.node.track import Events

SKIP_REPAIR = "skip-repair"  # missed publications are not broadcast after a gap, and the loss is not reported
DROP_OFFSET = "drop-offset"  # one publication of ten is not broadcast
BUGS = (SKIP_REPAIR, DROP_OFFSET)

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


if __name__ == "__main__":
    {SKIP_REPAIR: _skip_repair, DROP_OFFSET: _drop_offset}[os.environ["CHAOS_BUG"]]()
    main()
