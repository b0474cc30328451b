"""Fused modules: one module whose output holds those of several modules of the other side.

A projection for query, key and value at once is one; they may stand in any order, and may be dealt out to groups of
columns, one for every head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.pairing.constants import MOST_AXES, MOST_PARTS, MOST_PEERS, number
from parity.pairing.layout import Agreement, Layout, Part, distance
from parity.pairing.node import Node, Shape

Measure = Callable[[Node, Layout], float]
"""Distance of a part from its slice of the fused module's output under a layout."""


@dataclass(frozen=True)
class Fusion:
    """One module of the right that stands for several of the left.

    Args:
        parts: The several, in the order of their calls.
        whole: The one.
        agreements: Where each part lies, by the parts' names; `part.fused` is "port".
        proven: Number of parts whose values were found there.
    """

    parts: tuple[Node, ...]
    whole: Node
    agreements: dict[str, Agreement]
    proven: int


def choices(peers: Sequence[Node], whole: Node) -> Iterator[tuple[Node, ...]]:
    """Yield every set of two or more of `peers` whose outputs could make up that of `whole`, the larger sets first.

    Beyond `MOST_PEERS` of them only neighbours are taken together.
    """
    for count in range(min(MOST_PARTS, len(peers)), 1, -1):
        if len(peers) <= MOST_PEERS:
            sets: Iterator[tuple[Node, ...]] = itertools.combinations(peers, count)
        else:
            sets = (tuple(peers[start : start + count]) for start in range(len(peers) - count + 1))
        yield from (parts for parts in sets if any(True for _ in _moves(parts, whole)))


def measure_values(whole: Node) -> Measure:
    """Return the measure that compares values recorded in the run; infinity where there are none."""
    path = main_output(whole)

    def measure(part: Node, layout: Layout) -> float:
        if main_output(part) not in part.values or path not in whole.values:
            return math.inf
        return distance(*layout.align(part.values[main_output(part)], whole.values[path]))

    return measure


def fuse(parts: Sequence[Node], whole: Node, measure: Measure) -> Fusion | None:
    """Find where each of `parts` lies in `whole`: the arrangement in which most of them agree by `measure`.

    Returns:
        The fusion, in the order of the calls and unproven where no part agrees anywhere; None if the shapes do not fit.
    """
    arrangements = list(_arrangements(parts, whole))
    if not arrangements:
        return None
    known: dict[tuple[str, Layout], float] = {}

    def look(part: Node, layout: Layout) -> float:
        if (part.name, layout) not in known:
            known[part.name, layout] = measure(part, layout)
        return known[part.name, layout]

    tried = [[look(part, layout) for part, layout in zip(parts, layouts, strict=True)] for layouts in arrangements]
    hits = [sum(value <= number("agree") for value in values) for values in tried]
    best = int(np.argmax(hits))
    rivals = [arrangements[index] for index, count in enumerate(hits) if count == hits[best] and index != best]
    found = {
        part.name: _judged(layout, value, any(rival[index] != layout for rival in rivals))
        for index, (part, layout, value) in enumerate(zip(parts, arrangements[best], tried[best], strict=True))
    }
    return Fusion(tuple(parts), whole, found, hits[best])


def _judged(layout: Layout, value: float, ambiguous: bool) -> Agreement:
    agrees = value <= number("agree")
    return Agreement(layout, value if math.isfinite(value) else None, agrees, ambiguous, float(agrees))


def main_output(node: Node) -> str:
    """Return the path of a called module's first output."""
    return next(iter(node.output_shapes))


def _moves(parts: Sequence[Node], whole: Node) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield (permutation of the parts' axes, axis of the whole) under which the parts fill the whole along the axis."""
    shapes: list[Shape] = [part.output_shapes[main_output(part)] for part in parts if part.output_shapes]
    if len(shapes) < len(parts) or not whole.output_shapes:
        return
    target = whole.output_shapes[main_output(whole)]
    if any(len(shape) != len(target) for shape in shapes) or len(target) > MOST_AXES:
        return
    if sum(math.prod(shape) for shape in shapes) != math.prod(target):
        return
    wide = {axis for shape in shapes for axis, length in enumerate(shape) if length != 1}
    seen: set[tuple[int, ...]] = set()
    for axes in itertools.permutations(range(len(target))):
        order = tuple(axis for axis in axes if axis in wide)
        moved = [tuple(shape[axis] for axis in axes) for shape in shapes]
        for axis in reversed(range(len(target))):
            rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in moved}
            fills = sum(shape[axis] for shape in moved) == target[axis]
            known = (*order, axis) in seen  # axes of length 1 may stand anywhere
            if fills and not known and rest == {(*target[:axis], *target[axis + 1 :])}:
                seen.add((*order, axis))
                yield axes, axis


def _arrangements(parts: Sequence[Node], whole: Node) -> Iterator[tuple[Layout, ...]]:
    """Yield the layouts of all parts at once: plain slices in the order of the calls first."""
    for axes, axis in _moves(parts, whole):
        shapes = [part.output_shapes[main_output(part)] for part in parts]
        plain = [Layout(shape, shape, axes, tuple(shape[a] for a in axes)) for shape in shapes]
        widths = [layout.merged[axis] for layout in plain]
        for groups in _divisors(math.gcd(*widths)):
            for order in itertools.permutations(range(len(parts))):
                starts = dict(zip(order, _starts([widths[index] // groups for index in order]), strict=True))
                yield tuple(
                    replace(
                        layout,
                        part=Part("port", axis, groups, starts[index], widths[index] // groups, sum(widths) // groups),
                    )
                    for index, layout in enumerate(plain)
                )


def _starts(widths: Sequence[int]) -> list[int]:
    return [0, *itertools.accumulate(widths)][:-1]


def _divisors(value: int) -> list[int]:
    return [divisor for divisor in range(1, value + 1) if value % divisor == 0]
