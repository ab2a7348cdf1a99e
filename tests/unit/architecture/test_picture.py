"""The picture of the house: it is the one that the imports draw, and its boxes and lanes do not touch."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from tests.architecture.imports import read_modules, reduced
from tests.architecture.layout import lay_out
from tests.architecture.picture import PICTURE, draw, noun_lines
from tests.architecture.rules import ROOMS
from tests.support.paths import ROOT
from tests.support.planted import planted

MODULES = read_modules(ROOT)


def test_the_picture_is_drawn_from_the_imports() -> None:
    committed = (ROOT / PICTURE).read_text(encoding="utf-8")

    assert committed == draw(MODULES), f"{PICTURE} is out of date; draw it with: python -m tests.architecture"


def test_every_room_is_in_the_picture() -> None:
    names = re.findall(r'class="name"[^>]*>([^<]*)<', draw(MODULES))

    assert sorted(name.rstrip("/").removesuffix(".py") for name in names) == sorted(
        "__init__" if room == "roomcast" else room for room in ROOMS
    )


def test_a_new_import_changes_the_picture() -> None:
    source = MODULES["roomcast.telemetry.metrics"]
    more = planted((source.name, source.text + "\nimport roomcast.web.origins\n"))

    assert draw({**MODULES, source.name: more[source.name]._replace(path=source.path)}) != draw(MODULES)


def test_an_arrow_that_others_imply_is_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}

    assert reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}


def test_places_on_a_floor_do_not_touch() -> None:
    floors = {"a": 3, "b": 3, "c": 3, "x": 2, "y": 2, "p": 1, "q": 1}
    centres, joints = lay_out({"a": {"q", "x"}, "b": {"p", "q"}, "c": {"x", "p"}, "y": {"p"}}, floors)

    assert {place.room for place in centres if place.is_lane} == {"p", "q"}
    assert len(joints) == 9, "an arrow has a joint a floor; arrows to one room share its lane"
    for floor in (1, 2, 3):
        row = sorted((centre, place.width) for place, centre in centres.items() if place.floor == floor)
        assert all(right - left >= (wide + width) / 2 for (left, wide), (right, width) in pairwise(row))


@pytest.mark.parametrize(
    ("docstring", "lines"),
    [
        ("Metrics and logs.", ["Metrics and logs"]),
        ("The `roomcast` command: all of it.", ["The roomcast command"]),
        ("Values that travel through a node; frozen.", ["Values that travel", "through a node"]),
    ],
)
def test_a_box_says_the_first_clause_of_the_docstring(docstring: str, lines: list[str]) -> None:
    module = planted(("roomcast.tasks", f'"""{docstring}"""'))["roomcast.tasks"]

    assert noun_lines(module) == lines


@pytest.mark.parametrize("docstring", ["", "Words " * 20, "Llanfairpwllgwyngyllgogerychwyrndrobwll"])
def test_a_text_that_does_not_fit_its_box_is_refused(docstring: str) -> None:
    with pytest.raises(ValueError, match=r"roomcast\.tasks: the docstring .* does not fit"):
        noun_lines(planted(("roomcast.tasks", f'"""{docstring}"""'))["roomcast.tasks"])
