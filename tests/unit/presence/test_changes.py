from __future__ import annotations

from collections.abc import Collection, Iterable

from roomcast.model.client_info import ClientInfo
from roomcast.presence.changes import TURN_COUNT, Changes

ADA, BOB = ClientInfo("n1-1", "ada"), ClientInfo("n1-2", "bob")


class Here:
    """The clients in each channel."""

    def __init__(self, **clients: list[ClientInfo]) -> None:
        self.by_channel = dict(clients)

    def channels(self) -> Collection[str]:
        return self.by_channel.keys()

    def members(self, channel: str) -> Iterable[ClientInfo]:
        return self.by_channel[channel]

    def member_count(self, channel: str) -> int:
        return len(self.by_channel[channel])


def test_suspected_members_are_written_again_in_silence_after_a_report() -> None:
    changes = Changes(Here(a=[ADA, BOB]))
    changes.allow_rewriting()
    changes.suspect("a")
    changes.join("a", BOB)

    before = changes.take(0.0)
    changes.allow_rewriting()
    after = changes.take(0.0)

    assert (before.changed, before.rewritten) == ({"a": [{BOB.client: BOB}]}, {})
    assert (after.changed, after.rewritten, after.checked, after.news) == ({}, {"a": [ADA, BOB]}, {"a": 2}, set())


def test_members_that_others_have_reported_as_left_join_again_at_once() -> None:
    changes = Changes(Here(a=[ADA]))
    changes.suspect("a")
    changes.rejoin_all()

    taken = changes.take(0.0)

    assert (taken.changed, taken.rewritten, taken.news) == ({"a": [{ADA.client: ADA}]}, {}, {"a"})


def test_a_refused_channel_waits_for_a_turn_and_others_do_not() -> None:
    changes = Changes(Here(a=[ADA], b=[]))
    changes.join("a", ADA)
    changes.restore(changes.take(0.0), {"a"}, 0.0)
    changes.join("b", BOB)

    assert list(changes.take(0.0).changed) == ["b"]
    assert not changes.is_pending("a")
    changes.turn()
    assert changes.is_pending("a")
    assert changes.take(0.0).changed == {"a": [{ADA.client: ADA}]}


def test_a_refused_channel_keeps_no_client_that_has_left() -> None:
    """Redis may refuse it for days."""
    here = Here(a=[])
    changes = Changes(here)
    for number in range(1000):
        client = f"n1-{number}"
        changes.join("a", ClientInfo(client, ""))
        changes.restore(changes.take(0.0), {"a"}, 0.0)
        changes.turn()
        changes.leave("a", client)
        changes.restore(changes.take(0.0), {"a"}, 0.0)
        changes.turn()

    assert changes.take(0.0).changed == {}


def test_each_channel_is_checked_once_in_all_turns() -> None:
    changes = Changes(Here(**{f"c{number}": [] for number in range(100)}))
    checked: list[str] = []
    for _ in range(TURN_COUNT):
        changes.turn()
        checked += changes.take(0.0).checked

    assert sorted(checked) == sorted(f"c{number}" for number in range(100))
