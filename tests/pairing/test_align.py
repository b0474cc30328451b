"""The alignment of two forests has the largest score of all mappings that keep order and ancestors."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings
from random_trees import generator

from parity.pairing.align import align_trees

Parents = list[int | None]


def random_forest(rng: np.random.Generator, size: int) -> Parents:
    """A forest in postorder: each node closes over some of the roots that stand open."""
    parents: Parents = [None] * size
    roots: list[int] = []
    for node in range(size):
        for _ in range(int(rng.integers(0, len(roots) + 1))):
            parents[roots.pop()] = node
        roots.append(node)
    return parents


def above(parents: Parents, node: int) -> set[int]:
    found = set()
    parent = parents[node]
    while parent is not None:
        found.add(parent)
        parent = parents[parent]
    return found


def keeps_tree(left: Parents, right: Parents, pairs: tuple[tuple[int, int], ...]) -> bool:
    return all(
        a != c
        and b != d
        and (a < c) == (b < d)
        and (a in above(left, c)) == (b in above(right, d))
        and (c in above(left, a)) == (d in above(right, b))
        for (a, b), (c, d) in itertools.combinations(pairs, 2)
    )


def best_by_trying(left: Parents, right: Parents, score: np.ndarray) -> float:
    places = [place for place in itertools.product(range(len(left)), range(len(right))) if np.isfinite(score[place])]
    return max(
        sum(score[pair] for pair in pairs)
        for count in range(min(len(left), len(right)) + 1)
        for pairs in itertools.combinations(places, count)
        if keeps_tree(left, right, pairs)
    )


@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=60)
def test_the_score_is_the_largest_there_is(seed: int, rows: int, columns: int) -> None:
    rng = generator(seed)
    left, right = random_forest(rng, rows), random_forest(rng, columns)
    score = np.where(rng.random((rows, columns)) < 0.2, -np.inf, rng.random((rows, columns)))
    pairs = tuple(align_trees(left, right, score))
    assert keeps_tree(left, right, pairs)
    assert np.isclose(sum(score[pair] for pair in pairs), best_by_trying(left, right, score))


def test_the_check_of_mappings_sees_a_broken_order_and_a_broken_ancestor() -> None:
    chain, flat = [1, None], [None, None]
    assert keeps_tree(chain, chain, ((0, 0), (1, 1)))
    assert not keeps_tree(chain, chain, ((0, 1), (1, 0)))
    assert not keeps_tree(chain, flat, ((0, 0), (1, 1)))


def test_a_level_of_one_side_only_is_left_out() -> None:
    # (a (b c)) against (wrapper (a (b c))), in postorder
    left, right = [2, 2, None], [2, 2, 3, None]
    score = np.where(np.eye(3, 4) > 0, 1.0, -np.inf)
    assert align_trees(left, right, score) == [(0, 0), (1, 1), (2, 2)]
