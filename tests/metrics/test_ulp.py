"""Spacing, distance and rounding agree with bit patterns, NumPy's own casts and exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_draws import FAMILIES, Draw, draws, finite_table, generated, rungs, sixteen_bit_names

from parity.metrics import ordered, round_to, ulp, ulp_distance, ulp_error
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS, Rung, RungName

NAN, INF = float("nan"), float("inf")
EVERY_RUNG = pytest.mark.parametrize("rung", RUNGS.values(), ids=lambda rung: rung.name)


def exactly_rounded(value: float, rung: Rung) -> Fraction:
    """Round to nearest even in rational arithmetic; the result may exceed the largest number."""
    exponent = max(int(np.frexp(abs(value))[1]) - 1, rung.emin) if value else rung.emin
    spacing = Fraction(2) ** (exponent - rung.digits + 1)
    return round(Fraction(value) / spacing) * spacing


def midpoints(seed: int, rung: Rung) -> Array:
    """Exact ties between neighbours of the format, and the floats next to them on either side."""
    generator = np.random.Generator(np.random.Philox(seed))
    low = 2 ** (rung.digits - 1)
    odd = 2 * generator.integers(low, 2 * low, 64) + 1
    ties = np.ldexp(odd.astype(np.float64), generator.integers(rung.emin, rung.emin + 20, 64) - rung.digits)
    return np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, 0.0), -ties])


# --- ulp ------------------------------------------------------------------------------------------------


@EVERY_RUNG
def test_ulp_at_one_is_two_u_and_doubles_exactly_at_the_next_power_of_two(rung: Rung) -> None:
    below, at, above = np.nextafter(2.0, 0.0), 2.0, np.nextafter(2.0, 3.0)
    np.testing.assert_array_equal(ulp([1.0, below, at, above], rung), np.array([1, 1, 2, 2]) * 2 * rung.u)


@EVERY_RUNG
def test_ulp_at_zero_and_below_the_normal_range_is_the_quantum(rung: Rung) -> None:
    values = [0.0, -0.0, rung.quantum, rung.tiny / 2, rung.tiny, -rung.tiny]
    np.testing.assert_array_equal(ulp(values, rung), np.full(6, rung.quantum))


@EVERY_RUNG
def test_ulp_of_what_is_not_finite_is_infinite(rung: Rung) -> None:
    np.testing.assert_array_equal(ulp([INF, -INF, NAN], rung), np.full(3, INF))


def test_ulp_has_a_fixed_definition_at_powers_of_two_where_goldberg_and_harrison_differ() -> None:
    assert ulp(1.0, RUNGS["f32"]) == np.spacing(np.float32(1.0))
    assert ulp(1.0, RUNGS["f32"]) == 2 * (1.0 - np.nextafter(np.float32(1.0), np.float32(0.0)))


@generated
@given(draws("unit", "wide", "tiny"))
def test_ulp_equals_the_defining_formula_in_frexp_and_ldexp(draw: Draw) -> None:
    values, rung = draw.reals(), draw.rung
    exponent = np.where(values == 0, rung.emin, np.frexp(values)[1] - 1)
    expected = np.ldexp(1.0, np.maximum(exponent, rung.emin) - rung.digits + 1)
    np.testing.assert_array_equal(ulp(values, rung), expected)


# --- ulp_error ------------------------------------------------------------------------------------------


def test_ulp_error_is_real_valued_and_judges_specials_as_agreement_or_infinity() -> None:
    actual = [1.0 + 2.0**-23, 1.0, NAN, INF, -INF, INF, NAN, 1.0, 1.0]
    truth = [1.0, 1.0 + 2.0**-25, NAN, INF, -INF, -INF, 1.0, INF, NAN]
    expected = [1.0, 0.25, 0.0, 0.0, 0.0, INF, INF, INF, INF]
    np.testing.assert_array_equal(ulp_error(actual, truth, RUNGS["f32"]), expected)


def test_ulp_error_of_opposite_largest_numbers_does_not_overflow() -> None:
    rung = RUNGS["f64"]
    assert ulp_error(rung.maximum, -rung.maximum, rung) == 2.0**54 - 2


@generated
@given(draws("unit", "wide", "tiny"))
def test_a_correctly_rounded_result_is_within_half_an_ulp_of_its_truth(draw: Draw) -> None:
    truth = draw.reals()
    rounded = round_to(truth, draw.rung)
    finite = np.isfinite(rounded)
    assert np.all(ulp_error(rounded[finite], truth[finite], draw.rung) <= 0.5)


@generated
@given(draws("unit", "wide", "tiny", min_size=1))
def test_the_neighbour_of_a_correctly_rounded_result_is_at_least_half_an_ulp_off(draw: Draw) -> None:
    truth = draw.reals()
    truth = truth[np.abs(truth) < draw.rung.maximum / 4]
    off = round_to(truth, draw.rung) + ulp(truth, draw.rung)
    assert np.all(ulp_error(off, truth, draw.rung) >= 0.5)


def test_ulp_error_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match=r"actual has shape \(2,\) but truth has shape \(1,\)"):
        ulp_error([1.0, 2.0], [1.0], RUNGS["f32"])


# --- ordered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sixteen_bit_names)
def test_ordered_numbers_every_sixteen_bit_value_consecutively_from_zero(name: RungName) -> None:
    table = finite_table(name)
    expected = np.arange(table.size) - table.size // 2
    np.testing.assert_array_equal(ordered(table, RUNGS[name]), expected)


@generated
@given(draws(*FAMILIES))
def test_ordered_is_the_bit_map_of_the_machine_format(draw: Draw) -> None:
    """Oracle: the integer view of numerics.md, on NumPy's own arrays."""
    values = round_to(draw.reals(), draw.rung)
    values = values[~np.isnan(values)]
    if draw.rung.name == "bf16":
        bits = values.astype(np.float32).view(np.int32).astype(np.int64) >> 16
        least = -(2**15)
    else:
        machine = values.astype(draw.rung.dtype)
        integer = np.dtype(f"int{8 * machine.itemsize}")
        bits, least = machine.view(integer).astype(np.int64), int(np.iinfo(integer).min)
    np.testing.assert_array_equal(ordered(values, draw.rung), np.where(bits < 0, least - bits, bits))


@EVERY_RUNG
def test_ordered_puts_infinity_right_after_the_largest_number(rung: Rung) -> None:
    low, largest, infinite = ordered([-INF, rung.maximum, INF], rung)
    assert infinite == largest + 1
    assert low == -infinite


def test_ordered_refuses_a_value_that_the_format_cannot_hold() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 values are not numbers of bfloat16, such as 1\.01"):
        ordered([1.0, 1.01], RUNGS["bf16"])


def test_ordered_refuses_a_scalar_beyond_the_largest_number() -> None:
    with pytest.raises(ValueError, match=r"1 of 1 values are not numbers of float16, such as 65536\.0"):
        ordered(65536.0, RUNGS["f16"])


# --- ulp_distance ---------------------------------------------------------------------------------------


@EVERY_RUNG
def test_ulp_distance_gives_the_worked_values_of_the_numerics_document(rung: Rung) -> None:
    tiny, following = rung.quantum, 1.0 + 2 * rung.u
    actual = [0.0, -0.0, tiny, 1.0, INF, NAN, NAN, 1.0, INF, -INF, INF, NAN]
    expected = [-0.0, tiny, -tiny, following, rung.maximum, NAN, 1.0, NAN, -INF, -INF, INF, INF]
    wanted = [0.0, 1.0, 2.0, 1.0, INF, 0.0, INF, INF, INF, 0.0, 0.0, INF]
    np.testing.assert_array_equal(ulp_distance(actual, expected, rung), wanted)


def test_ulp_distance_of_opposite_largest_float64_numbers_does_not_wrap() -> None:
    rung = RUNGS["f64"]
    exact = 2 * (2047 * 2**52 - 1)
    assert exact > np.iinfo(np.int64).max
    assert ulp_distance(rung.maximum, -rung.maximum, rung) == float(exact)


def test_ulp_distance_takes_scalars_without_a_warning_and_returns_an_array() -> None:
    distance = ulp_distance(-1.0, 1.0, RUNGS["f16"])
    assert isinstance(distance, np.ndarray)
    assert distance.shape == ()
    assert distance == 2 * 0x3C00


@generated
@given(draws(*FAMILIES))
def test_ulp_distance_is_symmetric_and_zero_exactly_where_values_are_equal(draw: Draw) -> None:
    first, second = (round_to(draw.reals(stream), draw.rung) for stream in (0, 1))
    distance = ulp_distance(first, second, draw.rung)
    np.testing.assert_array_equal(distance, ulp_distance(second, first, draw.rung))
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    np.testing.assert_array_equal(distance == 0, same)


@generated
@given(draws(*FAMILIES).filter(lambda draw: draw.rung.name != "f64"))
def test_ulp_distance_obeys_the_triangle_inequality(draw: Draw) -> None:
    """float64 is left out: there the exact integer is rounded on return."""
    first, second, third = (round_to(draw.reals(stream), draw.rung) for stream in (0, 1, 2))
    direct = ulp_distance(first, third, draw.rung)
    assert np.all(direct <= ulp_distance(first, second, draw.rung) + ulp_distance(second, third, draw.rung))


@generated
@given(draws("unit", "wide", "tiny", min_size=1), st.data())
def test_one_element_that_is_off_by_one_step_is_the_only_one_seen(draw: Draw, data: st.DataObject) -> None:
    expected = np.clip(round_to(draw.reals(), draw.rung), -draw.rung.maximum / 2, draw.rung.maximum / 2)
    where = data.draw(st.integers(0, draw.size - 1), label="where")
    actual = expected.copy()
    actual[where] += ulp(expected[where], draw.rung) * (1.0 if expected[where] >= 0 else -1.0)
    wanted = np.zeros(draw.size)
    wanted[where] = 1.0
    np.testing.assert_array_equal(ulp_distance(actual, expected, draw.rung), wanted)


# --- round_to -------------------------------------------------------------------------------------------


@generated
@given(draws("unit", "wide", "tiny"))
def test_round_to_is_nearest_even_in_rational_arithmetic(draw: Draw) -> None:
    for value, rounded in zip(draw.reals(), round_to(draw.reals(), draw.rung), strict=True):
        exact = exactly_rounded(float(value), draw.rung)
        assert (Fraction(rounded) if np.isfinite(rounded) else None) == (
            exact if abs(exact) <= draw.rung.maximum else None
        )


@generated
@given(rungs.filter(lambda rung: rung.name != "f64"), st.integers(0, 2**32 - 1))
def test_round_to_takes_exact_ties_to_even_and_the_next_float_beyond_to_its_own_side(rung: Rung, seed: int) -> None:
    values = midpoints(seed, rung)
    expected = [float(exactly_rounded(float(value), rung)) for value in values]
    np.testing.assert_array_equal(round_to(values, rung), expected)


@pytest.mark.parametrize("name", sixteen_bit_names)
def test_round_to_picks_the_nearest_entry_of_the_table_of_all_numbers(name: RungName) -> None:
    table, rung = finite_table(name), RUNGS[name]
    draw = Draw(rung, "wide", 4000, 7)
    values = np.concatenate([draw.reals(), Draw(rung, "tiny", 4000, 8).reals()])
    values = values[np.abs(values) < rung.maximum]
    above = np.searchsorted(table, values)
    nearest = np.minimum(np.abs(table[above] - values), np.abs(values - table[above - 1]))
    rounded = round_to(values, rung)
    assert np.isin(rounded, table).all()
    np.testing.assert_array_equal(np.abs(rounded - values), nearest)


@generated
@given(draws(*FAMILIES).filter(lambda draw: draw.rung.name in ("f32", "f16")))
def test_round_to_equals_the_cast_of_numpy_down_to_the_sign_of_zero(draw: Draw) -> None:
    values = np.concatenate([draw.reals(), midpoints(draw.seed, draw.rung)])
    with np.errstate(over="ignore", under="ignore"):
        cast = values.astype(draw.rung.dtype).astype(np.float64)
    rounded = round_to(values, draw.rung)
    np.testing.assert_array_equal(rounded, cast)
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(cast))


def test_round_to_rounds_once_where_a_cast_through_float32_rounds_twice() -> None:
    """Just above the tie between 1 and 1 + 2**-7; float32 rounds onto the tie, which then goes to even, 1."""
    value = 1.0 + 2.0**-8 + 2.0**-40
    twice = float(np.float64(value).astype(np.float32).astype(ml_dtypes.bfloat16))
    assert twice == 1.0
    assert round_to(value, RUNGS["bf16"]) == 1.0 + 2.0**-7


@generated
@given(draws(*FAMILIES))
def test_round_to_is_idempotent(draw: Draw) -> None:
    once = round_to(draw.reals(), draw.rung)
    twice = round_to(once, draw.rung)
    np.testing.assert_array_equal(twice, once)
    np.testing.assert_array_equal(np.signbit(twice), np.signbit(once))


@generated
@given(draws(*FAMILIES))
def test_round_to_leaves_every_float64_as_it_is_on_the_f64_rung(draw: Draw) -> None:
    values = draw.reals()
    np.testing.assert_array_equal(round_to(values, RUNGS["f64"]), values)


@EVERY_RUNG
def test_round_to_overflows_half_an_ulp_above_the_largest_number_and_keeps_specials(rung: Rung) -> None:
    half = float(ulp(rung.maximum, rung)) / 2
    beyond = rung.maximum + half
    values = [rung.maximum, np.nextafter(beyond, 0.0), beyond, -beyond, INF, -INF, NAN]
    expected = [rung.maximum, rung.maximum, INF, -INF, INF, -INF, NAN]
    np.testing.assert_array_equal(round_to(values, rung), expected)


@pytest.mark.parametrize("name", ["f32", "bf16", "f16"])
def test_round_to_underflows_gradually_and_keeps_the_sign_of_zero(name: RungName) -> None:
    """The f64 rung is left out: float64 cannot carry a value below its own quantum."""
    rung = RUNGS[name]
    quantum = rung.quantum
    rounded = round_to([quantum / 2, 0.75 * quantum, 1.5 * quantum, -quantum / 2, -0.0], rung)
    np.testing.assert_array_equal(rounded, [0.0, quantum, 2 * quantum, -0.0, -0.0])
    np.testing.assert_array_equal(np.signbit(rounded), [False, False, False, True, True])
