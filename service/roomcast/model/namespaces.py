"""Namespaces: the features and permissions of a group of channels. `room:lobby` is in the namespace `room`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from roomcast.model.channels import is_of_nodes
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import ClientKey, MapMode, MapOptions

# The prefix of a private channel: `$room:board` (service/roomcast/auth/permissions.py).
PRIVATE = "$"

# A client that missed more reads the history in pages, or restarts.
MAX_RECOVERED = 300


# So many changes of a map are read for a client that returns, at most; one that missed more loads the whole map again.
_MAX_RECOVERED_CHANGES = 1000
_CHANGES, _CHANGES_TTL_S = 100, 60.0


class ChannelType(enum.Enum):
    """What a channel is. The numbers are those of the Centrifuge protocol."""

    STREAM = "stream"  # publications, one after the other
    MAP = "map"  # a value for each of its keys
    MAP_CLIENTS = "map_clients"  # a map of connections: presence
    MAP_USERS = "map_users"  # a map of users: presence

    @property
    def number(self) -> int:
        """Return the type's number on the wire."""
        return list(ChannelType).index(self)


class SlowPolicy(enum.Enum):
    """The treatment of a client that reads publications more slowly than they arrive."""

    DISCONNECT = "disconnect"  # it is closed with 3008 past its limit, and may reconnect
    DROP_OLDEST = "drop_oldest"  # it misses the oldest, and receives their number
    LATEST = "latest"  # it receives the newest of each channel, of a map of each key: for figures, cursors, game states


class Recovery(enum.Enum):
    """The publications that a reconnecting client receives."""

    STREAM = "stream"  # all that it missed
    CACHE = "cache"  # the newest publication alone


class Who(enum.Enum):
    """The clients that may do something in a channel; services may do everything."""

    NOBODY = "nobody"
    SUBSCRIBERS = "subscribers"
    USERS = "users"  # clients with a user
    ANYONE = "anyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """The features and permissions of a namespace's channels.

    history_size: publications kept, 0: none. history_ttl_s: after the newest one.
    recovery: None: clients receive no positions and cannot recover.
    presence: the channel's members can be read. join_leave: subscribers that ask for joins and leaves receive them.
    force_push_join_leave: so do all other subscribers of the Centrifuge protocol, those by the server too.
    delta: clients may request differences to the publication before (fossil). tags_filter: clients may filter
        publications by tags.
    personal: every client with a user is subscribed to `<namespace>:#<user>` when it connects.
    type: of the channels; maps have their options in `map`, and a history of their changes unless they are ephemeral.
    clients_map, users_map: the namespaces of maps that hold the subscribers of this one: those of `room:lobby` are in
        `<clients_map>:room:lobby`. A namespace of such maps that names itself: its own subscribers.
    may_remove: remove keys of a map.
    """

    # pydantic, which reads the file, rejects unknown names.
    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid"}

    history_size: int = 0
    history_ttl_s: float = 0.0
    recovery: Recovery | None = None
    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    delta: bool = False
    tags_filter: bool = False
    personal: bool = False
    slow: SlowPolicy = SlowPolicy.DISCONNECT
    may_subscribe: Who = Who.ANYONE
    may_publish: Who = Who.NOBODY
    may_read_history: Who = Who.NOBODY
    may_see_presence: Who = Who.NOBODY
    type: ChannelType = ChannelType.STREAM
    map: MapOptions | None = None
    clients_map: str = ""
    users_map: str = ""
    may_remove: Who = Who.NOBODY

    def __post_init__(self) -> None:
        """Check the limits and the dependencies of features. Raises: ValueError."""
        self._check_map()
        if not 0 <= self.history_size <= 100_000:
            raise ValueError("history_size must be 0 to 100000")
        if not 0 <= self.history_ttl_s <= 366 * 24 * 3600:
            raise ValueError("history_ttl_s must be 0 to 366 days")
        if bool(self.history_size) != bool(self.history_ttl_s):
            raise ValueError("history needs both history_size and history_ttl_s")
        if self.recovery and not self.history_size:
            raise ValueError("recovery needs a history")
        if self.join_leave and not self.presence:
            raise ValueError("join_leave needs presence")

    def _check_map(self) -> None:
        """Check the options of maps, and choose those that their mode decides. Raises: ValueError."""
        options = self.map
        if (options is None) != (self.type is ChannelType.STREAM):
            raise ValueError('type = "map", "map_clients" or "map_users" and the table map go together')
        if options is None:
            if self.may_remove is not Who.NOBODY:
                raise ValueError("may_remove is for maps")
            return
        if self.recovery:
            raise ValueError("recovery is not for maps: their mode decides")
        if self.personal:
            raise ValueError("personal is not for maps: clients subscribe to them by themselves")
        if self.slow is SlowPolicy.DROP_OLDEST:
            raise ValueError('slow = "drop_oldest" is not for maps: a client would keep old values')
        if self.type is not ChannelType.MAP and options.mode is MapMode.PERSISTENT:
            raise ValueError("a map of clients or users cannot be persistent: its keys must expire")
        if self.type is not ChannelType.MAP and options.key_ttl_s < 1:
            raise ValueError("key_ttl_s of a map of clients or users must be at least 1: nodes refresh its keys")
        if options.mode is MapMode.EPHEMERAL:
            if self.history_size or self.history_ttl_s:
                raise ValueError("an ephemeral map has no history_size and history_ttl_s")
            return
        if not self.history_size and not self.history_ttl_s:
            object.__setattr__(self, "history_size", _CHANGES)
            object.__setattr__(self, "history_ttl_s", _CHANGES_TTL_S)
        object.__setattr__(self, "recovery", Recovery.STREAM)
        if options.meta_ttl_s and options.meta_ttl_s < self.history_ttl_s:
            raise ValueError("meta_ttl_s must be at least history_ttl_s")

    @property
    def has_positions(self) -> bool:
        """Return whether the publications are numbered, so that a lost one is noticed."""
        return bool(self.history_size) or self.map is not None

    @property
    def tells_positions(self) -> bool:
        """Return whether clients receive positions. Those of ephemeral maps are for the nodes alone."""
        return bool(self.history_size)

    @property
    def map_options(self) -> MapOptions:
        """Return the options of a namespace of maps."""
        assert self.map is not None, "not a namespace of maps"  # noqa: S101  (a caller's error)
        return self.map

    @property
    def window_size(self) -> int:
        """Return the most publications that a reconnecting client may receive."""
        if self.map is not None:
            return min(self.history_size, _MAX_RECOVERED_CHANGES)
        return 1 if self.recovery is Recovery.CACHE else min(self.history_size, MAX_RECOVERED)


DEFAULTS: Mapping[str, Namespace] = {
    "room": Namespace(
        history_size=300,
        history_ttl_s=300.0,
        recovery=Recovery.STREAM,
        presence=True,
        join_leave=True,
        may_publish=Who.ANYONE,
        may_read_history=Who.ANYONE,
        may_see_presence=Who.ANYONE,
    ),
    "metrics": Namespace(
        history_size=300,
        history_ttl_s=600.0,
        recovery=Recovery.CACHE,
        slow=SlowPolicy.LATEST,
        may_read_history=Who.ANYONE,
    ),
    "draw": Namespace(
        history_size=300,
        history_ttl_s=3600.0,
        recovery=Recovery.STREAM,
        presence=True,
        slow=SlowPolicy.DROP_OLDEST,
        may_publish=Who.SUBSCRIBERS,
        may_read_history=Who.SUBSCRIBERS,
        may_see_presence=Who.SUBSCRIBERS,
    ),
    "game": Namespace(
        history_size=1,
        history_ttl_s=60.0,
        recovery=Recovery.CACHE,
        presence=True,
        join_leave=True,
        slow=SlowPolicy.LATEST,
        may_see_presence=Who.SUBSCRIBERS,
    ),
    "notify": Namespace(history_size=100, history_ttl_s=24 * 3600.0, recovery=Recovery.STREAM),
    "user": Namespace(
        history_size=100, history_ttl_s=24 * 3600.0, recovery=Recovery.STREAM, may_subscribe=Who.NOBODY, personal=True
    ),
    "state": Namespace(
        type=ChannelType.MAP,
        map=MapOptions(mode=MapMode.PERSISTENT),
        history_size=1000,
        history_ttl_s=3600.0,
        may_publish=Who.SUBSCRIBERS,
        may_remove=Who.SUBSCRIBERS,
    ),
    "cursors": Namespace(
        type=ChannelType.MAP,
        map=MapOptions(
            mode=MapMode.EPHEMERAL, key_ttl_s=15.0, client_key=ClientKey.CLIENT_ID, remove_on_unsubscribe=True
        ),
        slow=SlowPolicy.LATEST,
        may_publish=Who.SUBSCRIBERS,
        may_remove=Who.SUBSCRIBERS,
    ),
    "online": Namespace(
        type=ChannelType.MAP_CLIENTS,
        map=MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=60.0),
        slow=SlowPolicy.LATEST,
        clients_map="online",
    ),
}


class Namespaces:
    """All namespaces by name.

    Raises: ValueError if clients_map or users_map names no such namespace.
    Args:
        default: the options of channels without a namespace, such as `news`, `#42`, `$board` and `:a`; None: there are
            no such channels.
    """

    def __init__(self, by_name: Mapping[str, Namespace] = DEFAULTS, default: Namespace | None = None) -> None:
        self._by_name = dict(by_name) if default is None else {**by_name, "": default}
        for name, namespace in self._by_name.items():
            self._check_reference(name, "clients_map", namespace.clients_map, ChannelType.MAP_CLIENTS)
            self._check_reference(name, "users_map", namespace.users_map, ChannelType.MAP_USERS)

    def of(self, channel: str) -> Namespace:
        """Return the namespace of a channel; `$room:board`, a private one, is in `room`. Raises: ClientError 102."""
        name, colon, _ = channel.removeprefix(PRIVATE).partition(":")
        namespace = self._by_name.get(name if colon else "")
        if is_of_nodes(channel):
            raise ClientError(ErrorCode.UNKNOWN_CHANNEL, "only nodes use this channel; choose another name")
        if namespace is None:
            what = f"no namespace {name!r}" if colon else "no namespace: a channel is written namespace:name"
            raise ClientError(ErrorCode.UNKNOWN_CHANNEL, what)
        return namespace

    def of_map(self, channel: str) -> Namespace:
        """Return the namespace of a map. Raises: ClientError 102, and 107 for another channel."""
        namespace = self.of(channel)
        if namespace.map is None:
            raise ClientError(ErrorCode.BAD_REQUEST, "this channel is not a map")
        return namespace

    def map_of_clients(self, channel: str) -> str:
        """Return the map that holds the clients of a channel; "" if there is none."""
        return self._map_of_subscribers(channel, self.of(channel).clients_map)

    def map_of_users(self, channel: str) -> str:
        """Return the map that holds the users of a channel; "" if there is none."""
        return self._map_of_subscribers(channel, self.of(channel).users_map)

    def subjects_of(self, channel: str) -> list[str]:
        """Return the channels whose subscribers a map may hold: its own, and those of the channel in its name."""
        rest = channel.partition(":")[2]
        return [channel, PRIVATE * channel.startswith(PRIVATE) + rest] if rest else [channel]

    def _check_reference(self, name: str, option: str, map_name: str, wanted: ChannelType) -> None:
        found = self._by_name.get(map_name)
        if map_name and (found is None or found.type is not wanted):
            reason = "there is no such namespace" if found is None else f'its type is "{found.type.value}"'
            raise ValueError(f'[{name or "default"}] {option} must name a namespace of type "{wanted.value}": {reason}')

    def _map_of_subscribers(self, channel: str, map_name: str) -> str:
        """Return the map of this namespace; that of a private channel is private too."""
        plain = channel.removeprefix(PRIVATE)
        if not map_name:
            return ""
        if plain.startswith(f"{map_name}:"):
            return channel
        return f"{PRIVATE * channel.startswith(PRIVATE)}{map_name}:{plain}"

    def personal(self) -> list[str]:
        """Return the names of the namespaces with personal channels; "" stands for channels without a namespace."""
        return [name for name, namespace in self._by_name.items() if namespace.personal]
