"""A layered layout: what a node depends on is below it, edges go down, and crossings are few.

The way of Sugiyama, in its simplest form. A node's layer is the length of its longest chain of dependees. An edge that
passes layers gets a bend in each, which is ordered like a node. Sweeps up and down put each node at the mean of its
neighbours' places; the order with the fewest crossings is kept. For the some hundred nodes that a picture can show this
is done in an instant; a library would bring more than it saves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Layout", "Place", "lay_out"]

_SWEEPS = 12

Bend = tuple[str, str, int]
"""Where the edge from a node to another passes a layer."""
Item = str | Bend


class Place(NamedTuple):
    """``x`` counts columns from the left, with fractions; ``layer`` counts from the bottom, from 0."""

    x: float
    layer: int


class Layout(NamedTuple):
    places: dict[str, Place]
    edges: dict[tuple[str, str], tuple[Place, ...]]
    """(node, what it depends on) -> the places the edge goes through, both ends included."""
    columns: int
    layers: int


def lay_out(depends_on: Mapping[str, Sequence[str]]) -> Layout:
    """``depends_on`` names all nodes and has no cycle."""
    layer = _layers(depends_on)
    count = max(layer.values(), default=-1) + 1
    rows: list[list[Item]] = [[] for _ in range(count)]
    for name in depends_on:
        rows[layer[name]].append(name)
    links: list[tuple[Item, Item]] = []
    routes: dict[tuple[str, str], list[Item]] = {}
    for name, dependees in depends_on.items():
        for dependee in dependees:
            bends: list[Item] = [(name, dependee, at) for at in range(layer[name] - 1, layer[dependee], -1)]
            for at, bend in zip(range(layer[name] - 1, layer[dependee], -1), bends, strict=True):
                rows[at].append(bend)
            route: list[Item] = [name, *bends, dependee]
            routes[name, dependee] = route
            links += pairwise(route)
    rows = _ordered(rows, links)
    columns = max((len(row) for row in rows), default=0)
    x: dict[Item, float] = {}
    for row in rows:
        shift = (columns - len(row)) / 2
        x.update({item: shift + index for index, item in enumerate(row)})
    level = {item: at for at, row in enumerate(rows) for item in row}
    return Layout(
        {name: Place(x[name], layer[name]) for name in depends_on},
        {edge: tuple(Place(x[item], level[item]) for item in route) for edge, route in routes.items()},
        columns,
        count,
    )


def _layers(depends_on: Mapping[str, Sequence[str]]) -> dict[str, int]:
    layer: dict[str, int] = {}
    for start in depends_on:
        stack = [start]
        while stack:
            name = stack[-1]
            missing = [dependee for dependee in depends_on[name] if dependee not in layer]
            if missing:
                stack += missing
                continue
            stack.pop()
            layer[name] = max((layer[dependee] + 1 for dependee in depends_on[name]), default=0)
    return layer


def _ordered(rows: list[list[Item]], links: Sequence[tuple[Item, Item]]) -> list[list[Item]]:
    above: dict[Item, list[Item]] = {}
    below: dict[Item, list[Item]] = {}
    for upper, lower in links:
        below.setdefault(upper, []).append(lower)
        above.setdefault(lower, []).append(upper)
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        upward = sweep % 2 == 0
        order = range(1, len(rows)) if upward else range(len(rows) - 2, -1, -1)
        for at in order:
            fixed = rows[at - 1] if upward else rows[at + 1]
            place = {item: index for index, item in enumerate(fixed)}
            neighbours = below if upward else above
            was = {item: index for index, item in enumerate(rows[at])}
            rows[at].sort(key=lambda item: (_mean(neighbours.get(item, ()), place, was[item]), was[item]))
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _mean(items: Sequence[Item], place: Mapping[Item, int], otherwise: int) -> float:
    known = [place[item] for item in items if item in place]
    return sum(known) / len(known) if known else float(otherwise)


def _crossings(rows: Sequence[Sequence[Item]], below: Mapping[Item, Sequence[Item]]) -> int:
    total = 0
    for at in range(1, len(rows)):
        place = {item: index for index, item in enumerate(rows[at - 1])}
        ends: list[int] = []
        for item in rows[at]:
            here = sorted(place[lower] for lower in below.get(item, ()))
            for end in here:
                total += sum(1 for other in ends if other > end)
            ends += here
    return total
