"""Exact numbers and the reach of roundings beside them, against closed forms."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings

from parity.oracles import Carried, agreement, fifty_digits, leaves, stored
from parity.oracles.agreement import NO_CONDITION, NO_LOSS, together
from parity.oracles.carried import constant, dot

U = 2.0**-53


def values(exact: Carried) -> np.ndarray:
    return np.asarray(exact.value, dtype=np.float64)


def test_fifty_digits_hold_inside_and_are_gone_outside() -> None:
    before = mpmath.mp.dps
    assert fifty_digits(lambda: mpmath.mp.dps)() == 50
    assert mpmath.mp.dps == before


def test_a_stored_number_is_exact_and_a_constant_is_rounded_once() -> None:
    assert stored([0.1]).value[0] == mpmath.mpf(0.1)
    assert stored([0.1]).reach[0] == 0
    assert constant(0.5).reach == 0.5


@fifty_digits
def test_reach_follows_the_rules_of_running_error_analysis() -> None:
    x, y = stored(3.0), stored(-2.0)
    assert (x + y).reach == 1
    assert (x * y).reach == 6
    assert ((x + y) * y).reach == 2 * 1 + 2
    assert (x / y).reach == pytest.approx(3 * 0.5 + 1.5)
    assert stored([1.0, -1.0, 4.0]).sum(0).reach == [6]
    assert dot(stored([[1.0, 2.0]]), stored([[3.0, -4.0]])).reach == [[11]]
    root = x.apply(mpmath.sqrt, lambda v: 1 / (2 * mpmath.sqrt(v)))
    assert root.reach == pytest.approx(math.sqrt(3))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_leaves_agree_with_scipy_where_it_knows_them(seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    x = rng.standard_normal((2, 5))
    np.testing.assert_allclose(values(leaves.softmax(x, 1)), scipy.special.softmax(x, 1), rtol=64 * U)
    np.testing.assert_allclose(
        values(leaves.gelu(x, "erf")), x * scipy.special.ndtr(x), rtol=0, atol=64 * U * np.abs(x).max()
    )
    labels = np.array([[1, 0, 3], [2, 4, 1]])
    logits = rng.standard_normal((2, 3, 5))
    own = -np.take_along_axis(scipy.special.log_softmax(logits, -1), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(float(leaves.cross_entropy(logits, labels).value), own[labels > 0].mean(), rtol=64 * U)


def test_the_future_acts_at_its_own_lag() -> None:
    u, silent = np.array([[[0.0, 1.0, 0.0]]]), np.zeros((1, 3))
    k_rev, D = np.array([[5.0, 6.0, 7.0]]), np.zeros(1)
    assert values(leaves.convolution(u, silent, D, k_rev, "time", 1.0)).tolist() == [[[5, 0, 0]]]
    assert values(leaves.convolution(u, silent, D, k_rev, "freq", 0.5)).tolist() == [[[3, 2.5, 0]]]


# Agreement -----------------------------------------------------------------------------------------------------


def exact(*numbers: float, reach: float) -> Carried:
    return Carried(stored(list(numbers)).value, np.full(len(numbers), reach))


@pytest.mark.parametrize(
    ("actual", "reach", "scale_ulp", "well_ulp", "any_ulp"),
    [
        (1.0, 1.0, 0, 0, 0),
        (1.0 + 8 * U, 1.0, 4, 4, 4),
        (1.0 + 8 * U, 4.0, 1, 4, 4),
        (1.0 + 8 * U, 8.0, 0.5, 0, 4),
        (1.0 + 8 * U, 0.0, math.inf, 4, 4),
        (math.nan, 1.0, math.inf, math.inf, math.inf),
        (math.inf, 1.0, math.inf, math.inf, math.inf),
    ],
    ids=["equal", "4 ulp", "two bits lost", "three bits lost", "nothing may err", "NaN", "infinite"],
)
def test_distance_is_measured_in_ulps_of_scale_and_of_result(
    actual: float, reach: float, scale_ulp: float, well_ulp: float, any_ulp: float
) -> None:
    found = agreement(np.array([actual]), exact(1.0, reach=reach))
    assert (found.scale_ulp, found.well_ulp, found.any_ulp) == (scale_ulp, well_ulp, any_ulp)


def test_half_an_ulp_is_not_hidden_by_rounding_the_truth() -> None:
    with mpmath.workdps(50):
        third = Carried(np.array([mpmath.mpf(1) / 3], dtype=object), np.ones(1))
    found = agreement(np.array([1 / 3]), third)
    assert 0.3 < found.any_ulp < 0.5


def test_five_ulp_are_too_many() -> None:
    assert agreement(np.array([1 + 8 * U]), exact(1.0, reach=1.0)).passed
    assert not agreement(np.array([1 + 10 * U]), exact(1.0, reach=1.0)).passed


def test_nothing_compared_does_not_pass() -> None:
    assert not together([]).passed
    assert not agreement(np.empty(0), stored(np.empty(0))).passed


@pytest.mark.parametrize("bound", [NO_LOSS, NO_CONDITION])
def test_a_sum_and_a_transform_are_held_to_their_scale_where_something_cancels(bound: float) -> None:
    bad = np.array([1 + 32 * U])
    assert not agreement(bad, exact(1.0, reach=4.0)).passed
    assert agreement(bad, exact(1.0, reach=4.0), bound).passed
    assert agreement(np.array([1 + 8 * U]), exact(1.0, reach=1.0), bound).well == (bound == NO_LOSS)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), the exact values \(1,\)"):
        agreement(np.ones(2), exact(1.0, reach=1.0))


def test_several_cases_give_the_worst_of_each() -> None:
    parts = [agreement(np.array([1 + n * 2 * U]), exact(1.0, reach=1.0)) for n in (1, 3)]
    assert (together(parts).elements, together(parts).scale_ulp) == (2, 3)
