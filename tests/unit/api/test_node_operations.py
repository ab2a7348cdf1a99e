from __future__ import annotations

from typing import Any

import pytest

from roomcast.api.node_operations import NodeOperations
from roomcast.connections.connection import Connection, Subscription
from roomcast.model.errors import FORCE_DISCONNECT, Disconnect
from roomcast.model.namespaces import SlowPolicy
from roomcast.node.hub import Hub
from roomcast.node.roster import HubRoster
from roomcast.rooms.receivers import Echo
from tests.support.fakes import RAW, RecordingTransport, Schedule, connection

pytestmark = pytest.mark.anyio


class Place:
    """A hub with connections of users, and the operations of its node."""

    def __init__(self) -> None:
        self.hub = Hub(Schedule())
        self.now_s = 100.0
        self.roster = HubRoster(self.hub, "n1")
        self.sessions: dict[Connection, str] = {}
        self.operations = NodeOperations(
            self.hub,
            self.roster,
            node_id="n1",
            version="1.2.3",
            session_id_of=lambda connection: self.sessions.get(connection, ""),
            clock=lambda: self.now_s,
        )

    def add(self, user: str, *channels: str) -> tuple[Connection, RecordingTransport]:
        made, transport = connection()
        made.user = user
        self.hub.add(made)
        for channel in channels:
            self.hub.subscribe(made, channel, Subscription(RAW), SlowPolicy.DISCONNECT)
        return made, transport

    async def channels(self, pattern: str = "", cursor: str = "", limit: int = 100) -> Any:
        return await self.operations.channels({"pattern": pattern, "cursor": cursor, "limit": limit})


async def test_info_says_what_the_node_holds() -> None:
    place = Place()
    place.add("ada", "room:a", "room:b")
    place.add("ada", "room:a")
    place.add("")
    place.now_s += 7.9

    info = dict(await place.operations.info({}))

    process = info.pop("process")
    assert info == {
        "uid": "n1",
        "name": "n1",
        "version": "1.2.3",
        "num_clients": 3,
        "num_users": 2,
        "num_subs": 3,
        "num_channels": 2,
        "uptime": 7,
    }
    assert process["rss"] > 1_000_000
    assert process["cpu"] >= 0


async def test_channels_come_in_the_order_of_their_names_a_page_at_a_time() -> None:
    place = Place()
    place.add("", "room:c", "room:a", "game:a")
    place.add("", "room:a", "room:b")

    assert await place.channels("room:*", limit=2) == {"channels": {"room:a": 2, "room:b": 1}, "has_more": True}
    assert await place.channels("room:*", cursor="room:b") == {"channels": {"room:c": 1}, "has_more": False}
    assert await place.channels("none:*") == {"channels": {}, "has_more": False}


async def test_of_many_channels_no_page_misses_one() -> None:
    place = Place()
    names = [f"room:{number}" for number in range(2500)]
    place.add("", *names)

    found: list[str] = []
    while True:
        page = await place.channels(cursor=found[-1] if found else "", limit=700)
        found += page["channels"]
        if not page["has_more"]:
            break

    assert found == sorted(names)


async def test_a_user_is_disconnected_with_the_code_that_is_asked_for() -> None:
    place = Place()
    _, to_ada = place.add("ada", "room:a")
    _, to_ada_too = place.add("ada")
    _, to_bob = place.add("bob", "room:a")

    await place.operations.disconnect({"user": "ada", "disconnect": {"code": 4500, "reason": "banned"}})
    await place.operations.disconnect({"user": "bob", "disconnect": {"code": 0, "reason": ""}})

    assert to_ada.closed_with == to_ada_too.closed_with == [Disconnect(4500, "banned")]
    assert to_bob.closed_with == [FORCE_DISCONNECT]


async def test_only_the_client_or_session_that_is_named_is_disconnected_and_who_is_spared_is_not() -> None:
    place = Place()
    (one, to_one), (two, to_two), (three, to_three), (_, to_four) = [place.add("ada") for _ in range(4)]
    place.sessions[two] = "secret"

    await place.operations.disconnect({"user": "ada", "client": f"n1-{one.id}"})
    await place.operations.disconnect({"user": "bob", "client": f"n1-{three.id}"})
    assert [bool(to.closed_with) for to in (to_one, to_two, to_three, to_four)] == [True, False, False, False]

    await place.operations.disconnect({"user": "ada", "session": "secret"})
    assert [bool(to.closed_with) for to in (to_one, to_two, to_three, to_four)] == [True, True, False, False]

    await place.operations.disconnect({"user": "ada", "whitelist": [f"n1-{three.id}"]})
    assert [bool(to.closed_with) for to in (to_one, to_two, to_three, to_four)] == [True, True, False, True]


async def test_somebody_without_a_name_is_found_by_client_id() -> None:
    place = Place()
    (nobody, to_nobody), (_, to_other) = place.add(""), place.add("")

    await place.operations.disconnect({"user": "", "client": f"n1-{nobody.id}"})

    assert (bool(to_nobody.closed_with), bool(to_other.closed_with)) == (True, False)


async def test_unsubscribing_ends_plain_connections_to_that_channel_and_no_others() -> None:
    place = Place()
    (_, to_here), (_, to_elsewhere), (session, to_session) = (
        place.add("ada", "room:a"),
        place.add("ada", "room:b"),
        place.add("ada", "room:a"),
    )
    session.receiver = Echo()  # not a plain client

    await place.operations.unsubscribe({"user": "ada", "channel": "room:a"})

    assert to_here.closed_with == [FORCE_DISCONNECT]
    assert to_elsewhere.closed_with == to_session.closed_with == []
