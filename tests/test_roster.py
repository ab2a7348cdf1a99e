from __future__ import annotations

from service.hub import Hub
from service.messages import ClientInfo
from service.namespaces import Namespaces, SlowPolicy
from service.roster import HubRoster
from tests.fakes import Schedule, connection


def test_members_are_the_subscribers_of_channels_with_presence_as_they_are_now() -> None:
    hub = Hub(Schedule())
    roster = HubRoster(hub, Namespaces(), "n1")
    ada, _ = connection()
    ada.user, ada.info = "ada", b"1"
    for channel in ("room:a", "notify:a"):
        hub.subscribe(ada, channel, SlowPolicy.DISCONNECT)

    assert list(roster.channels()) == ["room:a", "notify:a"]
    assert list(roster.members("room:a")) == [ClientInfo(f"n1-{ada.id}", "ada", b"1")]
    assert list(roster.members("notify:a")) == []
    hub.unsubscribe(ada, "room:a")
    assert list(roster.members("room:a")) == []
    assert list(roster.channels()) == ["notify:a"]
