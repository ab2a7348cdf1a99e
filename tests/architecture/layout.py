"""Where the rooms and arrows of the picture go: rows by floor, few crossings, straight lanes.

An arrow to a room further down than the next floor passes the floors between in a lane. All arrows to one room share
its lane. Sums are `math.fsum`: `sum` rounds differently since Python 3.12, and the picture is the same on every one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import fsum
from typing import NamedTuple

from tests.architecture.imports import Graph

BOX_WIDTH = 172.0
LANE_WIDTH = 6.0
GAP = 14.0
_SWEEPS = 60
# How strongly a place is drawn to its neighbours: a bend between two lanes counts more than one at a room.
_LANE_PULL, _ROOM_PULL, _MIDDLE_PULL = 8.0, 1.0, 0.12


class Place(NamedTuple):
    """A room on its floor, or the lane of its arrows on a floor above."""

    room: str
    floor: int
    is_lane: bool

    @property
    def width(self) -> float:
        return LANE_WIDTH if self.is_lane else BOX_WIDTH


class Layout(NamedTuple):
    """The places of each floor from left to right with their centres, and their joints."""

    centres: dict[Place, float]
    joints: set[tuple[Place, Place]]


def lay_out(graph: Graph, floors: Mapping[str, int]) -> Layout:
    """Place each room on its floor. Args: arrows, all downwards; the floor of each room."""
    joints = _joints(graph, floors)
    rows: dict[int, list[Place]] = {floor: [] for floor in sorted(set(floors.values()))}
    places = {Place(room, floor, is_lane=False) for room, floor in floors.items()}
    for place in sorted(places | {end for joint in joints for end in joint}):
        rows[place.floor].append(place)
    return Layout(_centres(_ordered(rows, joints), joints), joints)


def _joints(graph: Graph, floors: Mapping[str, int]) -> set[tuple[Place, Place]]:
    levels = sorted(set(floors.values()))
    joints = set()
    for source, targets in graph.items():
        for target in targets:
            between = [level for level in levels if floors[target] < level < floors[source]]
            path = [Place(target, floors[target], is_lane=False)]
            path += [Place(target, level, is_lane=True) for level in between]
            path.append(Place(source, floors[source], is_lane=False))
            joints |= {(upper, lower) for lower, upper in pairwise(path)}
    return joints


def _ordered(rows: dict[int, list[Place]], joints: set[tuple[Place, Place]]) -> list[list[Place]]:
    """Order each row: sweeps towards the middle of the neighbours, then swaps while they help; the best is kept."""
    near = _neighbours(joints)
    order = list(rows.values())
    best, fewest = order, _crossings(order, joints)
    for sweep in range(_SWEEPS):
        order = [list(row) for row in order]
        _sweep(order if sweep % 2 else order[::-1], near)
        _swap(order, joints)
        if (crossings := _crossings(order, joints)) < fewest:
            best, fewest = [list(row) for row in order], crossings
    return best


def _neighbours(joints: set[tuple[Place, Place]]) -> dict[Place, list[Place]]:
    near: dict[Place, list[Place]] = {}
    for upper, lower in sorted(joints):
        near.setdefault(upper, []).append(lower)
        near.setdefault(lower, []).append(upper)
    return near


def _sweep(rows: Sequence[list[Place]], near: Mapping[Place, Sequence[Place]]) -> None:
    for fixed, row in pairwise(rows):
        at = {place: (index + 0.5) / len(fixed) for index, place in enumerate(fixed)}
        wanted = {}
        for index, place in enumerate(row):
            there = [at[other] for other in near.get(place, ()) if other in at]
            wanted[place] = fsum(there) / len(there) if there else (index + 0.5) / len(row)
        row.sort(key=wanted.__getitem__)


def _swap(order: list[list[Place]], joints: set[tuple[Place, Place]]) -> None:
    for row in order:
        for index in range(len(row) - 1):
            before = _crossings(order, joints)
            row[index], row[index + 1] = row[index + 1], row[index]
            if _crossings(order, joints) >= before:
                row[index], row[index + 1] = row[index + 1], row[index]


def _crossings(order: Sequence[Sequence[Place]], joints: set[tuple[Place, Place]]) -> int:
    at = {place: index for row in order for index, place in enumerate(row)}
    spans: dict[int, list[tuple[int, int]]] = {}
    for upper, lower in joints:
        spans.setdefault(upper.floor, []).append((at[upper], at[lower]))
    return sum(
        (first[0] - second[0]) * (first[1] - second[1]) < 0
        for row in spans.values()
        for index, first in enumerate(row)
        for second in row[:index]
    )


def _centres(order: Sequence[Sequence[Place]], joints: set[tuple[Place, Place]]) -> dict[Place, float]:
    """Move each place towards the mean of its neighbours, without touching the next one; then straighten the lanes."""
    near = _neighbours(joints)
    centres = {place: centre for row in order for place, centre in _spread(row, [0.0] * len(row), [1.0] * len(row))}
    for sweep in range(_SWEEPS * 4):
        for row in order if sweep % 2 else order[::-1]:
            wanted, weights = [], []
            for place in row:
                pulls = [(0.0, _MIDDLE_PULL), *((centres[other], _pull(place, other)) for other in near.get(place, ()))]
                weights.append(fsum(weight for _, weight in pulls))
                wanted.append(fsum(centre * weight for centre, weight in pulls) / weights[-1])
            centres.update(_spread(row, wanted, weights))
    for _ in range(_SWEEPS):
        for row in order:
            _straighten(row, centres, near)
    return centres


def _pull(place: Place, other: Place) -> float:
    return _LANE_PULL if place.is_lane and other.is_lane else _ROOM_PULL


def _straighten(row: Sequence[Place], centres: dict[Place, float], near: Mapping[Place, Sequence[Place]]) -> None:
    """Move each lane as near to the one below it, or to the room where it ends, as its row allows."""
    for index, place in enumerate(row):
        if not place.is_lane:
            continue
        below = next(other for other in near[place] if other.floor < place.floor)
        wanted = centres[below]
        if index:
            wanted = max(wanted, centres[row[index - 1]] + _distance(row[index - 1], place))
        if index < len(row) - 1:
            wanted = min(wanted, centres[row[index + 1]] - _distance(place, row[index + 1]))
        centres[place] = wanted


def _distance(left: Place, right: Place) -> float:
    return (left.width + right.width) / 2 + GAP


def _spread(row: Sequence[Place], wanted: Sequence[float], weights: Sequence[float]) -> list[tuple[Place, float]]:
    """Return the centres that are nearest to the wanted ones and keep the gaps (least squares, by pooling)."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + _distance(left, right))
    pools: list[tuple[float, float, int]] = []  # the mean, its weight, how many places
    for target, offset, weight in zip(wanted, offsets, weights, strict=True):
        pools.append((target - offset, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, heavy, count), (last, light, more) = pools[-2], pools[-1]
            pools[-2:] = [((mean * heavy + last * light) / (heavy + light), heavy + light, count + more)]
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [(place, mean + offset) for place, mean, offset in zip(row, means, offsets, strict=True)]
