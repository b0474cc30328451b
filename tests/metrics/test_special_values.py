"""Special values that are planted in the wrong place are counted in their class and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_draws import FAMILIES, Draw, draws, generated

from parity.metrics import SpecialValues, compare_special, round_to
from parity.spec.precision import RUNGS, Rung

NAN, INF = float("nan"), float("inf")
F32 = RUNGS["f32"]
SUB = F32.tiny / 2

PLANTED = {
    "NaN for a number": (NAN, 1.0, SpecialValues(nan=1, nan_index=(0, 1))),
    "a number for NaN": (1.0, NAN, SpecialValues(nan=1, nan_index=(0, 1))),
    "NaN for infinity": (NAN, INF, SpecialValues(nan=1, inf=1, nan_index=(0, 1), inf_index=(0, 1))),
    "infinity for a number": (INF, 1.0, SpecialValues(inf=1, inf_index=(0, 1))),
    "infinity of the other sign": (-INF, INF, SpecialValues(inf=1, inf_index=(0, 1))),
    "a number for minus infinity": (1.0, -INF, SpecialValues(inf=1, inf_index=(0, 1))),
    "zero for a number": (0.0, 1.0, SpecialValues(zero=1)),
    "minus zero for zero": (-0.0, 0.0, SpecialValues(negative_zero=1)),
    "zero for minus zero": (0.0, -0.0, SpecialValues(negative_zero=1)),
    "minus zero for a number": (-0.0, 1.0, SpecialValues(zero=1, negative_zero=1)),
    "zero for a subnormal": (0.0, SUB, SpecialValues(zero=1, subnormal=1)),
    "a normal number for a subnormal": (F32.tiny, -SUB, SpecialValues(subnormal=1)),
}

HARMLESS = {
    "NaN of another sign": (np.copysign(NAN, -1.0), NAN),
    "another number": (2.0, 1.0),
    "a negative number": (-1.0, 1.0),
    "another subnormal": (-SUB, SUB),
    "minus infinity twice": (-INF, -INF),
    "minus zero twice": (-0.0, -0.0),
}


@pytest.mark.parametrize(("actual", "expected", "wanted"), PLANTED.values(), ids=PLANTED)
def test_one_planted_mismatch_is_counted_in_its_class_only(
    actual: float, expected: float, wanted: SpecialValues
) -> None:
    assert compare_special([[5.0, actual, 5.0]], [[5.0, expected, 5.0]], F32) == wanted


@pytest.mark.parametrize(("actual", "expected"), HARMLESS.values(), ids=HARMLESS)
def test_members_of_the_same_class_do_not_mismatch(actual: float, expected: float) -> None:
    assert compare_special([actual], [expected], F32) == SpecialValues()


@pytest.mark.parametrize("mismatch", [SpecialValues(nan=1), SpecialValues(inf=1)], ids=["nan", "inf"])
def test_a_misplaced_nan_or_infinity_is_fatal(mismatch: SpecialValues) -> None:
    assert mismatch.fatal


def test_misplaced_zeros_and_subnormals_are_reported_and_not_fatal() -> None:
    assert not SpecialValues(zero=1, negative_zero=1, subnormal=1).fatal


@generated
@given(draws("special", min_size=2), st.data())
def test_a_nan_that_moves_to_another_place_is_seen_twice_at_the_first_of_both(draw: Draw, data: st.DataObject) -> None:
    places = st.lists(st.integers(0, draw.size - 1), min_size=2, max_size=2, unique=True)
    wrong, right = data.draw(places, label="wrong and right place")
    expected = np.nan_to_num(round_to(draw.reals(), draw.rung), nan=1.0)
    actual = expected.copy()
    actual[wrong], expected[right] = NAN, NAN
    seen = compare_special(actual, expected, draw.rung)
    assert seen.fatal
    assert (seen.nan, seen.nan_index) == (2, (min(wrong, right),))


@generated
@given(draws(*FAMILIES, min_size=1))
def test_a_tensor_never_mismatches_itself(draw: Draw) -> None:
    values = round_to(draw.reals(), draw.rung)
    assert compare_special(values, values.copy(), draw.rung) == SpecialValues()


@pytest.mark.parametrize("rung", RUNGS.values(), ids=lambda rung: rung.name)
def test_subnormal_means_below_the_smallest_normal_number_of_the_rung(rung: Rung) -> None:
    normal, subnormal = rung.tiny, rung.tiny - rung.quantum
    assert compare_special([normal], [1.0], rung).subnormal == 0
    assert compare_special([subnormal], [1.0], rung).subnormal == 1


def test_a_scalar_mismatch_has_the_empty_index() -> None:
    assert compare_special(NAN, 1.0, F32).nan_index == ()


def test_empty_tensors_have_no_mismatch() -> None:
    assert compare_special(np.empty((0, 3)), np.empty((0, 3)), F32) == SpecialValues()


def test_the_index_counts_every_axis() -> None:
    expected = np.zeros((2, 3, 4))
    actual = expected.copy()
    actual[1, 2, 3] = actual[1, 0, 2] = INF
    assert compare_special(actual, expected, F32).inf_index == (1, 0, 2)


def test_different_shapes_raise_and_both_are_named() -> None:
    with pytest.raises(ValueError, match=r"actual has shape \(1, 2\) but expected has shape \(2,\)"):
        compare_special([[1.0, 2.0]], [1.0, 2.0], F32)
