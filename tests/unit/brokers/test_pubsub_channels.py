"""The states of a listener's channels."""

from __future__ import annotations

from redis.exceptions import NoPermissionError

from roomcast.brokers.pubsub_channels import ChannelStates


def test_a_connection_is_ready_after_the_channels_that_had_to_be_asked_for_alone() -> None:
    """One forbidden channel refuses the SUBSCRIBE of all; the own topic's confirmation comes before the others'."""
    states = ChannelStates("own", lambda channel: channel, None)
    for channel in ("a", "forbidden", "b"):
        states.want(channel)
    assert states.next_subscribes() == [("SUBSCRIBE", "a", "forbidden", "b")]
    assert states.own_subscribe() == ("SUBSCRIBE", "own")

    states.on_refused(NoPermissionError("no"))
    assert not states.on_subscribed(b"own")
    for channel in ("a", "forbidden", "b"):
        assert states.next_subscribes() == [("SUBSCRIBE", channel)]
    assert states.is_own_due
    states.own_subscribe()
    states.on_subscribed(b"a")
    states.on_refused(NoPermissionError("no"))
    states.on_subscribed(b"b")

    assert states.on_subscribed(b"own")
    assert states.confirmed == {"a", "b"}


def test_a_refusal_on_a_ready_connection_is_no_reconnect() -> None:
    states = ChannelStates("own", lambda channel: channel, None)
    states.own_subscribe()
    assert states.on_subscribed(b"own")
    states.want("a")
    states.want("forbidden")
    states.next_subscribes()

    states.on_refused(NoPermissionError("no"))

    assert not states.is_own_due
