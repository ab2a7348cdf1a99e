"""The keys of connections in maps: written, refreshed and removed, in virtual time and on a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from roomcast.brokers.map_interface import UNCONDITIONAL, Conditions, Suppressed, Written
from roomcast.brokers.redis_maps import RedisMaps
from roomcast.connections.connection import Connection, State, Subscription
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.maps import Change, KeyMode, MapMode, MapOptions
from roomcast.model.namespaces import DEFAULTS, ChannelType, Namespace, Namespaces, SlowPolicy
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.node.hub import Hub
from roomcast.node.map_presence import MapPresence
from roomcast.node.roster import HubRoster
from roomcast.tasks import end
from tests.support.fakes import RAW, Schedule, connection
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio

TTL_S = 60
KEYS = MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=TTL_S)
NAMESPACES = Namespaces(
    {
        **DEFAULTS,
        "room": Namespace(clients_map="here", users_map="users"),
        "here": Namespace(type=ChannelType.MAP_CLIENTS, map=KEYS),
        "users": Namespace(type=ChannelType.MAP_USERS, map=KEYS),
        "shared": Namespace(clients_map="online"),
    },
    Namespace(clients_map="here"),
)


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, object]]:
    return BACKEND


class Store(RedisMaps):
    """Maps whose keys expire, by channel and key. failure: of each call, while it is set."""

    def __init__(self) -> None:
        self.failure: BrokerUnavailable | ClientError | None = None
        self.writes: list[tuple[str, str, str]] = []
        self.touched: list[tuple[str, int]] = []  # channel and number of keys
        self._keys: dict[str, dict[str, tuple[float, ClientInfo | None]]] = {}

    def keys(self, channel: str) -> dict[str, ClientInfo | None]:
        """Return the keys that are not over, with their infos."""
        now_s = asyncio.get_running_loop().time()
        return {key: info for key, (until_s, info) in self._keys.get(channel, {}).items() if until_s > now_s}

    def lose(self) -> None:
        """Lose all keys."""
        self._keys.clear()

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        on_done: Callable[[Written | ClientError | BrokerUnavailable], None],
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> None:
        channel, change = publication.channel, publication.change
        assert change is not None
        self.writes.append(("remove" if change.is_removed else "set", channel, change.key))
        present, suppressed = change.key in self.keys(channel), None
        if self.failure is not None:
            on_done(self.failure)
            return
        if change.is_removed:
            self._keys.setdefault(channel, {}).pop(change.key, None)
        elif present and conditions.mode is KeyMode.IF_NEW:
            suppressed = Suppressed.KEY_EXISTS
        else:
            until_s = asyncio.get_running_loop().time() + TTL_S
            self._keys.setdefault(channel, {})[change.key] = (until_s, publication.info)
        on_done(Written(Position(1, "e"), suppressed))

    async def touch(self, channel: str, namespace: Namespace, keys: Sequence[str]) -> list[str]:
        await asyncio.sleep(0.001)
        if self.failure is not None:
            raise self.failure
        self.touched.append((channel, len(keys)))
        present = self.keys(channel)
        until_s = asyncio.get_running_loop().time() + TTL_S
        for key in present.keys() & set(keys):
            self._keys[channel][key] = (until_s, present[key])
        return [key for key in keys if key not in present]


class Here:
    """A node's hub, with what belongs to it."""

    def __init__(self) -> None:
        self.store = Store()
        self.hub = Hub(Schedule())
        self.roster = HubRoster(self.hub, "n1")
        self.presence = MapPresence(self.store, NAMESPACES, self.hub, self.roster)

    def connect(self, user: str, *channels: str) -> Connection:
        """Return a client that is subscribed to channels."""
        client, _ = connection()
        client.user = user
        self.hub.add(client)
        for channel in channels:
            self.subscribe(client, channel)
        return client

    def subscribe(self, client: Connection, channel: str, info: bytes = b"") -> None:
        self.hub.subscribe(client, channel, Subscription(RAW, info), SlowPolicy.DISCONNECT)
        self.presence.began(client, channel)

    def unsubscribe(self, client: Connection, channel: str) -> None:
        self.hub.unsubscribe(client, channel)
        self.presence.ended(client, channel)

    def leave(self, client: Connection) -> None:
        for channel in self.hub.remove(client):
            self.presence.ended(client, channel)
        self.presence.left(client)
        client.on_closed()

    def id_of(self, client: Connection) -> str:
        return self.roster.client_id(client)


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    here = Here()
    async with running(here.presence):
        yield here


async def settle() -> None:
    """Wait for the next round."""
    await asyncio.sleep(0.06)


@asynccontextmanager
async def running(presence: MapPresence) -> AsyncIterator[None]:
    task = asyncio.create_task(presence.run())
    try:
        yield
    finally:
        await end(task)


async def test_a_subscription_is_a_key_with_its_info_in_the_map_of_clients_until_it_ends(here: Here) -> None:
    ada = here.connect("ada")
    ada.info = b'{"n":1}'
    here.subscribe(ada, "room:lobby", b'{"is":"here"}')

    await settle()
    info = ClientInfo(here.id_of(ada), "ada", b'{"n":1}', b'{"is":"here"}')
    assert here.store.keys("here:room:lobby") == {here.id_of(ada): info}

    here.unsubscribe(ada, "room:lobby")
    await settle()
    assert here.store.keys("here:room:lobby") == {}
    here.subscribe(ada, "room:lobby")
    await settle()
    here.leave(ada)
    await settle()
    assert here.store.keys("here:room:lobby") == {}


async def test_a_user_is_one_key_without_info_that_expires_after_its_last_client(here: Here) -> None:
    first, second, anonymous = (here.connect(user, "room:lobby") for user in ("ada", "ada", ""))
    await settle()

    assert here.store.keys("users:room:lobby") == {"ada": None}
    for client in (first, second, anonymous):
        here.leave(client)
    await settle()
    assert here.store.keys("users:room:lobby") == {"ada": None}
    assert ("remove", "users:room:lobby", "ada") not in here.store.writes
    await asyncio.sleep(TTL_S + 1)
    assert here.store.keys("users:room:lobby") == {}


async def test_a_user_that_returns_keeps_its_key_for_the_whole_time(here: Here) -> None:
    here.leave(here.connect("ada", "room:lobby"))
    await asyncio.sleep(TTL_S - 1)
    here.connect("ada", "room:lobby")
    await settle()

    for _ in range(100):
        assert here.store.keys("users:room:lobby") == {"ada": None}
        await asyncio.sleep(1)


async def test_keys_are_refreshed_together_and_not_written_again(here: Here) -> None:
    for number in range(1200):
        here.connect(f"user-{number}", "room:lobby")
    await asyncio.sleep(1)
    here.store.writes.clear()
    await asyncio.sleep(TTL_S / 3)

    assert sorted(here.store.touched) == [("here:room:lobby", 1200), ("users:room:lobby", 1200)]
    await asyncio.sleep(10 * TTL_S)
    assert here.store.writes == []
    assert len(here.store.keys("here:room:lobby")) == len(here.store.keys("users:room:lobby")) == 1200


async def test_nothing_is_sent_once_the_last_one_has_left(here: Here) -> None:
    ada = here.connect("ada", "room:lobby")
    await asyncio.sleep(TTL_S)
    here.leave(ada)
    here.store.touched.clear()
    await asyncio.sleep(10 * TTL_S)

    assert here.store.touched == []


async def test_keys_that_redis_has_lost_are_written_again_with_their_info(here: Here) -> None:
    ada = here.connect("ada", "room:lobby")
    gone = here.connect("gone", "room:lobby")
    await settle()
    here.store.lose()
    here.leave(gone)
    await asyncio.sleep(TTL_S / 3 + 1)

    assert here.store.keys("here:room:lobby") == {here.id_of(ada): ClientInfo(here.id_of(ada), "ada")}
    assert here.store.keys("users:room:lobby") == {"ada": None}


async def test_a_map_that_names_itself_holds_its_own_subscribers(here: Here) -> None:
    ada = here.connect("ada", "online:lobby")
    await settle()

    assert here.store.keys("online:lobby").keys() == {here.id_of(ada)}
    await asyncio.sleep(5 * TTL_S)
    assert here.store.keys("online:lobby").keys() == {here.id_of(ada)}
    here.leave(ada)
    await settle()
    assert here.store.keys("online:lobby") == {}


async def test_a_key_of_two_subscriptions_is_removed_with_the_last_one(here: Here) -> None:
    ada = here.connect("ada", "shared:a", "online:shared:a")

    here.unsubscribe(ada, "shared:a")
    await settle()
    assert here.store.keys("online:shared:a").keys() == {here.id_of(ada)}
    here.unsubscribe(ada, "online:shared:a")
    await settle()
    assert here.store.keys("online:shared:a") == {}


@pytest.mark.parametrize(
    ("channel", "clients_map"),
    [
        ("room:a:b", "here:room:a:b"),
        ("room:#ada", "here:room:#ada"),
        ("$room:board", "$here:room:board"),
        ("$board", "$here:board"),
        ("news", "here:news"),
        ("here", "here:here"),
        ("$online:board", "$online:board"),
    ],
)
async def test_maps_are_named_after_their_channels_and_those_of_private_ones_are_private(
    here: Here, channel: str, clients_map: str
) -> None:
    ada = here.connect("ada", channel)

    await settle()
    for _ in range(2):
        assert here.store.keys(clients_map).keys() == {here.id_of(ada)}
        here.store.lose()
        await asyncio.sleep(TTL_S)


async def test_maps_whose_name_no_channel_can_have_are_left_out(here: Here) -> None:
    here.connect("ada", f"room:{'x' * 248}")
    here.connect("", "room:lobby")
    await asyncio.sleep(TTL_S)

    assert {channel for _, channel, _ in here.store.writes} == {"here:room:lobby"}


async def test_a_clients_own_key_is_removed_with_its_subscription(here: Here) -> None:
    ada = here.connect("ada", "cursors:a", "state:a")
    here.unsubscribe(ada, "cursors:a")
    here.leave(ada)
    await settle()

    assert here.store.writes == [("remove", "cursors:a", here.id_of(ada))]


async def test_the_key_of_a_client_without_a_subscription_is_removed_when_it_leaves(here: Here) -> None:
    ada = here.connect("ada", "cursors:b")
    for channel, key in [
        ("cursors:a", here.id_of(ada)),
        ("cursors:a", "another"),
        ("cursors:b", here.id_of(ada)),
        ("state:a", here.id_of(ada)),
    ]:
        here.presence.wrote(ada, Publication(channel, b"{}", change=Change(key)))
    here.unsubscribe(ada, "cursors:b")
    here.presence.wrote(ada, Publication("cursors:b", b"{}", change=Change(here.id_of(ada))))
    await settle()
    assert here.store.writes == [], "it has written the key again"
    here.presence.wrote(ada, Publication("cursors:c", b"", change=Change(here.id_of(ada), is_removed=True)))
    here.leave(ada)
    await settle()

    assert sorted(here.store.writes) == [("remove", f"cursors:{name}", here.id_of(ada)) for name in "ab"]
    here.store.writes.clear()
    assert ada.state is State.CLOSED
    here.presence.wrote(ada, Publication("cursors:late", b"{}", change=Change(here.id_of(ada))))
    await settle()
    assert here.store.writes == [("remove", "cursors:late", here.id_of(ada))]


async def test_after_an_outage_keys_are_written_and_removed(here: Here) -> None:
    ada, bob, eve = (here.connect(user, "room:lobby", "cursors:a") for user in ("ada", "bob", "eve"))
    await settle()
    here.store.failure = BrokerUnavailable("away")
    here.leave(ada)
    here.unsubscribe(bob, "room:lobby")
    here.subscribe(bob, "room:lobby")
    here.unsubscribe(eve, "cursors:a")
    here.subscribe(eve, "cursors:a")
    kim = here.connect("kim", "room:lobby")
    await asyncio.sleep(7)
    assert here.id_of(ada) in here.store.keys("here:room:lobby")

    here.store.failure = None
    here.store.writes.clear()
    await asyncio.sleep(10)
    assert here.store.keys("here:room:lobby").keys() == {here.id_of(each) for each in (bob, eve, kim)}
    assert here.store.keys("users:room:lobby").keys() == {"ada", "bob", "eve", "kim"}
    assert ("remove", "cursors:a", here.id_of(ada)) in here.store.writes


async def test_a_map_that_is_full_is_tried_again_with_each_refresh(here: Here) -> None:
    here.store.failure = ClientError(ErrorCode.LIMIT_EXCEEDED, "too many keys")
    ada = here.connect("ada", "room:lobby")
    await settle()
    here.store.failure = None
    await asyncio.sleep(TTL_S / 3 + 1)

    assert here.store.keys("here:room:lobby").keys() == {here.id_of(ada)}
