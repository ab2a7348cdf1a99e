"""The checker of the chaos test, over logs that were doctored: it must see each kind of broken promise."""

from __future__ import annotations

import pytest

from tests.chaos.checker import AWAY, DISORDERED, DOUBLED, FAILOVER, LOST, NEEDLESS, SILENT, Verdict, check
from tests.chaos.journal import Acknowledged, Heard, Line, Log, Name, Place, Told

WINDOW = 300


def name(number: int, publisher: str = "p") -> Name:
    return Name(publisher, number)


def heard(offset: int, *, number: int | None = None, epoch: str = "e", publisher: str = "p", digest: int = 0) -> Heard:
    return Heard(
        Place(epoch, offset), name(offset if number is None else number, publisher), digest, at_s=float(offset)
    )


def told(offset: int, *, is_recovered: bool = False, epoch: str = "e", is_first: bool = True) -> Told:
    return Told(Place(epoch, offset), is_recovered, is_first, at_s=float(offset))


def verdict(
    *logs: list[Line],
    acknowledged: list[Acknowledged] | None = None,
    stream: dict[Place, tuple[Name, int]] | None = None,
    may_lose_tail: bool = False,
) -> Verdict:
    return check(
        [Log(f"s{number}", "room", lines) for number, lines in enumerate(logs)],
        {"room": acknowledged or []},
        {} if stream is None else {"room": stream},
        window_size=WINDOW,
        may_lose_tail=may_lose_tail,
    )


def acknowledged(*offsets: int, epoch: str = "e") -> list[Acknowledged]:
    return [Acknowledged(name(offset), Place(epoch, offset)) for offset in offsets]


def kinds(found: Verdict) -> list[str]:
    return [offence.kind for offence in found.offences]


def test_a_log_without_a_hole_is_good() -> None:
    lines: list[Line] = [told(0), heard(1), heard(2), told(2, is_recovered=True), heard(3)]
    stream = {Place("e", offset): (name(offset), 0) for offset in (1, 2, 3)}

    found = verdict(lines, lines, acknowledged=acknowledged(1, 2, 3), stream=stream)

    assert found.is_good
    assert found.delivery_count == 6
    assert not found.announced


def test_an_offset_that_is_missing_is_a_silent_loss_and_lost_if_it_was_acknowledged() -> None:
    found = verdict([told(0), heard(1), heard(3)], acknowledged=acknowledged(1, 2, 3))

    assert kinds(found) == [SILENT, LOST]
    assert heard(3) in found.offences[0].evidence


def test_the_end_of_a_log_that_is_missing_is_lost() -> None:
    assert kinds(verdict([told(0), heard(1)], acknowledged=acknowledged(1, 2))) == [LOST]


def test_what_was_published_before_a_subscriber_came_is_not_lost() -> None:
    assert verdict([told(2), heard(3)], acknowledged=acknowledged(1, 2, 3)).is_good


def test_a_subscriber_that_heard_nothing_at_all_is_noticed() -> None:
    assert kinds(verdict([])) == [LOST]


def test_the_same_offset_twice_is_doubled() -> None:
    assert kinds(verdict([told(0), heard(1), heard(1)])) == [DOUBLED]


def test_the_same_publication_at_two_offsets_is_doubled() -> None:
    assert kinds(verdict([told(0), heard(1), heard(2, number=1)])) == [DOUBLED]


def test_the_same_publication_after_an_announcement_is_doubled_too() -> None:
    lines: list[Line] = [told(0), heard(1), heard(2), told(0), heard(1)]

    assert DOUBLED in kinds(verdict(lines, may_lose_tail=True))


def test_an_offset_that_goes_back_is_disorder() -> None:
    assert kinds(verdict([told(5), heard(6), heard(4, publisher="q")])) == [DISORDERED]


def test_a_publisher_whose_publications_change_places_is_disorder() -> None:
    assert kinds(verdict([told(0), heard(1, number=2), heard(2, number=1)])) == [DISORDERED]


def test_two_subscribers_that_hear_different_things_at_one_place_are_disorder() -> None:
    assert kinds(verdict([told(0), heard(1)], [told(0), heard(1, publisher="q")])) == [DISORDERED]


def test_a_payload_that_was_changed_is_disorder() -> None:
    assert kinds(verdict([told(0), heard(1)], [told(0), heard(1, digest=1)])) == [DISORDERED]


def test_a_log_that_differs_from_the_stream_is_disorder() -> None:
    assert kinds(verdict([told(0), heard(1)], stream={Place("e", 1): (name(7), 0)})) == [DISORDERED]


def test_a_recovery_that_begins_elsewhere_than_the_log_ends_is_a_silent_loss() -> None:
    assert kinds(verdict([told(0), heard(1), told(2, is_recovered=True), heard(3)])) == [SILENT]


def test_an_epoch_that_changes_without_a_word_is_a_silent_loss() -> None:
    assert kinds(verdict([told(0), heard(1), heard(2, epoch="f")])) == [SILENT]


def test_a_publication_before_the_first_place_is_a_silent_loss() -> None:
    assert kinds(verdict([heard(1)])) == [SILENT]


def test_a_loss_that_was_announced_after_a_long_absence_is_counted_and_no_offence() -> None:
    behind = WINDOW + 2
    lines: list[Line] = [told(0), heard(1), told(behind), heard(behind + 1)]

    found = verdict(lines, acknowledged=acknowledged(*range(1, behind + 2)))

    assert found.is_good
    assert found.announced == {AWAY: 1}


@pytest.mark.parametrize(
    ("lost_epoch", "offset", "is_covered"), [("e", 2, True), ("e", 1, False), ("f", 1, True), ("f", 2, False)]
)
def test_a_new_epoch_covers_what_was_after_the_old_one_s_end_and_before_its_own_beginning(
    lost_epoch: str, offset: int, is_covered: bool
) -> None:
    change = told(1, epoch="f", is_first=False)
    lines: list[Line] = [told(0), heard(1), change, heard(2, epoch="f"), heard(3, epoch="f")]

    found = verdict(lines, acknowledged=[Acknowledged(name(99), Place(lost_epoch, offset))], may_lose_tail=True)

    assert kinds(found) == ([] if is_covered else [LOST])
    assert found.announced == {FAILOVER: 1}


def test_an_announcement_does_not_cover_what_came_after_it() -> None:
    lines: list[Line] = [told(0), heard(1), told(WINDOW + 2), heard(WINDOW + 3)]

    assert kinds(verdict(lines, acknowledged=acknowledged(*range(1, WINDOW + 5)))) == [LOST]


def test_a_loss_that_was_announced_without_need_is_an_offence() -> None:
    assert kinds(verdict([told(0), heard(1), told(3), heard(4)])) == [NEEDLESS]


def test_offsets_that_no_publication_had_are_no_loss() -> None:
    lines: list[Line] = [told(0), heard(1), heard(9)]

    assert verdict(lines, acknowledged=acknowledged(1, 9)).is_good
    assert kinds(verdict(lines, acknowledged=acknowledged(1, 2, 9))) == [SILENT, LOST]
    assert kinds(verdict(lines, [told(4), heard(5), heard(9)])) == [SILENT]
    assert kinds(verdict(lines, stream={Place("e", offset): (name(offset), 0) for offset in (1, 3, 9)})) == [SILENT]


def test_a_loss_within_an_epoch_is_announced_with_need_if_redis_has_not_all_of_it() -> None:
    lines: list[Line] = [told(0), heard(1), told(8), heard(9)]
    stream = {Place("e", offset): (name(offset), 0) for offset in (1, 9)}
    all_of_it = {Place("e", offset): (name(offset), 0) for offset in range(1, 10)}

    found = verdict(lines, acknowledged=acknowledged(1, 2, 9), stream=stream, may_lose_tail=True)

    assert found.is_good
    assert found.announced == {FAILOVER: 1}
    assert kinds(verdict(lines, stream=all_of_it, may_lose_tail=True)) == [NEEDLESS]


def test_a_new_epoch_where_nothing_can_lose_a_tail_is_an_offence() -> None:
    assert kinds(verdict([told(0), heard(1), told(1, epoch="f"), heard(2, epoch="f")])) == [NEEDLESS]


def test_what_a_publisher_had_to_publish_again_after_a_lost_tail_is_not_doubled() -> None:
    lines: list[Line] = [told(0), heard(1), told(0, epoch="f", is_first=False), heard(1, number=1, epoch="f")]

    assert verdict(lines, may_lose_tail=True).is_good


def test_what_was_acknowledged_lost_and_published_again_by_an_older_attempt_is_no_disorder() -> None:
    lines: list[Line] = [told(0), heard(1, number=2), heard(2, number=1)]
    known = [Acknowledged(name(1), Place("e", 1)), Acknowledged(name(2), Place("e", 1))]

    found = verdict(lines, acknowledged=known, may_lose_tail=True)

    assert found.is_good
    assert found.republished == {name(1)}
    assert kinds(verdict(lines, acknowledged=known)) == [DISORDERED]


def test_what_was_acknowledged_and_is_not_kept_is_lost() -> None:
    stream = {Place("e", 1): (name(1), 0)}

    assert kinds(verdict([told(0), heard(1)], acknowledged=acknowledged(1), stream=stream)) == []
    assert kinds(verdict([told(2)], acknowledged=acknowledged(1, 2), stream=stream)) == [LOST]


def test_what_is_kept_twice_is_doubled() -> None:
    stream = {Place("e", 1): (name(1), 0), Place("e", 2): (name(1), 0)}

    assert kinds(verdict([told(2)], stream=stream)) == [DOUBLED]
