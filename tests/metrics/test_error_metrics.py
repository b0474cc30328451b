"""`measure` agrees with a slow oracle, survives the ends of the range and sees every planted fault."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_draws import FAMILIES, Draw, draws, generated

import parity.metrics
import parity.metrics.error as error_module
from parity.metrics import (
    ErrorMetrics,
    error_ratio,
    measure,
    quantisation_error,
    round_to,
    ulp,
    ulp_error,
)
from parity.metrics.ulp import ULP_EDGES
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS, Rung

NAN, INF = float("nan"), float("inf")
F32, F64 = RUNGS["f32"], RUNGS["f64"]
SMALL_MANTISSA_STEP = 2.0**-18


def perturbed(truth: Array, rung: Rung, seed: int) -> Array:
    """A computed tensor of the format with errors of a few ulps and some elements exactly rounded."""
    generator = np.random.Generator(np.random.Philox(seed))
    steps = generator.integers(-3, 4, truth.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return round_to(truth + steps * ulp(truth, rung), rung)


def oracle(actual: Array, truth: Array, rung: Rung) -> ErrorMetrics:
    """The definitions, one element at a time in rational and 50-digit arithmetic."""
    pairs = [
        (index, Fraction(float(actual[index])), Fraction(float(truth[index])))
        for index in np.ndindex(actual.shape)
        if math.isfinite(actual[index]) and math.isfinite(truth[index])
    ]
    if not pairs:
        return ErrorMetrics()
    n = len(pairs)
    errors = [computed - exact for _, computed, exact in pairs]
    largest = max(abs(error) for error in errors)
    squares = total(e * e for e in errors)
    truth_squares = total(exact * exact for _, _, exact in pairs)
    mean = total(errors) / n
    variance = total((e - mean) * (e - mean) for e in errors) / (n - 1) if n > 1 else Fraction(0)
    ulps = sorted(
        abs(e) / Fraction(float(ulp(float(exact), rung))) for e, (_, _, exact) in zip(errors, pairs, strict=True)
    )
    correct = sum(float(computed) == round_to(float(exact), rung) for _, computed, exact in pairs)
    truth_rms = root(truth_squares / n)
    return ErrorMetrics(
        count=n,
        max_abs=float(largest),
        max_abs_index=next(index for (index, _, _), e in zip(pairs, errors, strict=True) if abs(e) == largest),
        rms=float(root(squares / n)),
        truth_rms=float(truth_rms),
        truth_max=float(max(abs(exact) for _, _, exact in pairs)),
        rel_l2=quotient(root(squares), root(truth_squares)),
        ulp_p50=float(ulps[math.ceil(Fraction(50, 100) * n) - 1]),
        ulp_p99=float(ulps[math.ceil(Fraction(99, 100) * n) - 1]),
        ulp_max=float(ulps[-1]),
        bias=quotient(real(mean), truth_rms * rung.u),
        bias_z=float(real(mean) / mpmath.sqrt(real(variance / n))) if variance else 0.0,
        correctly_rounded=correct / n,
        ulp_counts=octaves(ulps),
    )


def octaves(ulps: list[Fraction]) -> tuple[int, ...]:
    counts = [0] * (len(ULP_EDGES) + 1)
    for error in ulps:
        counts[sum(error >= edge for edge in ULP_EDGES)] += 1
    return tuple(counts)


def total(terms: Iterable[Fraction]) -> Fraction:
    return sum(terms, Fraction(0))


def real(value: Fraction) -> mpmath.mpf:
    with mpmath.workdps(50):
        return mpmath.mpf(value.numerator) / value.denominator


def root(value: Fraction) -> mpmath.mpf:
    with mpmath.workdps(50):
        return mpmath.sqrt(real(value))


def quotient(above: mpmath.mpf, below: mpmath.mpf) -> float:
    if above == 0:
        return 0.0
    return float(above / below) if below else math.copysign(INF, above)


def assert_same(actual: ErrorMetrics, expected: ErrorMetrics) -> None:
    """Counts and indices equal, floats to 1e-12; a mean may cancel, which leaves an absolute error."""
    for field in dataclasses.fields(ErrorMetrics):
        got, wanted = getattr(actual, field.name), getattr(expected, field.name)
        if field.name in ("bias", "bias_z"):
            assert got == pytest.approx(wanted, rel=1e-12, abs=1e-12), field.name
        elif isinstance(wanted, float):
            assert got == pytest.approx(wanted, rel=1e-12, abs=0.0), field.name
        else:
            assert got == wanted, field.name


# --- measure against definitions ------------------------------------------------------------------------


@generated
@given(draws("unit", "wide", "special", max_size=40))
def test_measure_agrees_with_the_slow_oracle(draw: Draw) -> None:
    truth = draw.reals()
    actual = perturbed(truth, draw.rung, draw.seed)
    assert_same(measure(actual, truth, draw.rung), oracle(actual, truth, draw.rung))


def test_measure_gives_the_values_worked_by_hand() -> None:
    """T = (3, -4), actual = (3 + 2u3, -4): one ulp at 3 is 2**-22 in float32."""
    step = 2.0**-22
    metrics = measure([3.0 + step, -4.0], [3.0, -4.0], F32)
    expected = ErrorMetrics(
        count=2,
        max_abs=step,
        max_abs_index=(0,),
        rms=step / math.sqrt(2),
        truth_rms=5 / math.sqrt(2),
        truth_max=4.0,
        rel_l2=step / 5,
        ulp_p50=0.0,
        ulp_p99=1.0,
        ulp_max=1.0,
        bias=(step / 2) / (5 / math.sqrt(2) * F32.u),
        bias_z=1.0,
        correctly_rounded=0.5,
        ulp_counts=(1, *[0] * 4, 1, *[0] * 12),
    )
    assert_same(metrics, expected)


@generated
@given(draws(*FAMILIES))
def test_no_statistic_is_ever_nan_or_negative_where_it_is_a_magnitude(draw: Draw) -> None:
    actual, truth = round_to(draw.reals(0), draw.rung), draw.reals(1)
    metrics = dataclasses.asdict(measure(actual, truth, draw.rung))
    del metrics["max_abs_index"]
    assert sum(metrics.pop("ulp_counts")) == metrics["count"]
    assert not any(math.isnan(value) for value in metrics.values())
    assert all(value >= 0 for name, value in metrics.items() if not name.startswith("bias"))


@generated
@given(draws("unit", "wide", min_size=1))
def test_a_correctly_rounded_tensor_has_a_share_of_one_and_at_most_half_an_ulp(draw: Draw) -> None:
    truth = np.clip(draw.reals(), -draw.rung.maximum, draw.rung.maximum)
    metrics = measure(round_to(truth, draw.rung), truth, draw.rung)
    assert metrics.correctly_rounded == 1.0
    assert metrics.ulp_max <= 0.5


@generated
@given(draws("unit", min_size=1), st.integers(-8, 8))
def test_scaling_both_tensors_by_a_power_of_two_changes_no_relative_statistic(draw: Draw, power: int) -> None:
    signs = np.sign(draw.reals())
    truth = signs * np.clip(np.abs(draw.reals()), 0.5, 2.0)
    actual = perturbed(truth, draw.rung, draw.seed)
    scale = 2.0 ** min(power, 4) if draw.rung.name == "f16" else 2.0**power
    plain = measure(actual, truth, draw.rung)
    scaled = measure(actual * scale, truth * scale, draw.rung)
    absolute = ("max_abs", "rms", "truth_rms", "truth_max")
    expected = dataclasses.replace(plain, **{name: getattr(plain, name) * scale for name in absolute})
    assert scaled == expected


# --- planted faults -------------------------------------------------------------------------------------


@generated
@given(draws("unit", "wide", min_size=1), st.data())
def test_one_element_off_by_one_ulp_is_found_at_its_place(draw: Draw, data: st.DataObject) -> None:
    largest = draw.rung.maximum / 2
    truth = np.clip(round_to(draw.reals(), draw.rung), -largest, largest)
    where = data.draw(st.integers(0, draw.size - 1), label="where")
    actual = truth.copy()
    actual[where] += ulp(truth[where], draw.rung) * (1.0 if truth[where] >= 0 else -1.0)
    metrics = measure(actual, truth, draw.rung)
    assert metrics.max_abs_index == (where,)
    assert metrics.max_abs == ulp(truth[where], draw.rung)
    assert metrics.ulp_max == 1.0
    assert metrics.correctly_rounded == (draw.size - 1) / draw.size
    assert metrics.bias_z != 0.0 or draw.size == 1


def test_the_index_points_into_the_whole_tensor_although_elements_before_it_are_not_finite() -> None:
    truth = np.ones((2, 3))
    actual = truth.copy()
    actual[0, 0], actual[0, 1], actual[1, 2] = NAN, INF, 1.5
    metrics = measure(actual, truth, F32)
    assert (metrics.count, metrics.max_abs_index, metrics.max_abs) == (4, (1, 2), 0.5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_tie_for_the_largest_error_goes_to_the_first_whatever_its_sign(sign: float) -> None:
    assert measure([0.0, sign, -sign], [0.0, 0.0, 0.0], F32).max_abs_index == (1,)


def test_truncation_instead_of_rounding_shows_as_bias() -> None:
    truth = np.abs(Draw(F32, "unit", 4096, 3).reals()) + 1.0
    truncated = np.floor(truth / ulp(truth, F32)) * ulp(truth, F32)
    assert measure(truncated, truth, F32).bias_z < -50
    assert measure(truncated, truth, F32).bias < -0.2
    assert abs(measure(round_to(truth, F32), truth, F32).bias_z) < 5


def test_p99_ignores_one_outlier_in_a_hundred_and_sees_two() -> None:
    truth = np.ones(100)
    actual = truth.copy()
    actual[:1] += SMALL_MANTISSA_STEP
    assert measure(actual, truth, F32).ulp_p99 == 0.0
    actual[:2] = actual[0]
    assert measure(actual, truth, F32).ulp_p99 == 32.0


# --- ends of the range ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e300, 1e-300, 5e-324])
def test_squares_that_leave_the_range_of_float64_do_not_spoil_the_norms(size: float) -> None:
    metrics = measure([3 * size, 0.0, 4 * size, 0.0], [0.0, 0.0, 0.0, 5 * size], F64)
    assert metrics.max_abs == 5 * size
    assert metrics.rel_l2 == pytest.approx(math.sqrt(2), rel=1e-15)
    assert metrics.truth_rms == pytest.approx(2.5 * size, rel=1e-15, abs=5e-324)


def test_a_single_smallest_error_among_many_still_has_a_relative_norm() -> None:
    truth = np.full(10_000, 5e-324)
    actual = truth.copy()
    actual[7] = 0.0
    assert measure(actual, truth, F64).rel_l2 == pytest.approx(0.01, rel=1e-15)


def test_an_error_beyond_float64_saturates_and_its_statistics_stay_numbers() -> None:
    largest = F64.maximum
    metrics = measure([largest, -largest], [-largest, largest], F64)
    assert metrics.max_abs == largest
    assert metrics.rms == pytest.approx(largest, rel=1e-15)
    assert metrics.ulp_max == 2.0**54 - 2
    assert metrics.bias == 0.0


def test_only_the_truth_being_zero_makes_the_relative_statistics_infinite() -> None:
    metrics = measure([1.0, 1.0], [0.0, 0.0], F32)
    assert (metrics.rel_l2, metrics.bias, metrics.bias_z) == (INF, INF, 0.0)
    assert measure([-1.0], [0.0], F32).bias == -INF


def test_zero_against_zero_has_no_error_and_minus_zero_counts_as_zero() -> None:
    metrics = measure([0.0, -0.0], [-0.0, 0.0], F32)
    exact = (2, *[0] * len(ULP_EDGES))
    assert metrics == ErrorMetrics(count=2, max_abs_index=(0,), correctly_rounded=1.0, ulp_counts=exact)


@pytest.mark.parametrize("values", [np.empty(0), np.empty((0, 3)), [NAN, NAN], [INF]], ids=str)
def test_nothing_to_compare_gives_count_zero_and_only_zeros(values: Array) -> None:
    assert measure(values, values, F32) == ErrorMetrics()
    assert ErrorMetrics().count == 0


def test_a_scalar_is_one_element_at_the_empty_index_without_spread() -> None:
    metrics = measure(1.5, 1.0, F32)
    assert (metrics.count, metrics.max_abs, metrics.max_abs_index, metrics.bias_z) == (1, 0.5, (), 0.0)


def test_a_constant_error_has_no_spread_and_hence_no_z_although_its_mean_rounds() -> None:
    assert measure(np.full(49, 0.1), np.zeros(49), F64).bias_z == 0.0


def test_different_shapes_raise_and_both_are_named() -> None:
    with pytest.raises(ValueError, match=r"actual has shape \(3,\) but truth has shape \(3, 1\)"):
        measure(np.zeros(3), np.zeros((3, 1)), F32)


def test_a_mean_that_outweighs_the_spread_leaves_z_its_digits() -> None:
    """e = 1 or 1 + 2**-40: of sum(e**2) - n*mean**2 next to nothing would be left."""
    truth = np.ones(64)
    actual = 2.0 + 2.0**-40 * (np.arange(64) % 2)
    assert measure(actual, truth, F64).bias_z == pytest.approx(oracle(actual, truth, F64).bias_z, rel=1e-12)


def test_a_spread_that_is_left_over_from_squares_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def subtracted(count: int, mean: float, squares: float, about: object) -> float:
        return mean / math.sqrt(abs(squares - count * mean * mean) / (count - 1) / count + 1e-300)

    monkeypatch.setattr(error_module, "z_score", subtracted)
    truth, actual = np.ones(64), 2.0 + 2.0**-40 * (np.arange(64) % 2)
    assert measure(actual, truth, F64).bias_z != pytest.approx(oracle(actual, truth, F64).bias_z, rel=1e-12)


# --- ratio ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "reference", "quantisation", "ratio"),
    [
        pytest.param(4.0, 2.0, 1.0, 2.0, id="both above the floor"),
        pytest.param(1e-9, 1e-3, 1.0, 1.0, id="both below the floor"),
        pytest.param(4.0, 1e-9, 1.0, 4.0, id="a correctly rounded reference counts as the floor"),
        pytest.param(1e-9, 4.0, 1.0, 0.25, id="a correctly rounded port counts as the floor"),
        pytest.param(0.0, 0.0, 0.0, 1.0, id="no error at all"),
        pytest.param(1.0, 0.0, 0.0, INF, id="only the port errs"),
        pytest.param(INF, INF, 0.0, INF, id="an infinite port error fails beside an infinite reference"),
        pytest.param(1.0, INF, 0.0, 0.0, id="only the reference is infinite"),
    ],
)
def test_error_ratio_is_floored_by_quantisation(
    port: float, reference: float, quantisation: float, ratio: float
) -> None:
    assert error_ratio(port, reference, quantisation) == ratio


@pytest.mark.parametrize("name", ["port", "reference", "quantisation"])
@pytest.mark.parametrize("bad", [NAN, -1.0])
def test_error_ratio_refuses_what_cannot_be_a_norm(name: str, bad: float) -> None:
    arguments = {"port": 1.0, "reference": 1.0, "quantisation": 1.0, name: bad}
    with pytest.raises(ValueError, match=f"^{name} error is {bad}"):
        error_ratio(**arguments)


@generated
@given(draws("unit", "wide", "special"))
def test_quantisation_error_is_the_l2_error_of_the_rounded_truth(draw: Draw) -> None:
    truth = draw.reals()
    rounded = measure(round_to(truth, draw.rung), truth, draw.rung)
    assert quantisation_error(truth, draw.rung) == rounded.l2
    assert error_ratio(rounded.l2, 0.0, quantisation_error(truth, draw.rung)) == 1.0


def test_quantisation_error_is_positive_for_values_between_numbers_and_zero_for_none() -> None:
    assert quantisation_error([1.0, 1.0 + 2.0**-24], F32) == pytest.approx(2.0**-24, rel=1e-15)
    assert quantisation_error([], F32) == 0.0
    assert quantisation_error([NAN, 1e300], F32) == 0.0


def test_ulp_statistics_are_order_statistics_of_ulp_error() -> None:
    truth = Draw(F32, "unit", 501, 5).reals()
    actual = perturbed(truth, F32, 6)
    errors = np.sort(ulp_error(actual, truth, F32))
    metrics = measure(actual, truth, F32)
    assert (metrics.ulp_p50, metrics.ulp_p99, metrics.ulp_max) == (errors[250], errors[495], errors[500])


def test_every_public_name_is_listed_in_order_and_exists() -> None:
    # pytest rewrites the modules of a distribution that has a plugin, and leaves names with @ in them.
    named = [name for name in vars(parity.metrics) if name.isidentifier()]
    public = [name for name in named if not name.startswith("_") and name != "annotations"]
    modules = {"arrays", "classes", "engine", "error", "exact", "large", "special", "ulp"}
    names = {name for name in public if name not in modules} | {"ulp"}
    assert parity.metrics.__all__ == sorted(names)
    assert callable(parity.metrics.ulp)
