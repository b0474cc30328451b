"""Double-float32 arithmetic: a number is the unevaluated sum of two float32, hi + lo with |lo| <= ulp(hi) / 2.

Every operation is a chain of plain float32 operations of MLX, exact by construction where the name says so, wherever
each of them rounds once and to nearest and nothing is fused or flushed to zero: `kernels.canary` proves that. About 48
bits are kept, u^2 = 2^-48. Any layout of the two arrays goes, as long as it is the same for both.

The split overflows above 2^115 and a product's error is lost beneath 2^-149: callers scale by powers of two first,
`row_exponent` and `scaled`.

Source: Dekker, Numer. Math. 18 (1971) 224; Knuth, TAOCP 2, 4.2.2; Joldes, Muller and Popescu, ACM TOMS 44 (2017) 15.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import mlx.core as mx

from mlx_impl.kernels.derivatives import with_vjp

DoubleFloat = tuple[mx.array, mx.array]
"""hi and lo."""

SPLITTER: Final = 4097.0
"""2^12 + 1: splits the 24 bits of a float32 into two halves of 12, one of them signed."""

EXPONENT_BITS: Final = 23
"""Place of the exponent in the bits of a float32."""

BIAS: Final = 127
LARGEST_EXPONENT: Final = 126
"""Exponents beyond it, either way, would need a power of two that is no normal number."""


class Factor(NamedTuple):
    """A double-float that is multiplied with often: `head` + `tail` = `hi`, each of 12 bits."""

    hi: mx.array
    lo: mx.array
    head: mx.array
    tail: mx.array


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """Return s = fl(a + b) and e with s + e = a + b exactly. Six operations.

    Source: Knuth, TAOCP 2, 4.2.2, theorem B.
    """
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def fast_two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The same for |a| >= |b|, or a = 0. Three operations."""
    s = a + b
    return s, b - (s - a)


def split(a: Any) -> tuple[Any, Any]:
    """Return head and tail of at most 12 bits each with head + tail = a exactly, |a| below 2^115.

    Source: Dekker (1971), section 5, after Veltkamp.
    """
    c = a * SPLITTER
    head = c - (c - a)
    return head, a - head


def two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """Return p = fl(a b) and e with p + e = a b exactly, |a b| above 2^-102. Seventeen operations.

    Source: Dekker (1971), section 5.
    """
    p = a * b
    return p, _product_error(p, split(a), split(b))


def _product_error(p: Any, a: tuple[Any, Any], b: tuple[Any, Any]) -> Any:
    return (((a[0] * b[0] - p) + a[0] * b[1]) + a[1] * b[0]) + a[1] * b[1]


def add(x: DoubleFloat, y: DoubleFloat) -> DoubleFloat:
    """Sum within 3 u^2 of the exact one, whatever cancels. Twenty operations.

    Source: Joldes, Muller and Popescu (2017), algorithm 6.
    """
    s, e = two_sum(x[0], y[0])
    t, f = two_sum(x[1], y[1])
    s, e = fast_two_sum(s, e + t)
    return fast_two_sum(s, e + f)


def normwise_add(x: DoubleFloat, y: DoubleFloat) -> DoubleFloat:
    """Sum within 2 u^2 (|x| + |y|): enough where an error is measured by the operands' size. Eleven operations.

    Source: Joldes, Muller and Popescu (2017), algorithm 5.
    """
    s, e = two_sum(x[0], y[0])
    return fast_two_sum(s, e + (x[1] + y[1]))


def factor(y: DoubleFloat) -> Factor:
    """Split a double-float once for many products."""
    return Factor(*y, *split(y[0]))


def multiply(x: DoubleFloat, y: Factor) -> DoubleFloat:
    """Product within 5 u^2 of the exact one. Twenty operations; x is split before it is broadcast.

    Source: Joldes, Muller and Popescu (2017), algorithm 11.
    """
    p = x[0] * y.hi
    e = _product_error(p, split(x[0]), (y.head, y.tail))
    return fast_two_sum(p, e + (x[0] * y.lo + x[1] * y.hi))


def each(change: Callable[[mx.array], mx.array], x: DoubleFloat) -> DoubleFloat:
    """Change both parts alike: for what acts on their sum by acting on either."""
    return change(x[0]), change(x[1])


def total(x: DoubleFloat, axis: int, plus: Callable[[DoubleFloat, DoubleFloat], DoubleFloat]) -> DoubleFloat:
    """Sum along `axis` by halves, with one of the two sums; the order depends on the axis's length alone."""
    hi, lo = (part.swapaxes(axis, 0) for part in x)
    while hi.shape[0] > 1:
        half = hi.shape[0] // 2
        s = plus((hi[:half], lo[:half]), (hi[half : 2 * half], lo[half : 2 * half]))
        hi, lo = (
            part if whole.shape[0] == 2 * half else mx.concatenate([part, whole[2 * half :]])
            for part, whole in zip(s, (hi, lo), strict=True)
        )
    return hi.swapaxes(0, axis).squeeze(axis), lo.swapaxes(0, axis).squeeze(axis)


def summed_to(x: DoubleFloat, shape: tuple[int, ...]) -> DoubleFloat:
    """Sum over the axes along which an array of `shape` was broadcast to that of x."""
    while x[0].ndim > len(shape):
        x = total(x, 0, normwise_add)
    for axis, size in enumerate(shape):
        if size != x[0].shape[axis]:
            hi, lo = total(x, axis, normwise_add)
            x = mx.expand_dims(hi, axis), mx.expand_dims(lo, axis)
    return x


def from_float64(values: list[float], shape: tuple[int, ...]) -> DoubleFloat:
    """Split numbers of the host into two float32 each, on the CPU, where MLX has float64."""
    with mx.stream(mx.cpu):
        wide = mx.array(values, dtype=mx.float64).reshape(shape)
        hi = wide.astype(mx.float32)
        return hi, (wide - hi.astype(mx.float64)).astype(mx.float32)


def row_exponent(x: mx.array) -> mx.array:
    """floor(log2(max |x|)) over the finite ones of the last axis, kept, as int32 within +-126; without a derivative.

    Read off the bits: exact, and the same for a row whatever stands beside it.
    """
    size = mx.abs(mx.stop_gradient(x))
    largest = mx.max(mx.where(mx.isfinite(size), size, 0), axis=-1, keepdims=True)
    exponent = (mx.view(largest, mx.int32) >> EXPONENT_BITS) - BIAS
    return mx.clip(exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)


def power_of_two(exponent: mx.array) -> mx.array:
    """2^exponent as float32, |exponent| <= 126."""
    return mx.view((exponent + BIAS) << EXPONENT_BITS, mx.float32)


def scaled(x: mx.array, exponent: mx.array) -> mx.array:
    """x 2^exponent, |exponent| <= 252, in two steps: neither overflows where the result does not."""
    half = exponent // 2
    return x * power_of_two(half) * power_of_two(exponent - half)


def _widen(x: mx.array) -> DoubleFloat:
    return x, mx.zeros_like(x)


def _round(hi: mx.array, lo: mx.array) -> mx.array:
    return hi + lo


def _widen_vjp(primals: mx.array, cotangents: DoubleFloat, outputs: Any) -> mx.array:  # noqa: ARG001
    return cotangents[0] + cotangents[1]


def _round_vjp(primals: Any, cotangents: mx.array, outputs: Any) -> DoubleFloat:  # noqa: ARG001
    return cotangents, mx.zeros_like(cotangents)


widened = with_vjp(_widen, _widen_vjp)
"""A float32 array as a double-float. The cotangent of a double-float is itself one: it stands for hi + lo."""

rounded = with_vjp(_round, _round_vjp)
"""The float32 nearest to hi + lo."""
