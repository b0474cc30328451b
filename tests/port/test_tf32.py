"""`matmul_precision=tf32` rounds the factors of matrix products, and those alone, to 11 significant bits."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_impl.ops import Ops, round_to_tf32
from parity.spec.profile import CANONICAL

Floats = npt.NDArray[np.float32]
TF32: Final = CANONICAL.replace(name="tf32", matmul_precision="tf32")
DIGITS: Final = 11
EMIN: Final = -126


def rounded(values: Floats) -> Floats:
    """Round to nearest, ties to even, by exact float64 arithmetic: every float32 over its spacing is a float64."""
    exact = values.astype(np.float64)
    _, exponent = np.frexp(np.where(np.isfinite(exact), exact, 1.0))
    spacing = np.ldexp(1.0, np.maximum(exponent, EMIN + 1) - DIGITS)
    nearest = np.where(np.isfinite(exact), np.rint(exact / spacing) * spacing, exact)
    with np.errstate(over="ignore"):
        return nearest.astype(np.float32)


def by_port(values: Floats) -> Floats:
    return np.array(round_to_tf32(mx.array(values)))


def assert_same_bits(actual: Floats, expected: Floats) -> None:
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual[~nan].view(np.uint32), expected[~nan].view(np.uint32))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_bit_pattern_is_rounded_to_nearest_even(seed: int) -> None:
    bits = np.random.Generator(np.random.Philox(seed)).integers(0, 2**32, 512, dtype=np.uint32)
    values = bits.view(np.float32)
    with np.errstate(invalid="ignore"):
        assert_same_bits(by_port(values), rounded(values))


def from_bits(*patterns: int) -> Floats:
    return np.array(patterns, dtype=np.uint32).view(np.float32)


CASES: Final = {
    "tie down to even": (0x3F801000, 0x3F800000),
    "tie up to even": (0x3F803000, 0x3F804000),
    "below a tie": (0x3F800FFF, 0x3F800000),
    "above a tie": (0x3F801001, 0x3F802000),
    "negative tie to even": (0xBF801000, 0xBF800000),
    "negative above a tie": (0xBF801001, 0xBF802000),
    "carry into the exponent": (0x3FFFF000, 0x40000000),
    "zero": (0x00000000, 0x00000000),
    "negative zero": (0x80000000, 0x80000000),
    "smallest subnormal": (0x00000001, 0x00000000),
    "subnormal tie up": (0x00003000, 0x00004000),
    "largest subnormal becomes normal": (0x007FFFFF, 0x00800000),
    "largest number overflows": (0x7F7FFFFF, 0x7F800000),
    "largest that stays": (0x7F7FEFFF, 0x7F7FE000),
    "infinity": (0x7F800000, 0x7F800000),
    "negative infinity": (0xFF800000, 0xFF800000),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_an_edge_is_rounded_as_ieee_says(before: int, after: int) -> None:
    assert_same_bits(by_port(from_bits(before)), from_bits(after))
    assert_same_bits(rounded(from_bits(before)), from_bits(after))


@pytest.mark.parametrize("pattern", [0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F801000])
def test_nan_stays_nan_whatever_its_payload(pattern: int) -> None:
    assert np.isnan(by_port(from_bits(pattern))).all()


def draw(seed: int, *shape: int) -> mx.array:
    return mx.array(np.random.Generator(np.random.Philox(seed)).standard_normal(shape).astype(np.float32))


def test_rounding_twice_changes_nothing() -> None:
    once = round_to_tf32(draw(1, 100))
    assert mx.array_equal(round_to_tf32(once), once)


def test_the_gradient_passes_through_unchanged() -> None:
    weight = draw(2, 50)
    gradient = mx.grad(lambda x: mx.sum(round_to_tf32(x) * weight))(draw(1, 50))
    assert mx.array_equal(gradient, weight)


def test_value_and_gradient_of_a_product_use_rounded_factors() -> None:
    x, y = draw(1, 4, 8), draw(2, 8, 3)
    value, gradient = mx.value_and_grad(lambda x: mx.sum(Ops(TF32).matmul(x, y)))(x)
    assert mx.array_equal(value, mx.sum(round_to_tf32(x) @ round_to_tf32(y)))
    assert mx.allclose(gradient, mx.ones((4, 3)) @ round_to_tf32(y).T, rtol=1e-6)


def test_each_matrix_product_rounds_both_factors() -> None:
    plain, tf32 = Ops(), Ops(TF32)
    x, weight, bias, blocks = draw(1, 4, 8), draw(2, 3, 8), draw(3, 3), draw(4, 2, 3, 4)
    r = round_to_tf32
    assert mx.array_equal(tf32.matmul(x, weight.T), plain.matmul(r(x), r(weight).T))
    assert mx.array_equal(tf32.linear(x, weight, bias), plain.linear(r(x), r(weight), bias))
    assert mx.array_equal(tf32.linear(x, weight, None), plain.linear(r(x), r(weight), None))
    grouped = x.reshape(4, 2, 4)
    assert mx.array_equal(tf32.blockdiag(grouped, blocks), plain.blockdiag(r(grouped), r(blocks)))
    assert not mx.array_equal(tf32.matmul(x, weight.T), plain.matmul(x, weight.T))


def test_what_is_no_matrix_product_is_not_rounded() -> None:
    plain, tf32 = Ops(), Ops(TF32)
    x, weight, bias = draw(1, 2, 9, 4), draw(2, 4, 3, 1), draw(3, 4)
    assert mx.array_equal(tf32.depthwise_conv(x, weight, bias, 2), plain.depthwise_conv(x, weight, bias, 2))
    assert mx.array_equal(tf32.layer_norm(x, bias, bias, 1e-5), plain.layer_norm(x, bias, bias, 1e-5))
    assert mx.array_equal(tf32.sin(x), plain.sin(x))


@pytest.mark.parametrize("dtype", [mx.float64, mx.bfloat16, mx.float16])
def test_other_dtypes_are_left_alone(dtype: mx.Dtype) -> None:
    with mx.stream(mx.cpu):
        x = draw(1, 4, 8).astype(dtype)
        assert mx.array_equal(Ops(TF32).matmul(x, x.T), Ops().matmul(x, x.T))
