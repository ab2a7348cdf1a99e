"""Subscribing plain clients of maps: the whole map first, or only what a client has missed; then each change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from typing_extensions import override

from roomcast.auth.permissions import Action
from roomcast.connections.connection import Connection, Receiver
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.maps import ClientKey
from roomcast.model.namespaces import Namespaces
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, Resumption
from roomcast.rooms.admission import Admitted
from roomcast.rooms.entry import Entry
from roomcast.rooms.map_encodings import is_event_stream, synced, whole_map
from roomcast.rooms.map_writer import MapWriter

_ATTEMPTS = 3


def check_no_map(namespaces: Namespaces, channel: str) -> None:
    """Return if a channel is not a map. Raises: ClientError 102, and 107 for a map."""
    if namespaces.of(channel).map is not None:
        raise ClientError(ErrorCode.BAD_REQUEST, "this channel is a map: use /ws/maps, /sse/maps or /maps")


@dataclass(slots=True, eq=False)
class MapEntry(Entry):
    """The entry of a map."""

    @override
    async def subscribe(self, connection: Connection, admitted: Admitted, welcome: bytes) -> None:
        client_key = admitted.namespace.map_options.client_key
        if client_key is ClientKey.CLIENT_ID and not is_event_stream(connection.encoding):
            welcome = welcome or self.welcome(connection)
        attempts: list[Callable[[Connection, Admitted, bytes], Awaitable[None]]] = [self._begin] * _ATTEMPTS
        if self._since is not None and admitted.namespace.recovery is not None:
            attempts = [partial(self._continue, self._since), *attempts]
        for attempt in attempts:
            try:
                await attempt(connection, admitted, welcome)
            except ClientError as exc:
                if exc.error is not ErrorCode.UNRECOVERABLE_POSITION:
                    raise
            else:
                return
        raise BrokerUnavailable("the map changes too fast to be read")

    @override
    def receiver(self, connection: Connection, admitted: Admitted) -> Receiver:
        return MapWriter(
            admitted.publisher,
            self._node.roster,
            self._channel,
            admitted.namespace.map_options,
            may_publish=self.may(Action.PUBLISH, admitted.identity),
            may_remove=self.may(Action.REMOVE, admitted.identity),
        )

    async def _continue(self, since: Position, connection: Connection, admitted: Admitted, welcome: bytes) -> None:
        """Subscribe a client that continues from its position. Raises: ClientError 112; and as `enter`."""
        encoding = connection.encoding
        async with self._node.subscribing(
            connection, self._channel, namespace=admitted.namespace, info=admitted.info, since=since
        ) as start:
            if not start or _position(start[0], is_recovered=True) is None:
                raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "changes since this position are lost")
            if welcome:
                connection.send(welcome)
            missed = [event for event in start if isinstance(event, Publication)]
            now = (missed[-1].position if missed else None) or since
            connection.send_missed(map(encoding.encode, missed))
            connection.send_missed([synced(encoding, now)])

    async def _begin(self, connection: Connection, admitted: Admitted, welcome: bytes) -> None:
        """Subscribe a client that loads the whole map. Raises: ClientError 112 if changes were lost; and as `enter`."""
        load = await self._node.maps.load(self._channel)
        try:
            async with self._node.subscribing(
                connection, self._channel, namespace=admitted.namespace, info=admitted.info, load=load
            ) as (first, *others):
                now = _position(first, is_recovered=None) or load.position
                if welcome:
                    connection.send(welcome)
                changes = [event for event in others if isinstance(event, Publication)]
                connection.send_missed(whole_map(connection.encoding, load.copy, load.start, changes, now))
        finally:
            load.close()


def _position(event: Publication | Resumption, *, is_recovered: bool | None) -> Position | None:
    """Return the position of a resumption with this result."""
    is_it = isinstance(event, Resumption) and event.is_recovered is is_recovered
    return event.position if is_it else None
