"""Subscribers of maps: each holds a copy, and reconnects as real clients do."""

from __future__ import annotations

import enum
import random
from collections.abc import AsyncGenerator

from typing_extensions import override

from tests.chaos.client import Client
from tests.chaos.fleet import Fleet
from tests.chaos.journal import Place
from tests.chaos.map_centrifuge import MapSubscription
from tests.chaos.map_doors import PlainMap
from tests.chaos.map_journal import Changed, Entries, Invalidated, Loaded, MapEvent, MapLog, Note, Recovered

_SMALL_PAGE = 3
# Long enough for changes between the pages of most loads.
_LONGEST_ROUND_TRIP_S = 0.1
# So often a copy is noted after a change, and always when it becomes live.
_NOTED = 0.25
# So often a client returns as another one, which loads the map: otherwise most of them recover.
_ANEW = 1 / 3


class MapWay(enum.Enum):
    """How a subscriber receives a map."""

    SMALL_PAGES = "small pages"  # of the Centrifuge protocol
    PAGES = "pages"  # of the Centrifuge protocol, as long as the server chooses
    WEBSOCKET = "websocket"
    SSE = "sse"


class MapSubscriber(Client[MapEvent]):
    """One client of a map."""

    def __init__(self, name: str, channel: str, fleet: Fleet, chance: random.Random, way: MapWay) -> None:
        super().__init__(chance)
        self.log = MapLog(name, channel)
        self._copy: dict[str, str] = {}
        self.is_live = False
        self._fleet = fleet
        self._place: Place | None = None
        self._way = way
        self._open_page()

    def live_copy(self) -> Entries | None:
        """Return the copy; None: it is not whole now."""
        return dict(self._copy) if self.is_live else None

    @override
    def _connect(self) -> AsyncGenerator[MapEvent, None]:
        self.is_live = False  # until it has what it has missed
        node = self._fleet.any_node()
        if self._chance.random() < _ANEW:
            self._open_page()
        if self._way is MapWay.WEBSOCKET:
            return self._plain.websocket_events(node.ws(""))
        if self._way is MapWay.SSE:
            return self._plain.sse_events(node.http(""))
        return self._subscription.events(node.ws("/connection/websocket"))

    @override
    def take(self, event: MapEvent, *, is_first: bool) -> None:
        self.log.events.append(event)
        match event:
            case Loaded():
                self._become_live(event.place, dict(event.entries))
            case Recovered():
                self._become_live(event.place, self._copy)
            case Changed():
                self._place = event.place
                if event.value is None:
                    self._copy.pop(event.key, None)
                else:
                    self._copy[event.key] = event.value
                if self._chance.random() < _NOTED:
                    self._note()
            case Invalidated():
                self.is_live = False

    def _become_live(self, place: Place | None, copy: dict[str, str]) -> None:
        self._copy, self._place, self.is_live = copy, place, True
        self._note()

    def _note(self) -> None:
        """Note the copy, if it must be the map at its place."""
        if self.is_live and self._place is not None:
            self.log.notes.append(Note(len(self.log.events), self._place, dict(self._copy)))

    def _open_page(self) -> None:
        """Forget the position."""
        self._plain = PlainMap(self.log.channel)
        limit = _SMALL_PAGE if self._way is MapWay.SMALL_PAGES else 0
        self._subscription = MapSubscription(
            self.log.channel, limit=limit, round_trip_s=lambda: self._chance.uniform(0, _LONGEST_ROUND_TRIP_S)
        )
