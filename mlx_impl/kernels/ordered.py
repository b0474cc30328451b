"""Kernels whose order of operations is written down here and nowhere else: `strict_kernels`.

Every sum runs along one axis, in an order that the length of that axis alone decides, and is made of elementwise
operations: a row has the same bits whatever stands before, behind or beside it, on every run and with every number of
threads. A library's matrix product promises nothing of the kind: it may choose its blocks by the number of rows.

Sixteen bits are computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx

from mlx_impl.kernels.derivatives import with_vjp
from mlx_impl.precision import widen

RUN: Final = 8
"""Terms of a product that are added one after the other; such runs are added by halves, which keeps the error small."""


def tree_sum(x: mx.array, axis: int, keepdims: bool = False) -> mx.array:
    """Sum along `axis` by halves: first half plus second half, a term left over going to the end."""
    dtype, x = x.dtype, widen(x).swapaxes(axis, -1)
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        s = x[..., :half] + x[..., half : 2 * half]
        x = s if x.shape[-1] == 2 * half else mx.concatenate([s, x[..., 2 * half :]], axis=-1)
    x = x.swapaxes(axis, -1).astype(dtype)
    return x if keepdims else x.squeeze(axis)


def tree_mean(x: mx.array, axis: int, keepdims: bool = False) -> mx.array:
    """Mean along `axis`, its sum by halves."""
    wide = widen(x)
    return (tree_sum(wide, axis, keepdims) / x.shape[axis]).astype(x.dtype)


def matmul(x: mx.array, y: mx.array) -> mx.array:
    """Matrix product x (..., m, p) @ y (..., p, q): p outer products, summed in runs of eight and then by halves."""
    return _product(widen(x), widen(y)).astype(mx.result_type(x, y))


def linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """x (..., p) @ weight (q, p).T + bias (q,), rounded once."""
    rows = widen(x)
    y = _product(rows[None] if x.ndim == 1 else rows, widen(weight).T)
    if bias is not None:
        y = y + widen(bias)
    return y.reshape(*x.shape[:-1], -1).astype(mx.result_type(x, weight))


def blockdiag(x: mx.array, weight: mx.array) -> mx.array:
    """Blocks x (..., k, p) times weight (k, q, p) -> (..., k, q)."""
    rows = widen(x).reshape(-1, *x.shape[-2:]).swapaxes(0, 1)
    y = _product(rows, widen(weight).swapaxes(-1, -2)).swapaxes(0, 1)
    return y.reshape(*x.shape[:-1], weight.shape[1]).astype(mx.result_type(x, weight))


def softmax(x: mx.array, axis: int, exp: Callable[[mx.array], mx.array]) -> mx.array:
    """exp(x - max) / sum(exp(x - max)) along `axis`, the sum by halves; a maximum has no order."""
    wide = widen(x)
    e = exp(wide - mx.stop_gradient(mx.max(wide, axis=axis, keepdims=True)))
    return (e / tree_sum(e, axis, keepdims=True)).astype(x.dtype)


def norm(x: mx.array) -> mx.array:
    """sqrt(sum(x^2)) over the last axis, which stays with length 1; the sum by halves."""
    return mx.sqrt(tree_sum(mx.square(widen(x)), -1, keepdims=True)).astype(x.dtype)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """LayerNorm over the last axis: the mean, then the variance of the differences, each sum by halves."""
    wide = widen(x)
    centred = wide - tree_mean(wide, -1, keepdims=True)
    variance = tree_mean(mx.square(centred), -1, keepdims=True)
    return (centred * mx.rsqrt(variance + eps) * widen(weight) + widen(bias)).astype(x.dtype)


def depthwise_conv(x: mx.array, weight: mx.array, bias: mx.array, padding: int) -> mx.array:
    """Depthwise convolution: x (b, l, c), weight (c, taps, 1), bias (c,); taps in order, the bias last."""
    wide, taps = mx.pad(widen(x), [(0, 0), (padding, padding), (0, 0)]), widen(weight)
    length = wide.shape[1] - taps.shape[1] + 1
    y = wide[:, :length] * taps[:, 0, 0]
    for place in range(1, taps.shape[1]):
        y = y + wide[:, place : place + length] * taps[:, place, 0]
    return (y + widen(bias)).astype(x.dtype)


def by_sequence(transform: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """Apply a library's transform to one sequence after the other: its kernel never sees the number of them."""
    return mx.concatenate([transform(x[place : place + 1]) for place in range(x.shape[0])])


def _sum_of_products(x: mx.array, y: mx.array) -> mx.array:
    """x (..., m, p) @ y (..., p, q), all but the last two axes broadcast."""
    y = mx.contiguous(y)
    return _terms(x, y, 0, y.shape[-2])


def _product_vjp(primals: Any, cotangents: mx.array, outputs: mx.array) -> tuple[mx.array, mx.array]:  # noqa: ARG001
    x, y = primals
    by_x, by_y = _product(cotangents, y.swapaxes(-1, -2)), _product(x.swapaxes(-1, -2), cotangents)
    return _summed_to(by_x, x.shape), _summed_to(by_y, y.shape)


_product = with_vjp(_sum_of_products, _product_vjp)


def _terms(x: mx.array, y: mx.array, first: int, end: int) -> mx.array:
    """Sum of x[..., i] y[i] for first <= i < end."""
    if end - first > RUN:
        middle = first + RUN * -(-(end - first) // (2 * RUN))
        return _terms(x, y, first, middle) + _terms(x, y, middle, end)
    s = x[..., first : first + 1] * y[..., first : first + 1, :]
    for place in range(first + 1, end):
        s = s + x[..., place : place + 1] * y[..., place : place + 1, :]
    return s


def _summed_to(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Sum over the axes along which an array of `shape` was broadcast to that of x."""
    while x.ndim > len(shape):
        x = tree_sum(x, 0)
    for axis, size in enumerate(shape):
        if size != x.shape[axis]:
            x = tree_sum(x, axis, keepdims=True)
    return x
