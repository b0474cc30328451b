"""The search for partners: what names leave open is settled by order, type, shape, values and the tree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from parity.pairing.align import align_trees
from parity.pairing.constants import number
from parity.pairing.evidence import Evidence
from parity.pairing.fusion import Fusion, Measure, choices, fuse, main_output, measure_values
from parity.pairing.kinds import family_of
from parity.pairing.layout import Layout, candidates
from parity.pairing.node import Node, Tree

Settle = Callable[[Node, Node, Layout], float]
"""Runs two modules on fresh inputs and returns the distance of their main outputs under a layout."""


@dataclass
class Search:
    """Partners found so far; `left` and `right` are the two sides, in either order.

    Args:
        evidence: Comparisons of both trees' modules.
        anchors: Partners by name: right by left.
        settle: Runs two modules, or None.
        partners: Right by left, names included.
        fusions: Modules of one side that stand for several; the flag says whether the several are on the left.
        settled: Distances of two modules on fresh inputs, where they were run.
    """

    evidence: Evidence
    anchors: Mapping[str, str]
    settle: Settle | None
    partners: dict[str, str] = field(default_factory=dict)
    fusions: list[tuple[Fusion, bool]] = field(default_factory=list)
    settled: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def left(self) -> Tree:
        """The left side's modules."""
        return self.evidence.left

    @property
    def right(self) -> Tree:
        """The right side's modules."""
        return self.evidence.right

    def run(self) -> None:
        """Find everything: fused modules that values prove, the alignment, other fused modules, what is left over."""
        self.partners.update(self.anchors)
        self._fuse_by_values()
        self._align()
        self._exchange()
        self._fuse_by_shape()
        self._assign_rest()
        self._assign_uncalled()

    # --- what is open ---

    def open(self, on_left: bool) -> list[Node]:
        """Return the called modules of one side that have no partner yet, children before their parents."""
        taken = self._taken(on_left)
        return [node for node in (self.left if on_left else self.right).called if node.name not in taken]

    def _taken(self, on_left: bool) -> set[str]:
        taken = set(self.partners) if on_left else set(self.partners.values())
        for fusion, parts_left in self.fusions:
            taken |= {part.name for part in fusion.parts} if parts_left == on_left else {fusion.whole.name}
        return taken

    # --- evidence with the surroundings ---

    def score(self, left: str, right: str) -> float:
        """Evidence for two partners: their comparison, a run on fresh inputs, and whether those above are partners."""
        total = self.evidence.compare(left, right).score
        if self.settled.get((left, right), math.inf) <= number("agree"):
            total += number("settled")
        return total + self._parents(left, right)

    def _parents(self, left: str, right: str) -> float:
        """The nearest paired modules above: partners, not partners, or none on both sides."""
        inverse = {there: here for here, there in self.partners.items()}
        above = next((name for name in self.left.above(left) if name in self.partners), None)
        beyond = next((name for name in self.right.above(right) if name in inverse), None)
        if above is None and beyond is None:
            return 0.0
        agrees = above is not None and self.partners[above] == beyond
        return number("parent") if agrees else -number("parent")

    def gap(self, left: str, right: str) -> float:
        """How much more speaks for two partners than for the best other choice of either, and than for chance."""
        own, inverse = self.score(left, right), {there: here for here, there in self.partners.items()}
        rivals = [
            self.score(left, node.name) - number("order") * (node.name in inverse)
            for node in self._others(self.right, right, set(self.anchors.values()))
        ]
        rivals += [
            self.score(node.name, right) - number("order") * (node.name in self.partners)
            for node in self._others(self.left, left, set(self.anchors))
        ]
        return own - max([*rivals, number("chance")])

    @staticmethod
    def _others(tree: Tree, name: str, anchored: set[str]) -> Iterable[Node]:
        return (node for node in tree.called if node.name != name and node.name not in anchored)

    # --- steps ---

    def _fuse_by_values(self) -> None:
        for on_left in (True, False):
            for whole in self._leaves(not on_left):
                for parts in self._part_choices(on_left, whole, self._peers(on_left)):
                    fusion = fuse(parts, whole, measure_values(whole))
                    if fusion is not None and fusion.proven:
                        self.fusions.append((fusion, on_left))
                        break

    def _fuse_by_shape(self) -> None:
        """Those whose parts and whole stand below partners; where they lie is a guess unless a run settles it."""
        for on_left in (True, False):
            for whole in self._leaves(not on_left):
                peers = [
                    [part for part in peers if self._parents(*self._sides(part, whole, on_left)) >= 0.0]
                    for peers in self._peers(on_left)
                ]
                found = next(iter(self._part_choices(on_left, whole, peers)), None)
                fusion = fuse(found, whole, self._measure_run(whole, on_left)) if found else None
                if fusion is not None:
                    self.fusions.append((fusion, on_left))

    def _part_choices(self, on_left: bool, whole: Node, groups: Iterable[Sequence[Node]]) -> Iterable[tuple[Node, ...]]:
        taken = self._taken(on_left) | {fusion.whole.name for fusion, _ in self.fusions}
        if whole.name in taken:
            return
        for peers in groups:
            fit = [part for part in peers if part.name not in taken and self._related(part, whole, on_left)]
            yield from choices(fit, whole)

    def _related(self, part: Node, whole: Node, on_left: bool) -> bool:
        one, other = (part, whole) if on_left else (whole, part)
        return self.evidence.related(one, other)

    @staticmethod
    def _sides(part: Node, whole: Node, on_left: bool) -> tuple[str, str]:
        return (part.name, whole.name) if on_left else (whole.name, part.name)

    def _leaves(self, on_left: bool) -> list[Node]:
        tree = self.left if on_left else self.right
        return [node for node in self.open(on_left) if node.name not in tree.children and node.output_shapes]

    def _peers(self, on_left: bool) -> list[list[Node]]:
        """Open leaves below one module that take in the same values, in the order of their calls."""
        tree, groups = self.left if on_left else self.right, dict[tuple[str | None, str | None], list[Node]]()
        for node in self._leaves(on_left):
            print_ = next((node.prints[path] for path in node.input_shapes if path in node.prints), None)
            groups.setdefault((tree.parents[node.name], print_), []).append(node)
        return list(groups.values())

    def _measure_run(self, whole: Node, on_left: bool) -> Measure:
        def measure(part: Node, layout: Layout) -> float:
            if self.settle is None:
                return math.inf
            return self.settle(part, whole, layout) if on_left else self.settle(whole, part, layout.inverse())

        return measure

    def _align(self) -> None:
        if not self.open(True) or not self.open(False):
            return
        lefts, rights = self.left.called, self.right.called
        rows, columns = ({node.name: place for place, node in enumerate(nodes)} for nodes in (lefts, rights))
        scores = np.full((len(lefts), len(rights)), -np.inf)
        for left in self.open(True):
            for right in self.open(False):
                score = self.evidence.compare(left.name, right.name).score
                if score >= number("least"):
                    row, column = rows[left.name], columns[right.name]
                    apart = abs((row + 1) / len(lefts) - (column + 1) / len(rights))
                    scores[row, column] = score - number("near") * apart
        for one, other in self.anchors.items():
            if one in rows and other in columns:
                scores[rows[one], columns[other]] = number("anchor")
        pairs = align_trees(_parents(lefts, self.left, rows), _parents(rights, self.right, columns), scores)
        for row, column in pairs:
            self.partners.setdefault(lefts[row].name, rights[column].name)

    def _exchange(self) -> None:
        """Give siblings that could take each other's place the partners that values, or a run, give them."""
        groups: dict[tuple[str | None, str, int], list[str]] = {}
        for name in self.partners:
            if name not in self.anchors and self.left.nodes[name].output_shapes:
                groups.setdefault(self._place(name), []).append(name)
        for lefts in (group for group in groups.values() if len(group) > 1):
            rights = [self.partners[name] for name in lefts]
            if not all(self.evidence.compare(*pair).values_agree for pair in zip(lefts, rights, strict=True)):
                self._run_all(lefts, rights)
            scores = np.array([[self.score(left, right) for right in rights] for left in lefts])
            scores += number("order") * np.eye(len(lefts))
            for row, column in _assign(scores):
                self.partners[lefts[row]] = rights[column]

    def _place(self, name: str) -> tuple[str | None, str, int]:
        node = self.left.nodes[name]
        above = next((above for above in self.left.above(name) if above in self.partners), None)
        size = math.prod(node.output_shapes[main_output(node)])
        return above, family_of(node.kind, self.evidence.kinds) or node.kind, size

    def _run_all(self, lefts: Sequence[str], rights: Sequence[str]) -> None:
        if self.settle is None:
            return
        for one in lefts:
            for other in rights:
                left, right = self.left.nodes[one], self.right.nodes[other]
                shapes = left.output_shapes[main_output(left)], right.output_shapes[main_output(right)]
                layouts = candidates(*shapes)
                layouts = tuple(layout for layout in layouts if layout.effort == layouts[0].effort)
                distances = [self.settle(left, right, layout) for layout in layouts]
                self.settled[one, other] = min(distances, default=math.inf)

    def _assign_rest(self) -> None:
        """Modules that stand in another order, or in another place of the tree, than the alignment allows."""
        lefts, rights = self.open(True), self.open(False)
        if lefts and rights:
            scores = np.array([[self.score(left.name, right.name) for right in rights] for left in lefts])
            for row, column in _assign(scores - number("least")):
                self.partners[lefts[row].name] = rights[column].name

    def _assign_uncalled(self) -> None:
        """Modules that were never called and hold parameters: by the shapes of these, below partners."""
        sides = []
        for tree, on_left in ((self.left, True), (self.right, False)):
            taken = self._taken(on_left)
            sides.append(
                [
                    node
                    for _, node in sorted(tree.nodes.items())
                    if not node.called and node.parameters and node.name not in taken
                ]
            )
        lefts, rights = sides
        if lefts and rights:
            scores = np.array([[self._score_uncalled(left, right) for right in rights] for left in lefts])
            for row, column in _assign(scores):
                self.partners[lefts[row].name] = rights[column].name

    def _score_uncalled(self, left: Node, right: Node) -> float:
        shapes = [sorted(shape for shape in node.parameters.values()) for node in (left, right)]
        if shapes[0] != shapes[1] or not self.evidence.related(left, right):
            return -math.inf
        return number("parameters") + self._parents(left.name, right.name)


def _parents(called: Sequence[Node], tree: Tree, places: Mapping[str, int]) -> list[int | None]:
    parents = [tree.parents[node.name] for node in called]
    return [None if parent is None else places[parent] for parent in parents]


def _assign(scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[tuple[int, int]]:
    """Return the pairs of the assignment whose positive scores have the largest sum."""
    gains = np.maximum(scores, 0.0)
    rows, columns = linear_sum_assignment(gains, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if scores[row, column] > 0.0]
