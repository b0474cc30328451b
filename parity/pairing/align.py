"""Alignment of two ordered trees: the mapping that keeps ancestors and order and has the largest score.

Leaving out a node moves its children up to its parent, so a level that only one side has costs nothing but itself.

Source: K. Zhang and D. Shasha, Simple fast algorithms for the editing distance between trees and related problems,
SIAM J. Comput. 18 (1989) 1245, with scores to be made large in place of costs to be made small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parity.spec.arrays import Array

Parents = Sequence[int | None]
"""For each node, in postorder, the place of its parent; None for a root."""


def align_trees(left: Parents, right: Parents, score: Array) -> list[tuple[int, int]]:
    """Map nodes of one forest onto nodes of another.

    Args:
        left, right: The forests in postorder.
        score: (len(left), len(right)), what a mapping of two nodes is worth; -infinity where they may not be mapped.

    Returns:
        Pairs in ascending order, the sum of whose scores is largest among all mappings that keep "stands before" and
        "stands above".
    """
    if not len(left) or not len(right):
        return []
    both = _Alignment(_Forest.of(left), _Forest.of(right), _with_top(score), np.zeros((len(left) + 1, len(right) + 1)))
    for i in both.left.keyroots:
        for j in both.right.keyroots:
            both.fill(i, j)
    return sorted(both.trace())


def _with_top(score: Array) -> Array:
    """Add a root above all roots of either side; the two are partners, and nothing else is theirs."""
    grown = np.full((score.shape[0] + 1, score.shape[1] + 1), -np.inf)
    grown[:-1, :-1] = score
    grown[-1, -1] = 0.0
    return grown


@dataclass(frozen=True)
class _Forest:
    """Leftmost leaf of each node, and the nodes with which a new leftmost path begins."""

    leftmost: npt.NDArray[np.intp]
    keyroots: tuple[int, ...]

    @classmethod
    def of(cls, parents: Parents) -> _Forest:
        top = len(parents)
        leftmost = np.arange(top + 1)
        for node, parent in enumerate(parents):
            above = top if parent is None else parent
            leftmost[above] = min(leftmost[above], leftmost[node])
        last = {int(leaf): node for node, leaf in enumerate(leftmost)}
        return cls(leftmost, tuple(sorted(last.values())))


@dataclass(frozen=True)
class _Alignment:
    left: _Forest
    right: _Forest
    score: Array
    trees: Array  # the best score of each subtree of the left against each of the right, filled from below

    def fill(self, i: int, j: int) -> Array:
        """Return the scores of the forests that begin at the leftmost leaves of i and j, filling in their trees'."""
        start_i, start_j = int(self.left.leftmost[i]), int(self.right.leftmost[j])
        columns = np.arange(start_j, j + 1)
        straight = self.right.leftmost[columns] == start_j
        before = self.right.leftmost[columns] - start_j
        table = np.zeros((i - start_i + 2, j - start_j + 2))
        for row, node in enumerate(range(start_i, i + 1), start=1):
            above, leaf = table[row - 1], int(self.left.leftmost[node])
            jumped = table[leaf - start_i, before] + self.trees[node, columns]
            if leaf == start_i:
                matched = above[:-1] + self.score[node, columns]
                best = np.maximum(above[1:], np.where(straight, matched, jumped))
            else:
                best = np.maximum(above[1:], jumped)
            # What leaves out a node of the right is as good as the forest without it.
            table[row, 1:] = np.maximum.accumulate(np.maximum(best, 0.0))
            if leaf == start_i:
                self.trees[node, columns[straight]] = table[row, 1:][straight]
        return table

    def trace(self) -> list[tuple[int, int]]:
        """Return the pairs behind the best score of the two roots, themselves left out."""
        top = (len(self.left.leftmost) - 1, len(self.right.leftmost) - 1)
        pairs: list[tuple[int, int]] = []
        open_trees = [top]
        while open_trees:
            i, j = open_trees.pop()
            table = self.fill(i, j)
            self._walk(table, i, j, pairs, open_trees)
        return [pair for pair in pairs if pair != top]

    def _walk(
        self, table: Array, i: int, j: int, pairs: list[tuple[int, int]], open_trees: list[tuple[int, int]]
    ) -> None:
        start_i, start_j = int(self.left.leftmost[i]), int(self.right.leftmost[j])
        row, column = i - start_i + 1, j - start_j + 1
        while row > 0 and column > 0:
            node, other = row + start_i - 1, column + start_j - 1
            if table[row, column] == table[row - 1, column]:
                row -= 1
            elif table[row, column] == table[row, column - 1]:
                column -= 1
            elif self.left.leftmost[node] == start_i and self.right.leftmost[other] == start_j:
                pairs.append((node, other))
                row, column = row - 1, column - 1
            else:
                open_trees.append((node, other))
                row, column = int(self.left.leftmost[node]) - start_i, int(self.right.leftmost[other]) - start_j
