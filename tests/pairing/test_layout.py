"""Layouts are recognised by value, and said to be ambiguous where values do not tell them apart."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from random_trees import generator

from parity.pairing import Layout, Part
from parity.pairing.layout import by_shape, candidates, distance, recognise, settled
from parity.spec.arrays import Array


def normal(*shape: int, seed: int = 0) -> Array:
    return generator(seed).standard_normal(shape)


MOVES = {
    "NCL to NLC": ((2, 3, 5), lambda x: x.transpose(0, 2, 1), "axes (0, 2, 1)"),
    "NCHW to NHWC": ((2, 3, 4, 5), lambda x: x.transpose(0, 2, 3, 1), "axes (0, 2, 3, 1)"),
    "square": ((2, 4, 4), lambda x: x.transpose(0, 2, 1), "axes (0, 2, 1)"),
    "nothing": ((2, 4, 4), lambda x: x, "identity"),
    "heads behind positions": ((2, 3, 5, 4), lambda x: x.transpose(0, 2, 1, 3), "axes (0, 2, 1, 3)"),
    "heads split off": (
        (2, 5, 12),
        lambda x: x.reshape(2, 5, 3, 4).transpose(0, 2, 1, 3),
        "(2, 5, 12) as (2, 5, 3, 4), axes (0, 2, 1, 3), as (2, 3, 5, 4)",
    ),
    "heads merged": (
        (2, 3, 5, 4),
        lambda x: x.transpose(0, 2, 1, 3).reshape(2, 5, 12),
        "(2, 3, 5, 4) as (2, 3, 5, 4), axes (0, 2, 1, 3), as (2, 5, 12)",
    ),
    "heads into the batch": (
        (2, 5, 12),
        lambda x: x.reshape(2, 5, 3, 4).transpose(0, 2, 1, 3).reshape(6, 5, 4),
        "(2, 5, 12) as (2, 5, 3, 4), axes (0, 2, 1, 3), as (6, 5, 4)",
    ),
    "rows flattened": ((2, 5, 12), lambda x: x.reshape(10, 12), "(2, 5, 12) as (10, 12)"),
}


@pytest.mark.parametrize(("shape", "move", "words"), MOVES.values(), ids=MOVES)
def test_the_layout_under_which_values_agree_is_recognised(shape: tuple[int, ...], move: object, words: str) -> None:
    x = normal(*shape)
    y = move(x)  # type: ignore[operator]
    found = recognise(x, y, candidates(x.shape, y.shape))
    assert (found.layout.describe(), found.agrees, found.ambiguous) == (words, True, False)
    np.testing.assert_array_equal(found.layout.apply(x), y)
    np.testing.assert_array_equal(found.layout.inverse().apply(y), x)


def test_other_values_are_not_recognised_as_any_layout() -> None:
    found = recognise(normal(2, 4, 4), normal(2, 4, 4, seed=1), candidates((2, 4, 4), (2, 4, 4)))
    assert not found.agrees
    assert found.ambiguous


def test_symmetric_values_leave_a_square_ambiguous_and_a_run_settles_it() -> None:
    x = normal(1, 4, 4)
    x = x + x.transpose(0, 2, 1)
    layouts = candidates(x.shape, x.shape)
    found = recognise(x, x, layouts)
    assert (found.agrees, found.ambiguous, found.layout.describe()) == (True, True, "identity")
    fresh = normal(1, 4, 4, seed=1)
    ran = settled(layouts, lambda layout: distance(*layout.align(fresh, fresh.transpose(0, 2, 1))))
    assert (ran.agrees, ran.ambiguous, ran.layout.describe()) == (True, False, "axes (0, 2, 1)")


def test_one_position_is_not_ambiguous_since_nothing_moves() -> None:
    assert not recognise(
        normal(2, 6, 1), normal(2, 6, 1).transpose(0, 2, 1), candidates((2, 6, 1), (2, 1, 6))
    ).ambiguous


def test_without_values_a_square_is_ambiguous_and_other_shapes_are_not() -> None:
    assert by_shape(candidates((2, 4, 4), (2, 4, 4))).ambiguous
    assert not by_shape(candidates((2, 5, 12), (2, 5, 12))).ambiguous
    assert not by_shape(candidates((2, 5, 12), (2, 12, 5))).ambiguous


def test_arrays_of_different_size_have_no_layout() -> None:
    assert candidates((2, 3), (2, 4)) == ()
    with pytest.raises(ValueError, match="no layout to choose from"):
        by_shape(())


def test_many_axes_are_only_reshaped() -> None:
    assert [layout.describe() for layout in candidates((2,) * 6, (2,) * 6)] == ["identity"]


@given(st.lists(st.sampled_from((1, 2, 3, 4)), min_size=1, max_size=4).map(tuple), st.integers(0, 23))
@settings(max_examples=60)
def test_no_two_candidates_do_the_same_and_the_right_one_is_among_them(shape: tuple[int, ...], index: int) -> None:
    permutations = list(itertools.permutations(range(len(shape))))
    axes = permutations[index % len(permutations)]
    x = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    y = x.transpose(axes)
    made = [layout.apply(x) for layout in candidates(x.shape, y.shape)]
    assert all(array.shape == y.shape for array in made)
    assert len({array.tobytes() for array in made}) == len(made)
    assert any(np.array_equal(array, y) for array in made)


# --- distance -------------------------------------------------------------------------------------------------------


def test_distance_is_relative_and_symmetric() -> None:
    x, y = normal(3, 4), normal(3, 4, seed=1)
    assert distance(x, y) == distance(y, x)
    assert distance(x * 1e-300, y * 1e-300) == pytest.approx(distance(x, y), rel=1e-12)
    assert distance(x, x * 1.5) == pytest.approx(1 / 3)
    assert distance(np.zeros(3), np.zeros(3)) == 0.0


def test_nan_and_infinities_must_stand_in_the_same_places() -> None:
    x = np.array([1.0, np.nan, np.inf, 2.0])
    assert distance(x, x) == 0.0
    assert distance(x, np.array([np.nan, 1.0, np.inf, 2.0])) == math.inf
    assert distance(x, np.array([1.0, np.nan, -np.inf, 2.0])) == math.inf


# --- slices ---------------------------------------------------------------------------------------------------------


def test_a_part_takes_its_columns_of_every_group() -> None:
    whole = np.arange(12.0).reshape(1, 12)
    part = Part("port", axis=1, groups=2, start=1, width=2, stride=6)
    assert part.take(whole).tolist() == [[1, 2, 7, 8]]
    assert part.describe() == "columns 1:3 of axis 1 of the port's in each of 2 groups of 6"
    layout = Layout((1, 4), (1, 4), (0, 1), (1, 4), part)
    piece = np.array([[1.0, 2.0, 7.0, 8.0]])
    assert distance(*layout.align(piece, whole)) == 0.0
    assert distance(*layout.inverse().align(whole, piece)) == 0.0
    assert not layout.is_identity


@pytest.mark.parametrize("nearest", range(3))
def test_of_layouts_that_agree_but_for_rounding_the_one_of_least_effort_is_taken(nearest: int) -> None:
    layouts = candidates((2, 6, 6), (2, 6, 6))
    assert [layout.effort for layout in layouts] == sorted(layout.effort for layout in layouts)
    agreeing = [1, 5, 9]
    found = settled(
        layouts,
        lambda layout: (
            8.7e-17 + (1e-32 if layouts.index(layout) != agreeing[nearest] else 0.0)
            if layouts.index(layout) in agreeing
            else 0.8
        ),
    )
    assert found.layout == layouts[1]
    assert found.ambiguous
