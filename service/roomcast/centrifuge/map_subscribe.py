"""Subscriptions to maps: pages of their entries, then the changes since the first page, then live.

Each request is a `subscribe` with a phase. The node decides when the client goes live: in the reply without a phase.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from roomcast.auth.overrides import is_told_members, overridden
from roomcast.centrifuge.admission import check_count, subscription_of, terms_of, view_of
from roomcast.centrifuge.codec import Command, Members
from roomcast.centrifuge.map_encodings import MapView
from roomcast.centrifuge.map_loading import Loading
from roomcast.centrifuge.session import Session, SessionSubscription
from roomcast.centrifuge.terms import REPLY_BYTES, count_in_reply
from roomcast.connections.connection import Connection, State
from roomcast.model.errors import SLOW, ClientError, ErrorCode
from roomcast.model.maps import MapOptions
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, Resumption, offset_of
from roomcast.node.map_differences import Bases
from roomcast.node.map_load import MapLoad

# The phases of a request. None of a reply is "live".
_LIVE, _CHANGES, _STATE = 0, 1, 2
_PHASES = (_LIVE, _CHANGES, _STATE)


class _Request(NamedTuple):
    """A request for a map. options: of its namespace."""

    session: Session
    command: Command
    channel: str
    namespace: Namespace
    options: MapOptions

    @property
    def length(self) -> int:
        """Return the most entries or changes of the reply."""
        return self.options.page_length(self.command.params.get("limit", 0))

    def view_of(self, loading: Loading) -> MapView:
        """Return what the client gets of the map."""
        tells_members = is_told_members(self.namespace, loading.terms.options.override)
        return MapView(self.namespace.tells_positions, tells_members, *loading.view)

    def result(self, position: Position) -> Members:
        """Return the members of every reply. position: up to which the client has the changes."""
        result: Members = {"type": 1}
        if self.namespace.tells_positions:
            result["epoch"] = position.epoch
            if position.offset:
                result["offset"] = position.offset
        return result

    def wait_for_next(self, loading: Loading, result: Members, state: bytes = b"") -> None:
        """Reply with a part of the map, and wait for the request of the next one."""
        if state:
            self.session.reply_with_state(self.command, result, state)
        else:
            self.session.reply(self.command, result)
        loading.wait_for_next(self.options.catch_up_timeout_s)


class _Start(NamedTuple):
    """What a client is sent when it goes live.

    position: up to which it has the changes then. changes: in the reply, as it sees them. rest: those after them.
    bases: the values that it has.
    """

    position: Position
    changes: Sequence[Publication]
    rest: Sequence[Publication]
    bases: Bases


async def subscribe(session: Session, command: Command, channel: str, namespace: Namespace) -> None:
    """Answer a request: with a part of the map, or with the start of the subscription, before any push.

    Raises: ClientError, BrokerUnavailable. A load that was under way has ended then, unless the error is 105 or 107.
    """
    request = _Request(session, command, channel, namespace, namespace.map_options)
    if channel in session.subscriptions:
        raise ClientError(ErrorCode.ALREADY_SUBSCRIBED, channel)
    params, loading = command.params, session.loads.get(channel)
    phase, recovers = params.get("phase", _LIVE), params.get("recover", False)
    if phase not in _PHASES or (phase == _CHANGES and not namespace.tells_positions and not recovers):
        raise ClientError(ErrorCode.BAD_REQUEST, "phase is 2 for entries, 1 for changes, of no ephemeral map, or 0")
    continues = bool(params.get("cursor")) if phase == _STATE else phase == _CHANGES and not recovers
    if not continues:
        loading = _begin(request, loading)
    elif loading is None:
        raise ClientError(ErrorCode.PERMISSION_DENIED, "this map is not being loaded")
    elif loading.is_late:
        session.disconnect(SLOW)
        return
    else:
        _check_next(loading, phase, params.get("cursor", ""))
    try:
        async with loading.executing():
            if not continues:
                loading.terms = await terms_of(session, channel, namespace, params)
                subscription_of(session, loading.terms)  # one that has expired is refused before it is loaded
            if not continues and phase != _STATE:
                await _recover(request, loading)
                return
            await _drained(session.connection)
            if loading.load is None:
                loading.load = await session.context.node.maps.load(channel)
                loading.offset = loading.load.position.offset
            _check_position(request, loading.load, loading, phase, continues=continues)
            await (_give_entries if phase == _STATE else _give_changes)(request, loading, loading.load)
    except BaseException:
        session.end_load(channel)
        raise


async def _drained(connection: Connection) -> None:
    """Wait while the client is congested: the pages of many maps, sent at once, would close it as slow.

    Cancelled when the connection ends.
    """
    while connection.is_congested and connection.state is State.OPEN:
        drained = asyncio.Event()
        connection.when_drained(drained.set)
        await drained.wait()


def _begin(request: _Request, loading: Loading | None) -> Loading:
    """Begin a load, whatever position the client has of one that failed, or a recovery.

    Raises: ClientError 105, 106, 107, 108.
    """
    session, channel = request.session, request.channel
    if loading is not None and not loading.is_late:
        raise ClientError(ErrorCode.ALREADY_SUBSCRIBED, "the map is being loaded")
    check_count(session)
    return session.begin_load(channel, view_of(request.command.params, request.namespace))


def _check_next(loading: Loading, phase: int, cursor: str) -> None:
    """Check the order of a client's requests: a page that it skips would be missing. Raises: ClientError 107."""
    if phase == _STATE and cursor != loading.cursor:
        raise ClientError(ErrorCode.BAD_REQUEST, "the cursor is not that of the next page")
    if phase == _CHANGES and loading.top is None:
        raise ClientError(ErrorCode.BAD_REQUEST, "the entries come before the changes")


def _check_position(request: _Request, load: MapLoad, loading: Loading, phase: int, *, continues: bool) -> None:
    """Check the position of a request that continues a load. Raises: ClientError 112."""
    params = request.command.params
    if not continues or not request.namespace.tells_positions or (phase == _STATE and not params.get("epoch")):
        return
    since = _since(params)
    if since.epoch != load.position.epoch or (phase == _CHANGES and since.offset != loading.offset):
        raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "this is not the position of the reply before")


async def _give_entries(request: _Request, loading: Loading, load: MapLoad) -> None:
    """Reply with the next page of entries; with the last one the client goes live, unless many changes follow."""
    maps, view = request.session.wire.maps, request.view_of(loading)
    state, loading.cursor = load.encoded_page(
        loading.cursor, request.length, maps.cache_name(view), lambda entries: maps.state(entries, view)
    )
    result = request.result(load.position)
    if loading.cursor:
        request.wait_for_next(loading, {**result, "phase": _STATE, "cursor": loading.cursor}, state)
        return
    loading.top = load.copy.position.offset
    if request.namespace.tells_positions and _page_of(load.changes(loading.offset), request.length)[1]:
        request.wait_for_next(loading, {**result, "phase": _STATE}, state)
    else:
        await _go_live(request, loading, load.position, state)


async def _give_changes(request: _Request, loading: Loading, load: MapLoad) -> None:
    """Reply with the next changes; with the last ones the client goes live.

    Once it has those up to `top` it goes live even if many follow: else it might never reach the newest one.
    """
    assert loading.top is not None  # noqa: S101  (for the type checker)
    page, rest = _page_of(load.changes(loading.offset), request.length)
    if not rest or loading.offset >= loading.top:
        await _go_live(request, loading, Position(loading.offset, load.position.epoch))
        return
    loading.offset = offset_of(page[-1])
    view = request.view_of(loading)
    result = request.result(Position(loading.offset, load.position.epoch))
    publications = request.session.wire.maps.publications(list(map(view.of_last, page)), view)
    request.wait_for_next(loading, {**result, "phase": _CHANGES, "publications": publications})


def _page_of(changes: Sequence[Publication], length: int) -> tuple[Sequence[Publication], Sequence[Publication]]:
    """Return the changes of one reply, at least one if there are some, and the rest."""
    count = max(1, count_in_reply(changes[:length], REPLY_BYTES))
    return changes[:count], changes[count:]


async def _recover(request: _Request, loading: Loading) -> None:
    """Go live from a position that the client has from before, maybe of another mode. Raises: ClientError 112."""
    since = _since(request.command.params)
    if not since.epoch or not request.namespace.tells_positions:
        raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "no position to continue from")
    await _go_live(request, loading, since)


def _since(params: Members) -> Position:
    """Return the position of a request; one that no map can have is in none of its histories."""
    return Position(params.get("offset", 0), params.get("epoch", ""))


async def _go_live(request: _Request, loading: Loading, since: Position, state: bytes = b"") -> None:
    """Subscribe a client that has the map as of `since`; `state` is its last page."""
    session, command, channel, namespace, _ = request
    view, options = request.view_of(loading), loading.terms.options
    maps, connection = session.wire.maps, session.connection
    encoding = maps.encoding_of(view, connection.encoding.ping)
    subscription, expiry = _subscription(session, loading)
    subscribing = session.context.node.subscribing(
        connection,
        channel,
        namespace=overridden(namespace, options.override),
        encoding=encoding,
        info=options.info,
        since=since,
        load=loading.load,
    )
    async with subscribing as events:
        start = _start(request, loading, since, events)
        result = request.result(start.position) | expiry
        if request.namespace.tells_positions:
            result["recoverable"] = True
        if start.changes:
            result["publications"] = maps.publications(start.changes, view)
        if command.params.get("recover") and loading.load is None:
            result["recovered"] = result["was_recovering"] = True
        if view.is_delta:
            result["delta"] = True
            subscribing.bases = start.bases
        if options.data:
            result["data"] = options.data
        if state:
            session.reply_with_state(command, result, state)
        else:
            session.reply(command, result)
        session.end_load(channel)
        session.add_subscription(channel, subscription)
        if start.rest:
            encode = maps.encoding_of(view._replace(tags=None), connection.encoding.ping).encode
            connection.send_missed(map(encode, start.rest))


def _subscription(session: Session, loading: Loading) -> tuple[SessionSubscription, Members]:
    """Return as `subscription_of`. Raises: ClientError 109: client libraries replace the token, and load again."""
    try:
        subscription, expiry = subscription_of(session, loading.terms)
    except ClientError:
        raise ClientError(ErrorCode.TOKEN_EXPIRED, "the subscription has expired while the map was loaded") from None
    subscription.is_positioned = True  # in each mode it is notified of losses
    return subscription, expiry


def _start(request: _Request, loading: Loading, since: Position, events: Sequence[Publication | Resumption]) -> _Start:
    """Return what a client is sent. Raises: ClientError 112 if changes since its position are lost."""
    connection, view, load = request.session.connection, request.view_of(loading), loading.load
    found = [event for event in events if isinstance(event, Publication)]
    if load is not None:
        position = next(event.position for event in events if isinstance(event, Resumption))
        assert position is not None  # noqa: S101  (for the type checker)
        seen = list(map(view.of_last, found))
        bases = Bases(load.copy.entries(), is_whole=True)
        # With all of them the client has the map of one moment. They were few, unless the map is ephemeral or many
        # were made just now.
        reply_bytes = connection.max_unsent_bytes // 2
    else:
        if not any(isinstance(event, Resumption) and event.is_recovered for event in events):
            raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "changes since this position are lost")
        position = Position(offset_of(found[-1]), since.epoch) if found else since
        seen = [each for event in found if (each := view.of(event)) is not None]
        bases = Bases({each.change.key: each for each in found if each.change is not None}, is_whole=False)
        reply_bytes = 0 if connection.is_congested else REPLY_BYTES  # as of streams
    count = count_in_reply(seen, reply_bytes)
    if count < len(seen):
        position = Position(offset_of(seen[count - 1]) if count else since.offset, since.epoch)
    return _Start(position, seen[:count], seen[count:], bases)
