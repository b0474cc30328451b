"""How much speaks for two modules being partners, before it is known what stands around them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.pairing.constants import number
from parity.pairing.kinds import family_of, group_of, likeness
from parity.pairing.layout import Agreement, by_shape, candidates, distance, recognise
from parity.pairing.node import UNKNOWN, Node, Shape, Tree

Agreements = Mapping[tuple[str, str], Agreement]
"""By (the reference's path, the port's path)."""


@dataclass(frozen=True)
class Comparison:
    """Two modules, one of either side.

    Args:
        score: Evidence in nats; -infinity for modules that cannot be partners.
        outputs: How their outputs lie, the main one first; empty if no two have one size.
        inputs: The same of their inputs.
        same: What they have in common, in words.
        differs: What they have not.
    """

    score: float
    outputs: Agreements
    inputs: Agreements
    same: tuple[str, ...]
    differs: tuple[str, ...]

    @property
    def values_agree(self) -> bool | None:
        """Whether the outputs have the same values; None where there are no values."""
        return _all_agree(self.outputs)

    @property
    def distance(self) -> float | None:
        """The largest distance of two outputs; a lower bound of it where they differ."""
        return max((it.distance for it in self.outputs.values() if it.distance is not None), default=None)


@dataclass(frozen=True)
class Evidence:
    """Compares modules of two trees, each two of them once."""

    left: Tree
    right: Tree
    kinds: Sequence[tuple[str, str]]
    _known: dict[tuple[str, str], Comparison] = field(default_factory=dict)

    def compare(self, left: str, right: str) -> Comparison:
        """Return the comparison of two modules by their names."""
        if (left, right) not in self._known:
            self._known[left, right] = self._compare(self.left.nodes[left], self.right.nodes[right])
        return self._known[left, right]

    def related(self, left: Node, right: Node) -> bool:
        """Whether the types of two modules allow them to be partners: one group, or a class the table does not know."""
        one, other = family_of(left.kind, self.kinds), family_of(right.kind, self.kinds)
        return one is None or other is None or group_of(one) == group_of(other)

    def _compare(self, left: Node, right: Node) -> Comparison:
        outputs = agreements(left, right, left.output_shapes, right.output_shapes)
        if not self.related(left, right) or not outputs:
            return Comparison(-math.inf, outputs, {}, (), ("type",) if outputs else ("size",))
        inputs = agreements(left, right, left.input_shapes, right.input_shapes)
        terms = {
            "type": self._kind(left, right),
            "shape": _shape(left, right, outputs),
            "parameters": _parameters(left, right),
            "inputs": _inputs(left, right, inputs),
            "calls": number("calls") * (left.calls != right.calls),
            "parts": self._parts(left, right),
            "shell": number("shell") * ((left.name in self.left.shells) != (right.name in self.right.shells)),
            "source": _flow(self.left.sources[left.name], self.right.sources[right.name]),
            "sink": _flow(self.left.sinks[left.name], self.right.sinks[right.name]),
            "name": number("name") * likeness(left.last_name, right.last_name),
            "values": _values(outputs, "outputs_agree") + _values(inputs, "inputs_agree"),
        }
        told = ("type", "shape", "parameters", "calls")
        same = tuple(name for name in told if terms[name] > 0)
        differs = tuple(name for name in told if terms[name] < 0)
        return Comparison(sum(terms.values()), outputs, inputs, same, differs)

    def _kind(self, left: Node, right: Node) -> float:
        one, other = family_of(left.kind, self.kinds), family_of(right.kind, self.kinds)
        if one is not None and other is not None:
            return number("kind") if one == other else number("kind_group")
        return number("kind") * likeness(left.kind, right.kind) if one is other else 0.0

    def _parts(self, left: Node, right: Node) -> float:
        one, other = self._families_below(self.left, left), self._families_below(self.right, right)
        if not one or not other:
            return -number("children") if one or other else 0.0
        common = 2 * (one & other).total() / (one.total() + other.total())
        return number("children") * (common + (one.total() == other.total())) / 2

    def _families_below(self, tree: Tree, node: Node) -> Counter[str | None]:
        return Counter(family_of(tree.nodes[part].kind, self.kinds) for part in tree.children.get(node.name, ()))


def agreements(
    left: Node, right: Node, left_shapes: Mapping[str, Shape], right_shapes: Mapping[str, Shape]
) -> Agreements:
    """Put the arrays of two modules beside each other: those that agree first, then by path, then in order.

    Where both sides call several by the same paths, paths come first: exchanged arguments are the caller's mistake.
    """
    found = {
        (one, other): agreement
        for one in left_shapes
        for other in right_shapes
        if (agreement := _agreement(left, one, right, other)) is not None
    }
    named = len(left_shapes) > 1 and left_shapes.keys() == right_shapes.keys()
    ranked = sorted(found, key=lambda p: (named and p[0] != p[1], not found[p].agrees, p[0] != p[1]))
    taken: dict[tuple[str, str], Agreement] = {}
    for one, other in ranked:
        if all(one != used and other != as_well for used, as_well in taken):
            taken[one, other] = found[one, other]
    order = list(left_shapes)
    return {paths: taken[paths] for paths in sorted(taken, key=lambda paths: order.index(paths[0]))}


def _agreement(left: Node, one: str, right: Node, other: str) -> Agreement | None:
    shapes = {**left.input_shapes, **left.output_shapes}[one], {**right.input_shapes, **right.output_shapes}[other]
    layouts = candidates(*shapes)
    if not layouts:
        return None
    if one not in left.values or other not in right.values:
        return by_shape(layouts)
    least = _least_distance(left, one, right, other)
    if least > number("agree"):
        unproven = by_shape(layouts)
        return Agreement(unproven.layout, least, False, unproven.ambiguous, 0.0)
    return recognise(left.values[one], right.values[other], layouts)


def _least_distance(left: Node, one: str, right: Node, other: str) -> float:
    """A bound from below that no layout gets under: the distance of the sorted values, and of their norms before it."""
    ranked = left.ranked[one], right.ranked[other]
    if all(np.isfinite(values).all() for values in ranked):
        norms = sorted(float(np.linalg.norm(values)) for values in ranked)
        if math.isfinite(norms[1]) and norms[1] - norms[0] > number("agree") * norms[1]:
            return (norms[1] - norms[0]) / norms[1]
    return distance(*ranked)


def _flow(one: str | None, other: str | None) -> float:
    if one == other:
        return 0.0 if one is None else number("flow")
    if one is None or other is None:  # a slice or a function in between hides the layer
        return -number("flow") / 2
    return 0.0 if UNKNOWN in (one, other) else -number("flow")


def _all_agree(found: Agreements) -> bool | None:
    known = [it.agrees for it in found.values() if it.distance is not None]
    return all(known) if known else None


def _values(found: Agreements, weight: str) -> float:
    if not _all_agree(found):
        return 0.0
    return number(weight) * max(it.information for it in found.values())


def _shape(left: Node, right: Node, outputs: Agreements) -> float:
    one, other = next(iter(outputs))
    shapes = left.output_shapes[one], right.output_shapes[other]
    if shapes[0] == shapes[1]:
        return number("shape")
    return number("shape") * 0.75 if sorted(shapes[0]) == sorted(shapes[1]) else number("shape_size")


def _inputs(left: Node, right: Node, inputs: Agreements) -> float:
    if not left.input_shapes or not right.input_shapes:
        return 0.0
    return number("inputs_shape") if inputs else -number("inputs_shape")


def _parameters(left: Node, right: Node) -> float:
    if not left.parameters and not right.parameters:
        return 0.0
    shapes = [Counter(_wide(shape) for shape in node.parameters.values()) for node in (left, right)]
    if shapes[0] == shapes[1]:
        return number("parameters")
    sizes = [sum(math.prod(shape) for shape in node.parameters.values()) for node in (left, right)]
    return number("parameters_size") if sizes[0] == sizes[1] else -number("parameters")


def _wide(shape: Shape) -> Shape:
    """The lengths of a shape in ascending order, those of 1 left out."""
    return tuple(sorted(length for length in shape if length != 1))
