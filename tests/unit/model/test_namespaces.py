from __future__ import annotations

from typing import Any

import pytest

from roomcast.model.maps import ClientKey, MapMode, MapOptions
from roomcast.model.namespaces import DEFAULTS, ChannelType, Namespace, Namespaces, Recovery, SlowPolicy, Who

PERSISTENT = MapOptions(mode=MapMode.PERSISTENT)
RECOVERABLE = MapOptions(mode=MapMode.RECOVERABLE, key_ttl_s=60)
EPHEMERAL = MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=60)
MAP, CLIENTS, USERS = ChannelType.MAP, ChannelType.MAP_CLIENTS, ChannelType.MAP_USERS


def test_the_default_maps() -> None:
    state, cursors, online = DEFAULTS["state"], DEFAULTS["cursors"], DEFAULTS["online"]

    assert state.map is not None
    assert cursors.map is not None
    assert online.map is not None
    assert [each.type for each in (state, cursors, online)] == [MAP, MAP, CLIENTS]
    assert state.map.mode is MapMode.PERSISTENT
    assert (state.recovery, state.window_size) == (Recovery.STREAM, 1000)
    assert (cursors.map.mode, cursors.map.key_ttl_s) == (MapMode.EPHEMERAL, 15)
    assert (cursors.map.client_key, cursors.map.remove_on_unsubscribe) == (ClientKey.CLIENT_ID, True)
    assert cursors.slow is online.slow is SlowPolicy.LATEST
    assert online.clients_map == "online"
    assert online.may_publish is online.may_remove is Who.NOBODY


@pytest.mark.parametrize("options", [PERSISTENT, RECOVERABLE])
def test_a_map_with_a_history_recovers_and_has_one_by_default(options: MapOptions) -> None:
    chosen = Namespace(type=MAP, map=options)
    given = Namespace(type=MAP, map=options, history_size=2, history_ttl_s=5)

    assert (chosen.history_size, chosen.history_ttl_s, chosen.recovery) == (100, 60, Recovery.STREAM)
    assert (given.history_size, given.history_ttl_s, given.window_size) == (2, 5, 2)


def test_an_ephemeral_map_has_positions_and_no_history() -> None:
    namespace = Namespace(type=MAP, map=EPHEMERAL)

    assert namespace.has_positions
    assert (namespace.history_size, namespace.recovery) == (0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": MAP}, "and the table map go together"),
        ({"type": CLIENTS}, "and the table map go together"),
        ({"map": PERSISTENT}, "and the table map go together"),
        ({"may_remove": Who.USERS}, "may_remove is for maps"),
        ({"type": MAP, "map": PERSISTENT, "recovery": Recovery.STREAM}, "recovery is not for maps: their mode decides"),
        ({"type": MAP, "map": PERSISTENT, "personal": True}, "personal is not for maps"),
        ({"type": MAP, "map": PERSISTENT, "slow": SlowPolicy.DROP_OLDEST}, 'slow = "drop_oldest" is not for maps'),
        ({"type": CLIENTS, "map": PERSISTENT}, "a map of clients or users cannot be persistent"),
        ({"type": USERS, "map": PERSISTENT}, "a map of clients or users cannot be persistent"),
        (
            {"type": USERS, "map": MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=0.9)},
            "key_ttl_s of a map of clients or users must be at least 1",
        ),
        ({"type": MAP, "map": EPHEMERAL, "history_size": 10}, "an ephemeral map has no history_size"),
        ({"type": MAP, "map": EPHEMERAL, "history_ttl_s": 10}, "an ephemeral map has no history_size"),
        ({"type": MAP, "map": RECOVERABLE, "history_size": 10}, "history needs both"),
        ({"type": MAP, "map": PERSISTENT, "history_ttl_s": 10}, "history needs both"),
        (
            {
                "type": MAP,
                "map": MapOptions(mode=MapMode.RECOVERABLE, key_ttl_s=5, meta_ttl_s=9),
                "history_size": 1,
                "history_ttl_s": 10,
            },
            "meta_ttl_s must be at least history_ttl_s",
        ),
    ],
)
def test_a_bad_combination_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Namespace(**options)


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (Namespace(clients_map="here"), r'^\[room\] clients_map must .* "map_clients": there is no such namespace$'),
        (Namespace(clients_map="room"), r'^\[room\] clients_map must .* "map_clients": its type is "stream"$'),
        (Namespace(clients_map="board"), r'^\[room\] clients_map must .* "map_clients": its type is "map"$'),
        (Namespace(clients_map="users"), r'^\[room\] clients_map must .* "map_clients": its type is "map_users"$'),
        (Namespace(users_map="clients"), r'^\[room\] users_map must .* "map_users": its type is "map_clients"$'),
        (Namespace(type=MAP, map=EPHEMERAL, users_map="x"), r"^\[room\] users_map must .* there is no such namespace$"),
    ],
)
def test_a_map_of_subscribers_that_is_none_is_refused(room: Namespace, message: str) -> None:
    others = {
        "board": Namespace(type=MAP, map=PERSISTENT),
        "clients": Namespace(type=CLIENTS, map=EPHEMERAL),
        "users": Namespace(type=USERS, map=EPHEMERAL),
    }
    Namespaces({**others, "room": Namespace(clients_map="clients", users_map="users")})

    with pytest.raises(ValueError, match=message):
        Namespaces({**others, "room": room})


def test_the_namespace_of_other_channels_names_maps_too() -> None:
    with pytest.raises(ValueError, match=r"^\[default\] clients_map must name"):
        Namespaces(default=Namespace(clients_map="here"))
