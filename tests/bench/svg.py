"""Two kinds of plot as SVG, by hand: no plotting library is needed. White, so that any page can show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH = 760
_HEIGHT = 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 40, 50
# Okabe and Ito's colours, which colour-blind readers can distinguish; ours first.
_COLOURS = ("#d55e00", "#000000", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")
_GREY = "#cccccc"


def line_plot(title: str, x_title: str, y_title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return lines through points above 0, both axes logarithmic."""
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points]
    x_low, x_high = math.log10(xs[0] / 1.15), math.log10(xs[-1] * 1.15)
    y_low, y_high = math.log10(min(ys) / 1.3), math.log10(max(ys) * 1.3)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return _LEFT + right * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for x in xs:
        at, _ = place(x, ys[0])
        parts += [
            f'<path d="M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="{_GREY}"/>',
            _text(at, _HEIGHT - _BOTTOM + 18, f"{x:,.0f}", "middle"),
        ]
    for y in _ticks(10**y_low, 10**y_high):
        _, at = place(xs[0], y)
        parts += [
            f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="{_GREY}"/>',
            _text(_LEFT - 8, at + 4, f"{y:g}", "end"),
        ]
    for points, colour in zip(lines.values(), _COLOURS, strict=False):
        places = [place(x, y) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
    parts += _legend(list(lines))
    return _page(title, x_title, y_title, parts)


def bar_plot(title: str, x_title: str, bars: Mapping[str, float]) -> str:
    """Return horizontal bars with their values."""
    most = max(bars.values())
    height = (_HEIGHT - _TOP - _BOTTOM) / len(bars)
    left = _LEFT + 40
    parts = []
    for number, (name, value) in enumerate(bars.items()):
        top = _TOP + number * height
        width = value / most * (_WIDTH - left - _RIGHT)
        parts += [
            f'<rect x="{left}" y="{top + height * 0.15:.1f}" width="{width:.1f}" height="{height * 0.7:.1f}" '
            f'fill="{_COLOURS[number % len(_COLOURS)]}"/>',
            _text(left - 8, top + height / 2 + 4, name, "end"),
            _text(left + width + 8, top + height / 2 + 4, f"{value:,.3g}", "start"),
        ]
    return _page(title, x_title, "", parts)


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**decade for decade in decades for step in (1, 2, 5) if low <= step * 10.0**decade <= high]


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for number, (name, colour) in enumerate(zip(names, _COLOURS, strict=False)):
        top = _TOP + 14 + number * 22
        left = _WIDTH - _RIGHT + 16
        parts += [
            f'<rect x="{left}" y="{top - 10}" width="14" height="12" fill="{colour}"/>',
            _text(left + 22, top, name, "start"),
        ]
    return parts


def _page(title: str, x_title: str, y_title: str, parts: Sequence[str]) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            'font-family="sans-serif" font-size="13" fill="#222222">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
            f'<text x="{middle}" y="24" text-anchor="middle" font-size="16">{escape(title)}</text>',
            *parts,
            _text(middle, _HEIGHT - 10, x_title, "middle"),
            f'<text transform="translate(18 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>',
            "</svg>",
            "",
        ]
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
