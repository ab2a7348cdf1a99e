"""Compares a node with its channels' histories: detects gaps, and repairs them from Redis before clients notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import structlog

from roomcast.brokers.interface import Broker, Read
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Event, History, Publication, Resumption
from roomcast.node.recovery import Window
from roomcast.node.repair import Repairs
from roomcast.node.track import Track
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)

_CHECK_INTERVAL_S = 5.0
_WATCH_INTERVAL_S = 1.0
_RETRY_S = 0.1
_WINDOW_ATTEMPTS = 3
_WINDOW_WAIT_S = 5.0
_SMALLER_PAGE = 8
# Clients reconnect in herds: the window is kept for so long after the last one.
_WINDOW_TTL_S = 5.0


class Tracker:
    """The tracks of all channels with history that have a subscriber here.

    Args:
        broadcast: gives an event to the channel's subscribers on this node.
        clock: `time.monotonic`, seconds.
        patience_s: live publications wait for missing ones so long at most.
    """

    def __init__(
        self,
        broker: Broker,
        broadcast: Callable[[Event], None],
        clock: Callable[[], float],
        *,
        patience_s: float = 30.0,
    ) -> None:
        self._broker = broker
        self._broadcast = broadcast
        self._clock = clock
        self._tracks: dict[str, Track] = {}
        self._repairs = Repairs(patience_s=patience_s)
        self._has_asked = asyncio.Event()
        self._is_connected = asyncio.Event()
        self._resolved: dict[str, asyncio.Event] = {}  # set once a channel is resolved
        self._windows: dict[str, asyncio.Task[None]] = {}  # reads in progress
        self.repaired_count = 0
        self.unrecovered_count = 0

    async def run(self) -> None:
        """Repair gaps, and check for undetected ones; end only when cancelled."""
        await run_together(repair=self._repair_forever(), check=self._check_forever(), watch=self._watch_forever())

    @property
    def unplaced_count(self) -> int:
        """Return how many messages without a position were dropped, because their place could not be known."""
        return self._repairs.waiting.unplaced_count

    def reason_not_ready(self) -> str | None:
        """Return why the clients of this node are behind Redis, or None."""
        return self._repairs.reason_not_ready(self._clock())

    def open(self, channel: str, namespace: Namespace) -> Track:
        """Track a channel from now on."""
        track = self._tracks[channel] = Track(channel, namespace, self._repairs.waiting)
        self._ask(track)
        return track

    def close(self, channel: str) -> None:
        """Track a channel no longer."""
        track = self._tracks.pop(channel, None)
        if track is not None:
            self._repairs.forget(track)
            track.discard()
        waiting = self._resolved.pop(channel, None)
        if waiting is not None:
            waiting.set()

    def position(self, channel: str) -> Position | None:
        """Return the newest position of a channel that was broadcast here."""
        track = self._tracks.get(channel)
        return None if track is None else track.position

    def seen(self, channel: str) -> Sequence[Position]:
        """Return the positions of a channel that prove a loss if Redis has them no more."""
        track = self._tracks.get(channel)
        return () if track is None else track.seen

    def track(self, channel: str) -> Track | None:
        """Return the track of an open channel."""
        return self._tracks.get(channel)

    def is_reading(self, channel: str) -> bool:
        """Return whether the window of a channel is being read."""
        return channel in self._windows

    def accept(self, publication: Publication) -> None:
        """Broadcast a live publication if it is the next one; hold it if one before it is missing.

        Raises: ValueError for one without a key in a map, or with one elsewhere: no node has published it.
        """
        track = self._tracks.get(publication.channel)
        if track is not None and track.is_map is (publication.change is None):
            raise ValueError("a change of a map in another channel, or anything else in a map")
        if track is None or track.accept(publication):
            self._broadcast(publication)
        elif not track.is_resolved:
            self._ask(track)
            self._broadcast_all(self._repairs.make_space(track, self._clock()))

    def removed(self, channel: str) -> None:
        """Drop the window of a channel whose history was removed; a map that was cleared is in another epoch."""
        track = self._tracks.get(channel)
        if track is not None:
            track.window = None
            if track.namespace.map is not None:
                self._doubt(track)

    def disconnected(self) -> None:
        """Hold live publications until `connected`: some may be missing."""
        self._is_connected.clear()
        for track in self._tracks.values():
            track.disconnect()

    def connected(self) -> None:
        """Read the missed publications."""
        for track in self._tracks.values():
            track.window = None  # the history may have been removed meanwhile
            self._doubt(track)
        self._repairs.connect(self._clock())
        self._is_connected.set()

    async def wait_resolved(self, channel: str) -> None:
        """Return once the node knows its position in an open channel. Raises: BrokerUnavailable after 5 s."""
        track = self._tracks.get(channel)
        if track is None or track.is_resolved:
            return
        try:
            async with asyncio.timeout(_CHECK_INTERVAL_S):
                await self._resolved.setdefault(channel, asyncio.Event()).wait()
        except TimeoutError:
            raise BrokerUnavailable("the channel's position is not known") from None

    async def window(self, channel: str, since: Position | None = None) -> Window | None:
        """Return the newest publications of an open channel, up to the node's position; None if unavailable.

        A node that is behind a client's position `since` first reads from Redis: otherwise it would report a loss that
        did not happen, and send publications again. Reconnecting clients share one read. The caller must use the
        window before it awaits: later publications change it.
        Raises: BrokerUnavailable.
        """
        for attempt in range(_WINDOW_ATTEMPTS):
            await self.wait_resolved(channel)
            track = self._tracks.get(channel)
            if track is None:
                return None
            position = track.position
            is_ahead = (
                since is not None and position is not None and (since.epoch != position.epoch or since > position)
            )
            # Twice: a read in progress may be older than the client's position.
            if attempt < _WINDOW_ATTEMPTS - 1 and is_ahead:
                self._doubt(track)
                continue
            if channel in self._windows or track.window is None:
                reading = self._windows.get(channel)
                if reading is None:
                    reading = self._windows[channel] = asyncio.create_task(
                        self._read_window(track), name="tracker.window"
                    )
                    reading.add_done_callback(partial(self._end_reading, channel))
                # A read that takes longer continues: the client reconnects, and finds the window.
                if not (await asyncio.wait({reading}, timeout=_WINDOW_WAIT_S))[0]:
                    raise BrokerUnavailable("the history is being read")
                reading.result()
            if track.window is not None:
                track.window.used_at_s = self._clock()
                return track.window
        return None

    async def _read_window(self, track: Track) -> None:
        namespace, position = track.namespace, track.position
        assert position is not None  # noqa: S101  (for the type checker: it is resolved)
        # It receives live publications while the older ones are read.
        window = track.window = Window(position.offset, max_length=namespace.window_size, now_s=self._clock())
        limit, floor = namespace.window_size, -1
        while window.floor != floor and (room := window.room):
            limit, floor = min(limit, room), window.floor
            before = Position(floor + 1, position.epoch)
            read = Read(track.channel, namespace, limit=limit, newest=True, before=before)
            (history,) = await self._broker.read([read])
            if track.window is not window:
                return
            if isinstance(history, BrokerUnavailable):
                if limit == 1:
                    track.window = None
                    raise history
                # Maybe it takes longer than the timeout on a slow link: less at once.
                limit, floor = max(1, limit // _SMALLER_PAGE), -1
            elif history.position.epoch == position.epoch:
                window.extend_back(history)
                if len(history.publications) < limit:
                    return
            else:  # the epoch has ended: the track must continue in the new one first
                track.window = None
                self._doubt(track)
                return

    def _end_reading(self, channel: str, reading: asyncio.Task[None]) -> None:
        del self._windows[channel]
        track = self._tracks.get(channel)
        if track is not None and track.window is not None:
            track.window.used_at_s = self._clock()  # its clients may have to reconnect first
        if not reading.cancelled():
            reading.exception()  # its clients may have gone

    def _doubt(self, track: Track) -> None:
        track.doubt()
        self._ask(track)

    def _ask(self, track: Track) -> None:
        self._repairs.ask(track, self._clock())
        self._has_asked.set()

    async def _repair_forever(self) -> None:
        while True:
            await self._has_asked.wait()
            await self._is_connected.wait()
            self._has_asked.clear()
            if not await self._repair():
                await asyncio.sleep(_RETRY_S)
            if self._repairs.has_asked:
                self._has_asked.set()

    async def _repair(self) -> bool:
        """Read once for the tracks that are not resolved; return whether nothing failed."""
        requests = self._repairs.next_round()
        began_s = self._clock()
        histories = await self._broker.read([request.read for request in requests])
        took_s = self._clock() - began_s
        to_sync = self._repairs.to_sync(requests, histories)
        synced = await self._broker.sync(to_sync) if to_sync else to_sync
        found = self._repairs.take(requests, histories, synced=synced, took_s=took_s, now_s=self._clock())
        self._broadcast_all(found)
        return to_sync <= synced and not any(isinstance(history, BrokerUnavailable) for history in histories)

    def _broadcast_all(self, events: Iterable[Publication | Resumption]) -> None:
        """Broadcast the events of a repair, and wake those that wait for its end."""
        for event in events:
            if isinstance(event, Publication):
                self.repaired_count += event.position is not None
            else:
                self.unrecovered_count += 1
                log.warning("tracker.unrecovered", channel=event.channel, position=event.position)
            self._broadcast(event)
        for channel in tuple(self._resolved):
            if self._tracks[channel].is_resolved:
                self._resolved.pop(channel).set()

    async def _watch_forever(self) -> None:
        """Give up repairs that have lasted too long, also while a read lasts."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            if self._is_connected.is_set():
                self._broadcast_all(self._repairs.give_up(self._clock()))

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            for channel, track in self._tracks.items():
                if channel in self._windows:  # a read on a slow link is not begun again
                    continue
                if track.window is not None and self._clock() - track.window.used_at_s > _WINDOW_TTL_S:
                    track.window = None
                if track.copy is not None and self._clock() > track.copy.needed_until_s:
                    track.copy = None
            await self._is_connected.wait()
            await self._check()

    async def _check(self) -> None:
        """Compare the positions in Redis with those broadcast: a message can be lost without any other sign."""
        before = [track for track in self._tracks.values() if track.is_resolved]
        reads = [Read(track.channel, track.namespace, seen=track.seen) for track in before]
        histories = await self._broker.read(reads)
        ahead = [
            (track, history)
            for track, history in zip(before, histories, strict=True)
            if isinstance(history, History) and _is_ahead(history, track)
        ]
        # They may be on their way.
        synced = await self._broker.sync({track.channel for track, _ in ahead}) if ahead else ()
        for track, history in ahead:
            if track.channel in synced and self._tracks.get(track.channel) is track and _is_ahead(history, track):
                self._doubt(track)


def _is_ahead(history: History, track: Track) -> bool:
    """Return whether Redis has publications, or an epoch, that a track does not know."""
    position = track.position
    return position is None or position.epoch != history.position.epoch or position.offset < history.position.offset
