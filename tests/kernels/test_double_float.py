"""Double-float32: sums and products within their stated bounds, against exact fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import mlx.core as mx
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_impl.kernels import extended_fft
from mlx_impl.kernels.double_float import (
    DoubleFloat,
    add,
    factor,
    fast_two_sum,
    multiply,
    normwise_add,
    row_exponent,
    scaled,
    total,
    two_product,
    two_sum,
)

U: Final = Fraction(1, 2**24)
SIZE: Final = 64

seeds = st.integers(0, 2**32 - 1)


def numbers(seed: int, cancelling: bool = False) -> tuple[DoubleFloat, DoubleFloat]:
    """Two double-floats of many sizes; `cancelling` makes the second nearly minus the first."""
    stream = np.random.Generator(np.random.Philox(seed))
    pairs = []
    for _ in range(2):
        exponent = stream.integers(-12, 13, SIZE)
        hi = np.ldexp(stream.uniform(-1, 1, SIZE), exponent).astype(np.float32)
        lo = (hi * stream.uniform(-(2.0**-25), 2.0**-25, SIZE)).astype(np.float32)
        pairs.append(fast_two_sum(mx.array(hi), mx.array(lo)))
    if cancelling:
        part = mx.array(stream.uniform(-(2.0**-25), 2.0**-25, SIZE).astype(np.float32))
        pairs[1] = fast_two_sum(-pairs[0][0], pairs[0][0] * part)
    return pairs[0], pairs[1]


def fractions(x: DoubleFloat) -> list[Fraction]:
    hi, lo = (np.array(part, dtype=np.float64).tolist() for part in x)
    return [Fraction(a) + Fraction(b) for a, b in zip(hi, lo, strict=True)]


def worst(found: DoubleFloat, exact: list[Fraction], scale: list[Fraction]) -> Fraction:
    """Largest error over its scale, in units of u^2."""
    errors = [abs(a - b) / size for a, b, size in zip(fractions(found), exact, scale, strict=True) if size]
    return max(errors) / U**2


@settings(max_examples=40)
@given(seed=seeds)
def test_sums_and_products_keep_their_errors(seed: int) -> None:
    (a, _), (b, _) = numbers(seed)
    exact = list(zip(np.array(a).tolist(), np.array(b).tolist(), strict=True))
    assert fractions(two_sum(a, b)) == [Fraction(x) + Fraction(y) for x, y in exact]
    assert fractions(two_product(a, b)) == [Fraction(x) * Fraction(y) for x, y in exact]


@settings(max_examples=40)
@given(seed=seeds, cancelling=st.booleans())
def test_a_sum_is_within_three_units_whatever_cancels(seed: int, cancelling: bool) -> None:
    x, y = numbers(seed, cancelling)
    exact = [a + b for a, b in zip(fractions(x), fractions(y), strict=True)]
    assert worst(add(x, y), exact, [abs(e) for e in exact]) <= 3 + 13 * U


@settings(max_examples=40)
@given(seed=seeds, cancelling=st.booleans())
def test_the_shorter_sum_is_within_two_units_of_its_operands(seed: int, cancelling: bool) -> None:
    x, y = numbers(seed, cancelling)
    pairs = list(zip(fractions(x), fractions(y), strict=True))
    assert worst(normwise_add(x, y), [a + b for a, b in pairs], [abs(a) + abs(b) for a, b in pairs]) <= 2


def test_the_shorter_sum_is_no_replacement_where_operands_cancel() -> None:
    x, y = numbers(1, cancelling=True)
    exact = [a + b for a, b in zip(fractions(x), fractions(y), strict=True)]
    assert worst(normwise_add(x, y), exact, [abs(e) for e in exact]) > 1000


@settings(max_examples=40)
@given(seed=seeds)
def test_a_product_is_within_five_units(seed: int) -> None:
    x, y = numbers(seed)
    exact = [a * b for a, b in zip(fractions(x), fractions(y), strict=True)]
    assert worst(multiply(x, factor(y)), exact, [abs(e) for e in exact]) <= 5


def without_error(function: Callable[..., Any]) -> Callable[..., Any]:
    def dropped(*operands: Any) -> Any:
        value, error = function(*operands)
        return value, error * 0

    return dropped


@pytest.mark.parametrize("function", [two_sum, two_product])
def test_an_error_that_is_dropped_is_seen(function: Callable[..., Any]) -> None:
    (a, _), (b, _) = numbers(0)
    assert fractions(without_error(function)(a, b)) != fractions(function(a, b))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13])
def test_a_total_is_the_sum_of_every_term(size: int) -> None:
    values = np.random.Generator(np.random.Philox(size)).standard_normal((2, size)).astype(np.float32)
    hi = mx.array(values)
    found = total((hi, mx.zeros_like(hi)), 1, add)
    exact = [sum((Fraction(value) for value in row), Fraction(0)) for row in values.astype(np.float64).tolist()]
    assert worst(found, exact, [sum(map(abs, map(Fraction, row)), Fraction(0)) for row in values.tolist()]) <= 12


@pytest.mark.parametrize(
    ("values", "exponent"),
    [
        ([1.0, -1.5], 0),
        ([0.0, 0.0], -126),
        ([2.0**-149], -126),
        ([3.4e38, 1.0], 126),
        ([float("inf"), 3.0], 1),
        ([float("nan"), 0.5], -1),
    ],
    ids=["ordinary", "zero", "subnormal", "largest", "infinity beside a number", "nan beside a number"],
)
def test_an_exponent_is_that_of_the_largest_finite_number(values: list[float], exponent: int) -> None:
    assert row_exponent(mx.array([values])).tolist() == [[exponent]]


@pytest.mark.parametrize("exponent", [-252, -127, -1, 0, 1, 127, 252])
def test_scaling_by_a_power_of_two_is_exact(exponent: int) -> None:
    x = 1.375 * 2.0 ** (-exponent // 2)
    found = scaled(mx.array([x]), mx.array([exponent]))
    assert found.tolist() == [x * 2.0**exponent]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 12, 127, 1000])
def test_roots_of_unity_have_forty_eight_bits(n: int) -> None:
    cos, sin = (fractions((hi, lo)) for hi, lo in zip(*extended_fft._roots(n), strict=True))
    with mpmath.workdps(40):
        for k in range(n):
            angle = 2 * mpmath.pi * k / n
            for value, truth in ((cos[k], mpmath.cos(angle)), (sin[k], mpmath.sin(angle))):
                assert abs(mpmath.mpf(value.numerator) / value.denominator - truth) <= 2.0**-49


def test_roots_on_the_axes_are_exact() -> None:
    cos, sin = (fractions((hi, lo)) for hi, lo in zip(*extended_fft._roots(8), strict=True))
    assert [cos[k] for k in (0, 2, 4, 6)] == [1, 0, -1, 0]
    assert [sin[k] for k in (0, 2, 4, 6)] == [0, 1, 0, -1]
    assert cos[1] == sin[1] == -cos[3] == -sin[5]
