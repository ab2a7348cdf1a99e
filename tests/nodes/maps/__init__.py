"""Maps on real nodes, by single commands of the Centrifuge protocol."""

from __future__ import annotations

from typing import Any

from tests.support.maps import Follower
from tests.support.processes import API_KEY, NodeProcess, http_client
from tests.support.speaker import Json, call_api

_EPHEMERAL, _PERSISTENT = {"mode": "ephemeral", "key_ttl_s": 60}, {"mode": "persistent"}

# Pages have as many entries as a client asks for.
NAMESPACES: dict[str, dict[str, Any]] = {
    "kept": {"map": {**_PERSISTENT, "min_page_size": 1}},
    "tracked": {"map": {"mode": "recoverable", "key_ttl_s": 60, "min_page_size": 1}},
    "fleeting": {"map": {**_EPHEMERAL, "min_page_size": 1}},
    "teams": {"map": {**_PERSISTENT, "min_page_size": 1}, "tags_filter": True},
    "guests": {"map": {**_EPHEMERAL, "min_page_size": 1}, "tags_filter": True},
    "small": {"map": _PERSISTENT, "history_size": 2, "history_ttl_s": 60},
    "brief": {"map": _PERSISTENT, "history_size": 10, "history_ttl_s": 0.3},
    "fading": {"map": {**_EPHEMERAL, "key_ttl_s": 0.5, "min_page_size": 1}},
    "flagging": {"map": {"mode": "recoverable", "key_ttl_s": 0.5, "min_page_size": 1}},
    "cursor": {"map": {**_EPHEMERAL, "client_key": "client_id", "remove_on_unsubscribe": True}},
    "own": {"map": {**_PERSISTENT, "client_key": "user_id"}},
    "lobby": {"map": _EPHEMERAL, "clients_map": "clients", "users_map": "users"},
    "clients": {"type": "map_clients", "map": _EPHEMERAL},
    "users": {"type": "map_users", "map": _EPHEMERAL},
    "tagged": {"map": _PERSISTENT, "tags_filter": True},
    "differing": {"map": {**_PERSISTENT, "min_page_size": 1}, "delta": True},
    "blinking": {"map": {**_EPHEMERAL, "min_page_size": 1}, "delta": True},
    "readonly": {"map": _PERSISTENT, "may_publish": "nobody", "may_remove": "nobody"},
    "hasty": {"map": {**_PERSISTENT, "min_page_size": 1, "catch_up_timeout_s": 0.2}},
    "stream": {"type": "stream", "may_remove": "nobody", "map": {}},
}


async def put(node: NodeProcess, channel: str, key: str, data: Any = None, **options: Any) -> Json:
    """Set a key by the server API."""
    return await call_api(node, "map_publish", channel=channel, key=key, data=data, **options)


async def put_all(node: NodeProcess, channel: str, entries: dict[str, Any]) -> None:
    """Set keys, one after the other."""
    commands = [{"map_publish": {"channel": channel, "key": key, "data": data}} for key, data in entries.items()]
    await batch(node, commands)


async def batch(node: NodeProcess, commands: list[Json]) -> None:
    """Call methods of the server API, one after the other."""
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        response = await http.post(node.http("/api/batch"), json={"commands": commands})
    for reply in response.json()["replies"]:
        assert "error" not in reply, reply


async def remove(node: NodeProcess, channel: str, key: str) -> Json:
    """Remove a key by the server API."""
    return await call_api(node, "map_remove", channel=channel, key=key)


async def map_in_redis(node: NodeProcess, channel: str) -> dict[str, Any]:
    """Return the data by key of the whole map, as the server API reads it."""
    found = await call_api(node, "map_read_state", channel=channel, limit=-1)
    return {entry["key"]: entry.get("data") for entry in found.get("entries", [])}


async def has_come(node: NodeProcess, follower: Follower) -> None:
    """Set one more key, and wait until the client has it: then it has everything before."""
    await put(node, follower.channel, "marker", 1)
    await follower.follow(lambda entries: "marker" in entries)
