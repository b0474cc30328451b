"""Depthwise convolution in double-float32: products exact, their sum within 2^-45, rounded once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_impl.kernels import ordered
from mlx_impl.kernels.derivatives import with_vjp
from mlx_impl.kernels.double_float import (
    DoubleFloat,
    add,
    fast_two_sum,
    normwise_add,
    row_exponent,
    scaled,
    total,
    two_product,
    two_sum,
)
from mlx_impl.precision import widen


def depthwise_conv(x: mx.array, weight: mx.array, bias: mx.array, padding: int) -> mx.array:
    """y[t] = sum_i w[i] x[t + i - padding] + bias: x (b, l, c), weight (c, taps, 1), bias (c,).

    Where a product overflows, or something is not finite, the answer is float32's.
    """
    y = _convolution(padding)(widen(x), widen(weight), widen(bias))
    return y.astype(x.dtype)


def depthwise_parts(x: mx.array, weight: mx.array, bias: mx.array, padding: int) -> DoubleFloat:
    """The same of float32 arrays, before it is rounded."""
    taps = weight.shape[1]
    by_row, by_channel = _exponent(x, (1,)), _exponent(weight[..., 0].T, (0,))
    windows = _windows(_padded(scaled(x, -by_row), padding), taps)
    factors = scaled(weight[..., 0].T, -by_channel)[:, None, None]
    hi, lo = total(two_product(windows, factors), 0, add)
    hi, lo = (scaled(part, by_row + by_channel) for part in (hi, lo))
    s, e = two_sum(hi, bias)
    return fast_two_sum(s, e + lo)


@functools.lru_cache(maxsize=16)
def _convolution(padding: int) -> Callable[[mx.array, mx.array, mx.array], mx.array]:
    def convolution(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        y = depthwise_parts(x, weight, bias, padding)[0]
        return mx.where(mx.isfinite(y), y, ordered.depthwise_conv(_padded(x, padding), weight, bias, 0))

    def vjp(primals: Any, cotangents: mx.array, outputs: mx.array) -> tuple[mx.array, ...]:  # noqa: ARG001
        """By x: a convolution with the taps in reverse; by each tap: the sum of what it was multiplied with."""
        x, weight, bias = primals
        taps = weight.shape[1]
        by_x = _convolution(taps - 1 - padding)(cotangents, weight[:, ::-1], mx.zeros_like(bias))
        return by_x, _by_taps(_padded(x, padding), cotangents, taps), _sum_of_rows(cotangents)

    return with_vjp(convolution, vjp)


def _by_taps(x: mx.array, cotangents: mx.array, taps: int) -> mx.array:
    """sum over b and t of x[b, t + i, c] g[b, t, c], as (c, taps, 1)."""
    by_x, by_g = _exponent(x, (0, 1)), _exponent(cotangents, (0, 1))
    products = two_product(_windows(scaled(x, -by_x), taps), scaled(cotangents, -by_g)[None])
    hi, _ = total(total(products, 1, normwise_add), 1, normwise_add)
    return scaled(hi, (by_x + by_g).reshape(1, -1)).T[..., None]


def _sum_of_rows(cotangents: mx.array) -> mx.array:
    hi, _ = total(total((cotangents, mx.zeros_like(cotangents)), 0, normwise_add), 0, normwise_add)
    return hi


def _windows(x: mx.array, taps: int) -> mx.array:
    """x (b, l, c) seen through every tap: (taps, b, l - taps + 1, c)."""
    length = x.shape[1] - taps + 1
    return mx.stack([x[:, place : place + length] for place in range(taps)])


def _padded(x: mx.array, padding: int) -> mx.array:
    """x (b, l, c) with zeros at both ends of l, or cut there where `padding` is negative."""
    if padding < 0:
        return x[:, -padding : x.shape[1] + padding]
    return mx.pad(x, [(0, 0), (padding, padding), (0, 0)])


def _exponent(x: mx.array, axes: tuple[int, ...]) -> mx.array:
    """The exponent of the largest |x| over `axes`, which stay with length 1."""
    exponent = row_exponent(x[..., None])[..., 0]
    return mx.max(exponent, axis=axes, keepdims=True)
