"""Every gate alone turns the verdict, and says so in its own words; faithful float32 passes."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from harness_pieces import F32, F64, Array, float32, traced
from hypothesis import given

from parity.spec.precision import RUNGS, Rung
from parity.tolerance import Allowance, Scale, propagated, rounding_of
from parity.trace import TracedTensor
from parity.verdict import Judgement, judge

TRUTH = np.array([1.0, -2.0, 3.0, 0.5])
WIDE = Allowance(1e6, 1e6)
NOTHING = Allowance(0.0, 0.0)
WIDE_SCALE = Scale(np.full(4, 1e12), np.full(4, 1e12))


def verdict(
    port: TracedTensor | None,
    truth: TracedTensor | None = None,
    reference: TracedTensor | None = None,
    allowance: Allowance | None = WIDE,
    scale: Scale | None = None,
    rung: Rung = F32,
) -> Judgement:
    truth = traced(TRUTH, "float64") if truth is None else truth
    reference = traced(truth.values, rung.dtype) if reference is None else reference
    return judge(truth, reference, port, rung, allowance, 1.0, scale)


def changed(place: int, value: float) -> Array:
    values = TRUTH.copy()
    values[place] = value
    return values


def test_the_tensor_that_every_gate_is_tried_on_passes_unchanged() -> None:
    judgement = verdict(traced(TRUTH), allowance=NOTHING, scale=Scale(np.ones(4), np.ones(4)))
    assert (judgement.passed, judgement.reason, judgement.ratio) == (True, "", 0.0)


# Gates before any number ------------------------------------------------------------------------------------------


def test_a_missing_tensor_fails() -> None:
    judgement = verdict(None)
    assert (judgement.passed, judgement.ratio) == (False, math.inf)
    assert judgement.reason == "the port has no such tensor"


def test_another_shape_fails_and_both_are_named() -> None:
    judgement = verdict(traced(TRUTH.reshape(2, 2)))
    assert (judgement.passed, judgement.ratio) == (False, math.inf)
    assert judgement.reason == "shape (2, 2), the reference has (4,)"


def test_a_shape_that_would_broadcast_fails() -> None:
    assert not verdict(traced(TRUTH[None])).passed


def test_another_dtype_fails_and_both_are_named() -> None:
    judgement = verdict(traced(TRUTH, "bfloat16"))
    assert (judgement.passed, judgement.ratio) == (False, math.inf)
    assert judgement.reason == "dtype bfloat16, the reference has float32"


def test_a_wider_dtype_fails_too() -> None:
    assert not verdict(traced(TRUTH, "float64")).passed


def test_a_tensor_without_elements_fails() -> None:
    empty = traced(np.zeros((0, 3)))
    judgement = verdict(empty, truth=empty, reference=empty)
    assert not judgement.passed
    assert judgement.reason == "nothing compared: the tensor has no elements"


# NaN and infinity -------------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("truth", "reference", "port"),
    [
        pytest.param(TRUTH, TRUTH, changed(1, NAN), id="NaN in the port alone"),
        pytest.param(TRUTH, TRUTH, changed(1, INF), id="infinity in the port alone"),
        pytest.param(TRUTH, changed(0, NAN), changed(1, NAN), id="NaN at another place"),
        pytest.param(changed(0, NAN), changed(0, NAN), changed(1, NAN), id="NaN at another place, truth as reference"),
        pytest.param(TRUTH, changed(1, NAN), changed(1, NAN), id="both NaN where the truth is finite"),
        pytest.param(TRUTH, changed(1, INF), changed(1, INF), id="both infinite where the truth is finite"),
        pytest.param(changed(1, INF), changed(1, INF), changed(1, -INF), id="the other infinity"),
        pytest.param(changed(1, INF), changed(1, INF), TRUTH, id="finite where the reference is infinite"),
        pytest.param(changed(1, NAN), changed(1, NAN), TRUTH, id="finite where the reference is NaN"),
        pytest.param(changed(1, INF), changed(1, INF), changed(1, NAN), id="NaN where the reference is infinite"),
    ],
)
def test_misplaced_special_values_fail_whatever_is_allowed(truth: Array, reference: Array, port: Array) -> None:
    judgement = verdict(traced(port), traced(truth, "float64"), traced(reference))
    assert (judgement.passed, judgement.ratio) == (False, math.inf)
    assert judgement.reason.startswith("NaN or infinity where there should be none")


def test_an_infinity_that_truth_and_reference_have_passes() -> None:
    values = changed(1, INF)
    judgement = verdict(traced(values), traced(values, "float64"))
    assert judgement.passed
    assert judgement.port is not None
    assert judgement.port.count == 3


def test_a_tensor_that_is_nan_everywhere_on_all_sides_does_not_pass() -> None:
    values = np.full(4, NAN)
    assert not verdict(traced(values), traced(values, "float64")).passed


# Errors over their allowances -------------------------------------------------------------------------------------


def test_rms_over_its_allowance_fails() -> None:
    judgement = verdict(traced(TRUTH + 1.0), allowance=Allowance(0.5, 10.0))
    assert (judgement.passed, judgement.ratio) == (False, 2.0)
    assert judgement.reason == "rms error is 2 times what is allowed"


def test_one_element_over_the_maximum_fails_while_rms_is_fine() -> None:
    judgement = verdict(traced(changed(2, 4.0)), allowance=Allowance(10.0, 0.25))
    assert (judgement.passed, judgement.ratio) == (False, 4.0)
    assert judgement.reason == "largest error is 4 times what is allowed"


def test_the_explicit_maximum_fails_alone() -> None:
    scale = Scale(np.full(4, 1e12), np.full(4, 1.0))
    judgement = verdict(traced(changed(2, 3.0 + 4 * F32.u)), scale=scale)
    assert not judgement.passed
    assert judgement.reason.startswith("explicit largest error is")


def test_the_explicit_rms_fails_alone() -> None:
    judgement = verdict(traced(TRUTH + 4 * F32.u), scale=Scale(np.full(4, 1.0), np.full(4, 1e12)))
    assert not judgement.passed
    assert judgement.reason.startswith("explicit rms error is")


def test_the_explicit_rms_over_axes_fails_for_the_one_channel_that_is_off() -> None:
    truth, port = np.ones((2, 4)), np.ones((2, 4))
    port[1] += 8 * F32.u
    scale = Scale(np.ones((2, 1)), np.full((2, 1), 1e12), axes=(-1,))
    judgement = verdict(traced(port), traced(truth, "float64"), scale=scale)
    assert not judgement.passed
    assert judgement.reason.startswith("explicit rms error is")


def test_a_wide_explicit_scale_does_not_lift_the_other_gates() -> None:
    assert not verdict(traced(TRUTH + 1.0), allowance=Allowance(0.5, 0.5), scale=WIDE_SCALE).passed


def test_the_explicit_scale_stands_alone_where_there_is_no_allowance() -> None:
    tight = Scale(np.full(4, 1.0), np.full(4, 1.0))
    assert not verdict(traced(TRUTH + 1.0), allowance=None, scale=tight).passed
    assert verdict(traced(TRUTH + 1.0), allowance=None, scale=WIDE_SCALE).passed


def test_a_tensor_without_any_allowance_does_not_pass_with_an_error() -> None:
    assert not verdict(traced(TRUTH + 1.0), allowance=None, scale=None).passed


def test_an_allowance_of_zero_fails_with_any_error() -> None:
    judgement = verdict(traced(changed(0, 1.0 + 2 * F32.u)), allowance=NOTHING)
    assert (judgement.passed, judgement.ratio) == (False, math.inf)


@pytest.mark.parametrize("rung", RUNGS.values(), ids=RUNGS)
def test_an_explicit_scale_of_zero_fails_with_any_error(rung: Rung) -> None:
    zeros, off = traced(np.zeros(4), "float64"), traced([0.0, 2.0**-10, 0.0, 0.0], rung.dtype)
    scale = Scale(np.zeros(4), np.zeros(4))
    assert not verdict(off, zeros, scale=scale, rung=rung).passed


@pytest.mark.parametrize(
    ("rung", "axes"),
    [pytest.param(rung, axes, id=f"{rung.name} {axes}") for rung in RUNGS.values() for axes in ((), (-1,))],
)
def test_an_explicit_scale_of_zero_passes_without_an_error(rung: Rung, axes: tuple[int, ...]) -> None:
    zeros = np.zeros((2, 4))
    scale = Scale(np.zeros((2, 1)), np.zeros((2, 1)), axes)
    assert verdict(traced(zeros, rung.dtype), traced(zeros, "float64"), scale=scale, rung=rung).passed


# Numbers ----------------------------------------------------------------------------------------------------------


@given(error=st.integers(-20, 3), allowed=st.integers(-20, 3))
def test_the_ratio_is_exactly_error_over_allowed(error: int, allowed: int) -> None:
    truth, port = traced(np.zeros(4), "float64"), traced(np.full(4, 2.0**error))
    judgement = verdict(port, truth, allowance=Allowance(2.0**allowed, 2.0 ** (allowed + 4)))
    assert judgement.ratio == 2.0 ** (error - allowed)
    assert judgement.passed == (error <= allowed)


def test_the_ratio_is_that_of_the_worst_gate() -> None:
    port = traced(TRUTH + 1.0)
    assert verdict(port, allowance=Allowance(4.0, 2.0)).ratio == 0.5
    assert verdict(port, allowance=Allowance(2.0, 4.0)).ratio == 0.5


def test_the_scaled_error_is_in_units_of_the_predicted_noise() -> None:
    truth = traced(TRUTH, "float64")
    assert judge(truth, traced(TRUTH), traced(TRUTH + 1.0), F32, WIDE, 0.25, None).scaled == 4.0


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 200), rung=st.sampled_from(list(RUNGS)))
def test_a_correct_rounding_passes_at_every_rung(seed: int, size: int, rung: str) -> None:
    held = RUNGS[rung]  # type: ignore[index]
    truth = np.random.default_rng(seed).standard_normal(size)
    spacing = 2.0 ** (np.floor(np.log2(np.abs(truth))) - held.digits + 1)
    rounded = np.round(truth / spacing) * spacing
    rms, largest = rounding_of(float(np.sqrt(np.mean(truth**2))), float(np.abs(truth).max()), held)
    judgement = verdict(
        traced(rounded, held.dtype),
        traced(truth, "float64"),
        traced(rounded, held.dtype),
        allowance=propagated(rms, largest, held, held),
        rung=held,
    )
    assert judgement.passed, judgement.reason


def test_a_float32_result_is_as_accurate_as_the_reference_and_says_so() -> None:
    truth = np.random.default_rng(0).standard_normal(100)
    judgement = verdict(traced(float32(truth)), traced(truth, "float64"), traced(float32(truth)))
    assert judgement.port_over_reference == 1.0
    assert judgement.port is not None
    assert judgement.port.correctly_rounded == 1.0


def test_at_f64_there_is_no_ratio_to_the_reference_which_is_the_truth() -> None:
    assert verdict(traced(TRUTH, "float64"), rung=F64).port_over_reference is None
