"""The picture of the house as SVG: rooms by floor, and the imports between them."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping
from html import escape

from tests.architecture.imports import Module, reduced, room_graph
from tests.architecture.layout import BOX_WIDTH, Layout, Place, lay_out
from tests.architecture.rules import ROOMS

PICTURE = "docs/images/house.svg"

_LINE_CHARACTERS = 24  # in 11.5 px of DejaVu Sans, the widest common font, they need 160 of the box's 172
_MAX_LINES = 3
_LINE_HEIGHT = 15.0
_ROW_GAP = 38.0
_MARGIN = 30.0
_NUMBERS = 34.0  # the width of the floors' numbers
_LEGEND = 34.0

# The colours of GitHub's themes. The background is drawn: a reader's theme may differ from the system's.
_STYLE = """
  svg { --ground: #ffffff; --floor: #f6f8fa; --folder: #ddf4ff; --edge: #54aeff; --file: #ffffff; --line: #8c959f;
        --text: #1f2328; --quiet: #59636e; }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #0d1117; --floor: #151b23; --folder: #12263f; --edge: #316dca; --file: #0d1117; --line: #656c76;
          --text: #f0f6fc; --quiet: #9198a1; }
  }
  text { font: 11.5px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: var(--quiet); }
  .name { font: 600 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: var(--text); }
  .ground { fill: var(--ground); } .floor { fill: var(--floor); }
  .folder { fill: var(--folder); stroke: var(--edge); } .file { fill: var(--file); stroke: var(--line); }
  .arrow { fill: none; stroke: var(--line); stroke-width: 1.3; } .head { fill: var(--line); }
"""


def draw(modules: Mapping[str, Module]) -> str:
    """Return the picture."""
    graph = room_graph(modules)
    floors = {room: ROOMS[room].floor for room in graph}
    texts = {room: noun_lines(_module_of_room(room, modules)) for room in graph}
    files = {module.room for module in modules.values() if module.is_at_root}
    return _Drawing(lay_out(reduced(graph), floors), texts, files).svg()


def noun_lines(module: Module) -> list[str]:
    """Return the noun for a room: its docstring up to the first colon or full stop, in short lines."""
    noun = re.split(r"[:;.](?:\s|$)", ast.get_docstring(module.tree) or "", maxsplit=1)[0]
    lines = textwrap.wrap(noun.replace("`", ""), _LINE_CHARACTERS, break_long_words=False)
    if not 1 <= len(lines) <= _MAX_LINES or max(map(len, lines)) > _LINE_CHARACTERS:
        raise ValueError(
            f"{module.name}: the docstring up to its first colon or full stop does not fit its box: {noun!r}"
        )
    return lines


def _module_of_room(room: str, modules: Mapping[str, Module]) -> Module:
    return modules[room if room in modules else f"roomcast.{room}"]


class _Drawing:
    def __init__(self, layout: Layout, texts: Mapping[str, list[str]], files: set[str]) -> None:
        self._layout = layout
        self._texts = texts
        self._files = files
        edges = [(centre - place.width / 2, centre + place.width / 2) for place, centre in layout.centres.items()]
        left = min(edge for edge, _ in edges)
        self._shift = _MARGIN + _NUMBERS - left
        self._width = max(edge for _, edge in edges) + self._shift + _MARGIN
        self._tops: dict[int, float] = {}
        self._heights: dict[int, float] = {}
        top = _MARGIN
        for floor in sorted({place.floor for place in layout.centres}, reverse=True):
            lines = max(
                len(texts[place.room]) for place in layout.centres if place.floor == floor and not place.is_lane
            )
            self._tops[floor], self._heights[floor] = top, 32 + lines * _LINE_HEIGHT
            top += self._heights[floor] + _ROW_GAP
        self._height = top - _ROW_GAP + _MARGIN + _LEGEND

    def svg(self) -> str:
        places = sorted(self._layout.centres)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self._width:.0f}" height="{self._height:.0f}"'
            f' viewBox="0 0 {self._width:.0f} {self._height:.0f}" role="img" aria-labelledby="title">',
            '<title id="title">The rooms of Roomcast by floor, and which imports which</title>',
            f"<style>{_STYLE}</style>",
            f'<rect class="ground" width="{self._width:.0f}" height="{self._height:.0f}" rx="10"/>',
            *(self._floor(floor) for floor in sorted(self._tops)),
            *(self._lane(place) for place in places if place.is_lane),
            *(self._arrow(upper, lower) for upper, lower in sorted(self._layout.joints)),
            *(self._head(room) for room in sorted({lower for _, lower in self._layout.joints if not lower.is_lane})),
            *(self._box(place) for place in places if not place.is_lane),
            self._legend(),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _x(self, place: Place) -> float:
        return self._layout.centres[place] + self._shift

    def _bottom(self, floor: int) -> float:
        return self._tops[floor] + self._heights[floor]

    def _floor(self, floor: int) -> str:
        top, height = self._tops[floor] - 10, self._heights[floor] + 20
        return (
            f'<rect class="floor" x="12" y="{top:.0f}" width="{self._width - 24:.0f}" height="{height:.0f}" rx="8"/>'
            f'<text x="30" y="{top + height / 2 + 4:.0f}" text-anchor="middle">{floor}</text>'
        )

    def _lane(self, place: Place) -> str:
        x = self._x(place)
        return f'<path class="arrow" d="M{x:.1f} {self._tops[place.floor]:.0f}V{self._bottom(place.floor):.0f}"/>'

    def _arrow(self, upper: Place, lower: Place) -> str:
        start, end = self._port(upper, lower), self._x(lower)
        top, bottom = self._bottom(upper.floor), self._tops[lower.floor] - (0 if lower.is_lane else 6)
        middle = (top + bottom) / 2
        return (
            f'<path class="arrow" d="M{start:.1f} {top:.0f}'
            f'C{start:.1f} {middle:.1f} {end:.1f} {middle:.1f} {end:.1f} {bottom:.0f}"/>'
        )

    def _port(self, upper: Place, lower: Place) -> float:
        """Where an arrow leaves: from a room, beside its others in the order of their ends."""
        ends = sorted((self._x(end), end) for start, end in self._layout.joints if start == upper)
        step = min(24.0, BOX_WIDTH * 0.7 / len(ends))
        index = [end for _, end in ends].index(lower)
        return self._x(upper) + (index - (len(ends) - 1) / 2) * step

    def _head(self, place: Place) -> str:
        x, y = self._x(place), self._tops[place.floor] - 1
        return f'<path class="head" d="M{x:.1f} {y:.0f}l-4.5 -8h9z"/>'

    def _box(self, place: Place) -> str:
        x, y, height = self._x(place), self._tops[place.floor], self._heights[place.floor]
        kind, suffix = ("file", ".py") if place.room in self._files else ("folder", "/")
        name = f"{place.room}{suffix}".replace("roomcast.py", "__init__.py")
        lines = self._texts[place.room]
        first = y + (height - 18 - len(lines) * _LINE_HEIGHT) / 2 + 14
        texts = "".join(
            f'<text x="{x:.1f}" y="{first + 19 + index * _LINE_HEIGHT:.1f}" text-anchor="middle">{escape(line)}</text>'
            for index, line in enumerate(lines)
        )
        return (
            f'<rect class="{kind}" x="{x - BOX_WIDTH / 2:.1f}" y="{y:.0f}" width="{BOX_WIDTH:.0f}"'
            f' height="{height:.0f}" rx="7"/>'
            f'<text class="name" x="{x:.1f}" y="{first:.1f}" text-anchor="middle">{name}</text>{texts}'
        )

    def _legend(self) -> str:
        y = self._height - 22
        return (
            f'<text x="{_MARGIN}" y="{y:.0f}">An arrow: imports. An import that other arrows already imply is left out.'
            " Filled: a folder. Outlined: a file.</text>"
        )
