from __future__ import annotations

from roomcast.connections.connection import Subscription
from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import SlowPolicy
from roomcast.node.hub import Hub
from roomcast.node.roster import HubRoster
from tests.support.fakes import Schedule, connection


def test_members_are_the_subscribers_of_channels_with_presence_as_they_are_now() -> None:
    hub = Hub(Schedule())
    roster = HubRoster(hub, "n1")
    ada, _ = connection()
    ada.user, ada.info = "ada", b"1"
    for channel, is_present in (("room:a", True), ("notify:a", False)):
        hub.subscribe(ada, channel, Subscription(ada.encoding, b"2", is_present), SlowPolicy.DISCONNECT)

    assert list(roster.channels()) == ["room:a", "notify:a"]
    assert list(roster.members("room:a")) == [ClientInfo(f"n1-{ada.id}", "ada", b"1", b"2")]
    assert list(roster.members("notify:a")) == []
    hub.unsubscribe(ada, "room:a")
    assert list(roster.members("room:a")) == []
    assert list(roster.channels()) == ["notify:a"]
