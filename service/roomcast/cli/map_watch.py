"""Prints a map and its changes to a terminal, each once, also through outages of Redis."""

from __future__ import annotations

import asyncio

import click
import orjson
from typing_extensions import override

from roomcast.api.maps import entry_members
from roomcast.brokers.map_interface import MapPage, MapRead, MapStore
from roomcast.cli.terminal import Lines, Reporter
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import BrokerEvent, Publication, Removal, change_of
from roomcast.tasks import run_together

_RETRY_S = 1.0


def entry_line(publication: Publication, namespace: Namespace) -> str:
    """Return an entry or a change of a map as JSON in one line."""
    text = orjson.dumps(entry_members(publication, namespace))
    # A service may have written JSON with line ends between its values; inside strings they are escaped.
    return text.replace(b"\n", b" ").replace(b"\r", b" ").decode()


class MapWatch(Reporter):
    """Prints the entries of a map, then each change.

    The position of each printed key is kept. When changes may be lost, the map is read again, and each key whose
    position differs is printed.
    """

    def __init__(self, lines: Lines, channel: str, namespace: Namespace) -> None:
        self._lines = lines
        self._channel = channel
        self._namespace = namespace
        self._printed: dict[str, Position] = {}
        self._events: asyncio.Queue[Publication | None] = asyncio.Queue()  # None: changes may be lost

    async def run(self, store: MapStore) -> None:
        """Print until cancelled; the channel is subscribed to. Raises: as of `MapStore.read`, at the first read."""
        await run_together(changes=self._print_all(store), expiry=self._expire_forever(store))

    @override
    def on_event(self, event: BrokerEvent) -> None:
        if isinstance(event, Publication):
            self._events.put_nowait(event)
        elif isinstance(event, Removal):
            self._events.put_nowait(None)

    @override
    def on_malformed(self, channel: str, reason: str) -> None:
        super().on_malformed(channel, reason)
        self._events.put_nowait(None)

    @override
    def on_disconnected(self) -> None:
        click.echo("Redis is away", err=True)

    @override
    def on_connected(self, *, is_again: bool) -> None:
        super().on_connected(is_again=is_again)
        if is_again:
            self._events.put_nowait(None)

    async def _print_all(self, store: MapStore) -> None:
        position = await self._load(store)
        click.echo(f"watching {self._channel}", err=True)
        while True:
            if position is not None:
                await self._follow(position)
            try:
                position = await self._load(store)
            except BrokerUnavailable:
                position = None
                await asyncio.sleep(_RETRY_S)

    async def _load(self, store: MapStore) -> Position | None:
        """Print what differs from what was printed; return the position from which changes follow, None: none do."""
        while not self._events.empty():
            self._events.get_nowait()  # Redis had them before this read
        page = await self._page(store, "")
        first, gone = page.position, set(self._printed)
        while True:
            for entry in page.entries:
                key = change_of(entry).key
                gone.discard(key)
                if self._printed.get(key) != entry.position:
                    self._print(entry)
            if not page.cursor:
                break
            page = await self._page(store, page.cursor)
            if page.position.epoch != first.epoch:
                return None
        for key in sorted(gone):
            del self._printed[key]
            self._lines.print(orjson.dumps({"key": key, "removed": True}).decode())
        return first

    async def _page(self, store: MapStore, after: str) -> MapPage:
        return await store.read(MapRead(self._channel, self._namespace, after))

    async def _follow(self, position: Position) -> None:
        """Print the changes after a position, until some may be lost."""
        while True:
            event = await self._events.get()
            if event is None:
                return
            if event.change is None or event.position is None:
                continue  # published by another program: it changes nothing
            if event.position.epoch != position.epoch or event.position.offset > position.offset + 1:
                return
            if event.position.offset <= position.offset:
                continue
            position = event.position
            known = self._printed.get(event.change.key)
            if known is None or known.offset < position.offset:  # a later page had it already
                self._print(event)

    def _print(self, publication: Publication) -> None:
        change = change_of(publication)
        assert publication.position is not None  # noqa: S101  (for the type checker)
        if change.is_removed:
            if self._printed.pop(change.key, None) is None:
                return
        else:
            self._printed[change.key] = publication.position
        self._lines.print(entry_line(publication, self._namespace))

    async def _expire_forever(self, store: MapStore) -> None:
        """Remove keys whose time is over, as nodes with subscribers do: there may be none."""
        options = self._namespace.map
        if options is None or not options.key_ttl_s:
            await asyncio.Event().wait()
            return
        while True:
            try:
                wait_s = await store.expire(self._channel, self._namespace)
            except BrokerUnavailable:
                wait_s = _RETRY_S
            # A key that is set meanwhile has at least its whole time.
            await asyncio.sleep(options.key_ttl_s if wait_s is None else min(wait_s, options.key_ttl_s))
