"""What the chaos test's polling subscribers log of an answer: nothing that it hides may stay unseen."""

from __future__ import annotations

import json

import pytest

from tests.chaos.journal import Heard, Place
from tests.chaos.subscriber import poll_events


def answer(epoch: str, offset: int, *heard: tuple[str, int], is_recovered: bool = True) -> str:
    data = {"publisher": "p", "number": 1}
    publications = [{"epoch": epoch, "offset": offset, "data": data} for epoch, offset in heard]
    return json.dumps({"epoch": epoch, "offset": offset, "recovered": is_recovered, "publications": publications})


@pytest.mark.parametrize(
    ("text", "since", "expected"),
    [
        (answer("e", 7, is_recovered=False), None, [("e", 7, False)]),
        (answer("e", 7), Place("e", 7), [("e", 7, True)]),
        (answer("e", 8, ("e", 8)), Place("e", 7), [("e", 7, True), ("e", 8)]),
        (answer("f", 9, ("f", 8), ("f", 9), is_recovered=False), Place("e", 7), [("f", 7, False), ("f", 8), ("f", 9)]),
        # Bad answers: the checker sees a gap, another epoch, or a place that the log does not have.
        (answer("e", 9, ("e", 9)), Place("e", 7), [("e", 7, True), ("e", 9)]),
        (answer("f", 8, ("f", 8)), Place("e", 7), [("e", 7, True), ("f", 8)]),
        (answer("e", 9), Place("e", 7), [("e", 7, True), ("e", 9, True)]),
        (answer("e", 9, ("e", 8)), Place("e", 7), [("e", 7, True), ("e", 8), ("e", 9, True)]),
    ],
)
def test_an_answer_is_logged_from_where_the_client_was(
    text: str, since: Place | None, expected: list[tuple[str, int, bool] | tuple[str, int]]
) -> None:
    found = [
        tuple(event.place) if isinstance(event, Heard) else (*event[0], event[1]) for event in poll_events(text, since)
    ]

    assert found == expected
