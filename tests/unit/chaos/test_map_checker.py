"""The checker of maps in the chaos test, over logs that were doctored: it must see each kind of broken promise."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos.journal import Place
from tests.chaos.map_checker import DIFFERENT, LOST_WRITE, MapVerdict, check_maps
from tests.chaos.map_journal import Change, Changed, Entries, Kept, Loaded, MapEvent, MapLog, Note, Stop, Write

MAP = "lasting:map"
# a is set, b is set, a is removed, b is replaced.
STREAM = [Change(1, "a", "1"), Change(2, "b", "2"), Change(5, "a", None), Change(6, "b", "3")]
KEPT = Kept(MAP, "e", 6, {"b": "3"}, STREAM)


def note(offset: int, entries: Entries, *, epoch: str = "e", after: int = 0) -> Note:
    return Note(after, Place(epoch, offset), entries)


def log(*notes: Note, events: Sequence[MapEvent] = ()) -> MapLog:
    return MapLog("s", MAP, [*events], [*notes])


def stop(kept: Kept = KEPT, *, at_s: float = 100.0, may_have_lost_data: bool = False, **copies: Entries | None) -> Stop:
    return Stop(at_s, kept, copies, dict.fromkeys(copies, 9), may_have_lost_data)


def write(
    offset: int, key: str, value: str | None, *, sent_s: float = 0.0, took_s: float = 0.5, is_idle: bool = False
) -> Write:
    at_s = sent_s or float(offset)
    return Write(MAP, key, value, Place("e", offset), at_s, at_s + took_s, is_idle)


WRITES = [write(1, "a", "1"), write(2, "b", "2"), write(5, "a", None), write(6, "b", "3")]


def verdict(
    *logs: MapLog,
    writes: Sequence[Write] = (),
    stops: Sequence[Stop] = (),
    streams: Sequence[Kept] = (),
    key_ttl_s: float = 0.0,
) -> MapVerdict:
    return check_maps(logs or [log()], writes, stops, streams, key_ttls_s={MAP: key_ttl_s})


def kinds(found: MapVerdict) -> list[str]:
    return [offence.kind for offence in found.offences]


def test_copies_that_are_the_map_are_good() -> None:
    notes = [note(6, {"b": "3"}), note(0, {}), note(2, {"a": "1", "b": "2"}), note(4, {"a": "1", "b": "2"})]

    found = verdict(log(*notes), writes=WRITES, stops=[stop(s={"b": "3"})], streams=[KEPT])

    assert found.is_good
    assert (found.note_count, found.copy_count) == (4, 1)
    assert found.counts() == {DIFFERENT: 0, LOST_WRITE: 0}


@pytest.mark.parametrize("entries", [{"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "b": "2", "c": "4"}, {}, {"b": "2"}])
def test_a_note_that_is_not_the_map_at_its_place_is_a_difference(entries: Entries) -> None:
    found = verdict(log(note(2, entries), note(6, {"b": "3"})), streams=[KEPT])

    assert kinds(found) == [DIFFERENT]
    assert "keys differ" in found.offences[0].what


def test_the_evidence_of_a_difference_has_the_subscriber_s_events_and_the_changes_of_the_key() -> None:
    events: list[MapEvent] = [Loaded(Place("e", 1), {"a": "1"}), Changed(Place("e", 6), "b", "3")]

    found = verdict(log(note(6, {"a": "1", "b": "3"}, after=2), events=events), streams=[KEPT])

    text = "\n".join(map(str, found.offences[0].evidence))
    assert "loaded 1 keys" in text
    assert str(Changed(Place("e", 6), "b", "3")) in text
    assert str(Change(5, "a", None)) in text


def test_notes_are_compared_with_the_stream_of_their_epoch_as_far_as_it_was_read() -> None:
    former = Kept(MAP, "d", 2, {"a": "1", "b": "2"}, STREAM[:2])
    streams = [former, KEPT]

    found = verdict(
        log(
            note(1, {"a": "1"}, epoch="d"),
            note(3, {"x": "1"}, epoch="d"),
            note(6, {"b": "3"}),
            note(7, {"x": "1"}),
            note(1, {"x": "1"}, epoch="c"),
        ),
        streams=streams,
    )

    assert found.is_good
    assert found.note_count == 2
    assert kinds(verdict(log(note(1, {}, epoch="d")), streams=streams)) == [DIFFERENT]


def test_a_copy_that_differs_at_a_stop_is_a_difference() -> None:
    assert kinds(verdict(stops=[stop(s={"b": "2"})])) == [DIFFERENT]
    assert kinds(verdict(stops=[stop(s={})])) == [DIFFERENT]


def test_a_subscriber_that_is_not_live_at_a_stop_is_a_difference() -> None:
    assert kinds(verdict(stops=[stop(s=None)])) == [DIFFERENT]


def test_a_map_that_is_not_what_its_stream_leads_to_is_a_difference() -> None:
    assert kinds(verdict(streams=[KEPT._replace(entries={"b": "2"})])) == [DIFFERENT]


def test_an_acknowledged_write_that_the_map_does_not_have_is_lost() -> None:
    kept = KEPT._replace(entries={"b": "2"})

    assert kinds(verdict(writes=WRITES, stops=[stop(kept)])) == [LOST_WRITE]
    assert kinds(verdict(writes=WRITES[:1], stops=[stop(kept)])) == [LOST_WRITE]
    assert verdict(writes=WRITES, stops=[stop(kept, may_have_lost_data=True)]).is_good


def test_a_removal_that_was_acknowledged_and_not_made_is_a_lost_write() -> None:
    kept = KEPT._replace(entries={"a": "1", "b": "3"})

    assert kinds(verdict(writes=WRITES, stops=[stop(kept)])) == [LOST_WRITE]


def test_of_writes_at_the_same_time_any_may_be_the_last() -> None:
    writes = [write(1, "b", "2", took_s=5.0), write(2, "b", "3", sent_s=2.0), write(3, "b", "4", sent_s=7.0)]

    assert verdict(writes=writes[:2], stops=[stop(KEPT._replace(entries={"b": "2"}))]).is_good
    assert verdict(writes=writes[:2], stops=[stop(KEPT._replace(entries={"b": "3"}))]).is_good
    assert kinds(verdict(writes=writes, stops=[stop(KEPT._replace(entries={"b": "3"}))])) == [LOST_WRITE]


def test_a_write_after_a_stop_does_not_count_for_it() -> None:
    kept = KEPT._replace(entries={"a": "1", "b": "2"})

    assert verdict(writes=WRITES, stops=[stop(kept, at_s=4.0)]).is_good


def test_a_key_may_be_missing_once_it_may_have_expired() -> None:
    kept = KEPT._replace(entries={})

    assert verdict(writes=WRITES, stops=[stop(kept, at_s=9.0)], key_ttl_s=3.0).is_good
    assert kinds(verdict(writes=WRITES, stops=[stop(kept, at_s=8.9)], key_ttl_s=3.0)) == [LOST_WRITE]


def test_an_acknowledged_write_that_is_not_in_the_stream_is_lost() -> None:
    good = stop(s={"b": "3"})
    missing = write(4, "c", "9")
    removed = KEPT._replace(stream=[change for change in STREAM if change.offset != 5])

    assert kinds(verdict(writes=[*WRITES, write(7, "c", None, is_idle=True)], stops=[good], streams=[KEPT])) == []
    assert LOST_WRITE in kinds(verdict(writes=[*WRITES, missing], stops=[good], streams=[KEPT]))
    assert LOST_WRITE in kinds(verdict(writes=WRITES, stops=[good], streams=[removed]))
    lossy = good._replace(may_have_lost_data=True)
    assert verdict(writes=[*WRITES, missing], stops=[lossy], streams=[KEPT]).is_good
