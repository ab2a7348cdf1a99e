"""Keys of maps that belong to connections: they are written, kept and removed with the subscriptions of clients."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import structlog

from roomcast.brokers.map_interface import Conditions, MapStore, Suppressed, Written
from roomcast.connections.connection import Connection, State
from roomcast.model.channels import MAX_CHANNEL_BYTES
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.maps import Change, KeyMode, check_key
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Kind, Publication
from roomcast.node.channel_timers import ChannelTimers
from roomcast.node.hub import Hub
from roomcast.node.roster import HubRoster
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)

_IF_NEW = Conditions(mode=KeyMode.IF_NEW)
# Two refreshes may fail before a key expires.
_REFRESHES_PER_TTL = 3
_RETRY_S = 1.0
# Beyond these a key is left to its time: of removals that failed, and of channels that a client writes unsubscribed.
_MAX_UNREMOVED = 20_000
_MAX_WRITTEN = 128


class MapPresence:
    """Writes the subscribers of this node into maps, and removes clients' own keys.

    - `clients_map`: the key is the client's id, with its info. It is removed with the subscription.
    - `users_map`: the key is the user. It is not removed but expires, because the user may have other clients.
    - `remove_on_unsubscribe`: the key of the map itself that is the client's id.

    Keys are refreshed three times in their lifetime, without a push, and written again if Redis has lost them. They
    are read from the hub: a client costs no memory here. If the node dies, its keys expire.
    """

    def __init__(self, store: MapStore, namespaces: Namespaces, hub: Hub, roster: HubRoster) -> None:
        self._store = store
        self._namespaces = namespaces
        self._hub = hub
        self._roster = roster
        self._written: dict[Connection, set[str]] = {}  # maps with its key, of a client without a subscription there
        self._unremoved: dict[str, list[str]] = {}  # keys whose removal failed, by map
        self._unremoved_count = 0
        self._existing: dict[str, set[str]] = {}  # keys that were there already, by map: their time is an older one
        self._refused: set[str] = set()  # maps of which a refusal is logged
        self._refreshes = ChannelTimers(self._refresh)
        self._touches = ChannelTimers(self._touch_existing)

    async def run(self) -> None:
        """Refresh keys; end only when cancelled."""
        await run_together(refreshes=self._refreshes.run(), touches=self._touches.run())

    def began(self, connection: Connection, channel: str) -> None:
        """Write the keys of a subscription that has begun."""
        namespace = self._namespaces.of(channel)
        if namespace.clients_map:
            info = self._roster.info(connection, channel)
            self._add(self._namespaces.map_of_clients(channel), info.client, info)
        if namespace.users_map and connection.user:
            self._add(self._namespaces.map_of_users(channel), connection.user, None)

    def ended(self, connection: Connection, channel: str) -> None:
        """Remove the keys of a subscription that has ended."""
        namespace = self._namespaces.of(channel)
        if namespace.map is not None and namespace.map.remove_on_unsubscribe:
            self._remove(channel, self._roster.client_id(connection))
        if namespace.clients_map:
            clients = self._namespaces.map_of_clients(channel)
            # The client may be in this map for another subscription too.
            if all(clients != self._namespaces.map_of_clients(other) for other in connection.subscriptions):
                self._remove(clients, self._roster.client_id(connection))

    def wrote(self, connection: Connection, publication: Publication) -> None:
        """Note a client's write into a map, so that its key is removed although it is not subscribed."""
        options, change, channel = self._namespaces.of(publication.channel).map, publication.change, publication.channel
        if options is None or not options.remove_on_unsubscribe or change is None or change.is_removed:
            return
        client = self._roster.client_id(connection)
        if change.key != client or channel in connection.subscriptions:
            return
        if connection.state is State.CLOSED:  # the application was asked meanwhile
            self._remove(channel, client)
            return
        written = self._written.setdefault(connection, set())
        if len(written) < _MAX_WRITTEN:
            written.add(channel)

    def left(self, connection: Connection) -> None:
        """Remove the keys of a connection that has ended, and had no subscription to their maps."""
        for channel in self._written.pop(connection, ()):
            self._remove(channel, self._roster.client_id(connection))

    def _add(self, channel: str, key: str, info: ClientInfo | None) -> None:
        """Write a key unless it is there. Names and users that no map can hold are left out."""
        if len(channel.encode()) > MAX_CHANNEL_BYTES:
            return
        try:
            check_key(key)
        except ClientError:
            return
        options = self._namespaces.of(channel).map
        assert options is not None  # noqa: S101  (for the type checker: it was checked at the start)
        publication = Publication(channel, b"", Kind.JSON, info=info, change=Change(key))
        done = partial(self._on_added, channel, key)
        self._store.submit(publication, self._namespaces.of(channel), done, conditions=_IF_NEW)
        self._refreshes.call_in(channel, options.key_ttl_s / _REFRESHES_PER_TTL)

    def _on_added(self, channel: str, key: str, result: Written | ClientError | BrokerUnavailable) -> None:
        if isinstance(result, BrokerUnavailable):
            self._refreshes.call_in(channel, _RETRY_S)
        elif isinstance(result, ClientError):
            if channel not in self._refused:
                self._refused.add(channel)
                log.warning("map_presence.refused", channel=channel, reason=str(result))
        elif result.suppressed is Suppressed.KEY_EXISTS:
            self._existing.setdefault(channel, set()).add(key)
            self._touches.call_in(channel, 0)

    def _remove(self, channel: str, key: str) -> None:
        publication = Publication(channel, b"", Kind.JSON, change=Change(key, is_removed=True))
        done = partial(self._on_removed, channel, key)
        self._store.submit(publication, self._namespaces.of(channel), done)

    def _on_removed(self, channel: str, key: str, result: Written | ClientError | BrokerUnavailable) -> None:
        if not isinstance(result, BrokerUnavailable):
            return
        if self._unremoved_count < _MAX_UNREMOVED:
            self._unremoved.setdefault(channel, []).append(key)
            self._unremoved_count += 1
            self._refreshes.call_in(channel, _RETRY_S)

    async def _refresh(self, channel: str) -> float | None:
        """Refresh the keys of a map; return when to do so again, or None once no subscriber here has one."""
        present = self._present(channel)
        unremoved = self._unremoved.pop(channel, None)
        if unremoved is not None:
            self._unremoved_count -= len(unremoved)
            clients = map(self._roster.client_id, self._hub.subscribers(channel))
            for key in set(unremoved).difference(present, clients):
                self._remove(channel, key)
        if not present:
            self._refused.discard(channel)
            return None
        await self._touch(channel, present)
        options = self._namespaces.of(channel).map
        assert options is not None  # noqa: S101  (for the type checker)
        return options.key_ttl_s / _REFRESHES_PER_TTL

    async def _touch_existing(self, channel: str) -> None:
        await self._touch(channel, self._existing.pop(channel, ()))

    async def _touch(self, channel: str, keys: Iterable[str]) -> None:
        """Let keys expire later, and write those again that are absent and still belong to a subscriber."""
        absent = await self._store.touch(channel, self._namespaces.of(channel), list(keys))
        if absent:
            present = self._present(channel)
            for key in absent:
                if key in present:
                    self._add(channel, key, present[key])

    def _present(self, channel: str) -> dict[str, ClientInfo | None]:
        """Return the keys of a map that belong to subscribers here, with the infos of clients."""
        found: dict[str, ClientInfo | None] = {}
        for subject in self._namespaces.subjects_of(channel):
            if subject not in self._hub.channels():
                continue
            if self._namespaces.map_of_clients(subject) == channel:
                infos = (self._roster.info(connection, subject) for connection in self._hub.subscribers(subject))
                found.update((info.client, info) for info in infos)
            if self._namespaces.map_of_users(subject) == channel:
                found.update((connection.user, None) for connection in self._hub.subscribers(subject))
        found.pop("", None)
        return found
