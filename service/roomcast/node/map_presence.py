"""Keys of maps that belong to connections: they are written, kept and removed with the subscriptions of clients."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from roomcast.brokers.map_interface import MapStore
from roomcast.connections.connection import Connection, State
from roomcast.model.channels import MAX_CHANNEL_BYTES
from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Publication
from roomcast.node.channel_timers import ChannelTimers
from roomcast.node.hub import Hub
from roomcast.node.map_rounds import MapRounds
from roomcast.node.roster import HubRoster
from roomcast.tasks import run_together

# Two refreshes may fail before a key expires.
_REFRESHES_PER_TTL = 3
# Maps that a client writes without a subscription; in others its key is left to its time.
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
        self._existing: dict[str, set[str]] = {}  # keys that were there already, by map: their time is an older one
        self._rounds = MapRounds(store, namespaces, self._on_existing)
        self._refreshes = ChannelTimers(self._refresh)
        self._touches = ChannelTimers(self._touch_existing)

    async def run(self) -> None:
        """Refresh keys; end only when cancelled."""
        await run_together(refreshes=self._refreshes.run(), touches=self._touches.run())

    def flush(self) -> None:
        """Submit the writes of the next round now, because the node shuts down."""
        self._rounds.flush()

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
            self._rounds.remove(channel, self._roster.client_id(connection))
        if namespace.clients_map:
            clients = self._namespaces.map_of_clients(channel)
            # The client may be in this map for another subscription too.
            if all(clients != self._namespaces.map_of_clients(other) for other in connection.subscriptions):
                self._rounds.remove(clients, self._roster.client_id(connection))

    def wrote(self, connection: Connection, publication: Publication) -> None:
        """Note a client's write into a map, so that its key is removed although it is not subscribed."""
        options, change, channel = self._namespaces.of(publication.channel).map, publication.change, publication.channel
        if options is None or not options.remove_on_unsubscribe or change is None or change.is_removed:
            return
        client = self._roster.client_id(connection)
        if change.key != client:
            return
        self._rounds.keep(channel, client)
        if channel in connection.subscriptions:
            return
        if connection.state is State.CLOSED:  # the application was asked meanwhile
            self._rounds.remove(channel, client)
            return
        written = self._written.setdefault(connection, set())
        if len(written) < _MAX_WRITTEN:
            written.add(channel)

    def left(self, connection: Connection) -> None:
        """Remove the keys of a connection that has ended, and had no subscription to their maps."""
        for channel in self._written.pop(connection, ()):
            self._rounds.remove(channel, self._roster.client_id(connection))

    def _add(self, channel: str, key: str, info: ClientInfo | None) -> None:
        """Set a key unless it is there. A name that no channel can have is left out."""
        if len(channel.encode()) > MAX_CHANNEL_BYTES:
            return
        self._rounds.set(channel, key, info)
        self._refreshes.call_in(channel, self._interval_s(channel))

    def _on_existing(self, channel: str, key: str) -> None:
        self._existing.setdefault(channel, set()).add(key)
        self._touches.call_in(channel, 0)

    async def _refresh(self, channel: str) -> float | None:
        """Refresh the keys of a map; return when to do so again, or None once no subscriber here has one."""
        present = self._present(channel)
        if not present:
            return None
        await self._touch(channel, present)
        return self._interval_s(channel)

    async def _touch_existing(self, channel: str) -> None:
        await self._touch(channel, self._existing.pop(channel, ()))

    async def _touch(self, channel: str, keys: Iterable[str]) -> None:
        """Let keys expire later, and write those again that are absent and still belong to a subscriber."""
        absent = await self._store.touch(channel, self._namespaces.of(channel), list(keys))
        if absent:
            present = self._present(channel)
            for key in absent:
                if key in present:
                    client = present[key]
                    self._add(channel, key, None if client is None else self._roster.info(*client))

    def _interval_s(self, channel: str) -> float:
        return self._namespaces.of_map(channel).map_options.key_ttl_s / _REFRESHES_PER_TTL

    def _present(self, channel: str) -> dict[str, tuple[Connection, str] | None]:
        """Return the keys of a map that belong to subscribers here; those of clients with their subscriptions."""
        found: dict[str, tuple[Connection, str] | None] = {}
        for subject in self._namespaces.subjects_of(channel):
            if subject not in self._hub.channels():
                continue
            subscribers = tuple(self._hub.subscribers(subject))
            if self._namespaces.map_of_clients(subject) == channel:
                ids = map(self._roster.client_id, subscribers)
                found |= zip(ids, zip(subscribers, repeat(subject)), strict=False)
            if self._namespaces.map_of_users(subject) == channel:
                found |= dict.fromkeys(connection.user for connection in subscribers if connection.user)
        return found
