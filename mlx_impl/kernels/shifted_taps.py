"""Depthwise convolution as multiply-adds of shifted rows, with the bits of `mx.conv1d`.

On a CPU `mx.conv1d` walks through a depthwise convolution number by number; products and sums of whole arrays take less
time (docs/slowest.md). The products are added in the order in which `mx.conv1d` adds them, taps from first to last,
beginning with zero, which makes -0 into +0. The zeros at either end are numbers like others, as they are to
`mx.conv1d`: an infinite tap that meets one makes a NaN.

That these are the same bits, of values and of first derivatives, is tested with MLX's wheel for x86-64, which fuses no
product with a sum, and claimed of nothing else: see `has_its_bits`.
"""

from __future__ import annotations

import functools
import operator
import platform
from collections.abc import Iterable
from typing import Any, Final

import mlx.core as mx

from mlx_impl.kernels.derivatives import with_vjp

MACHINES: Final = ("x86_64", "AMD64")
LEAST: Final = 2**14
"""Numbers of x below which the single pass of `mx.conv1d` costs less than a dozen operations of MLX."""


def has_its_bits(x: mx.array, weight: mx.array, padding: int, groups: int) -> bool:
    """Whether `full_convolution` has the bits of `mx.conv1d` of x (b, l, c), weight (c, taps, c / groups).

    It has on the CPU of x86-64 in float32, of two channels or more, each by itself, with as many zeros at either end as
    there are taps but one. One channel alone MLX computes another way.
    """
    taps = weight.shape[1]
    return (
        platform.machine() in MACHINES
        and mx.default_device() == mx.cpu
        and x.dtype == weight.dtype == mx.float32
        and 1 < groups == x.shape[-1] == weight.shape[0]
        and padding == taps - 1
    )


def _full_convolution(x: mx.array, weight: mx.array) -> mx.array:
    """y[t] = sum_i w[i] x[t + i - (taps - 1)], x (b, l, c), weight (c, taps, 1), y (b, l + taps - 1, c)."""
    last = weight.shape[1] - 1
    padded, length = _padded(x, last), x.shape[1] + last
    return _total(padded[:, place : place + length] * tap for place, tap in enumerate(_rows(weight)))


def _vjp(primals: Any, cotangents: mx.array, outputs: mx.array) -> tuple[mx.array, mx.array]:  # noqa: ARG001
    """By x: the cotangents that each number reached, times the taps. By a tap: the sum of what it met times those."""
    x, weight = primals
    last, length, reached = weight.shape[1] - 1, x.shape[1], cotangents.shape[1]
    by_x = _total(cotangents[:, last - place : last - place + length] * tap for place, tap in enumerate(_rows(weight)))
    padded = _padded(x, last)
    by_tap = [mx.sum(padded[:, place : place + reached] * cotangents, axis=(0, 1)) for place in range(last + 1)]
    return by_x, mx.stack(by_tap, axis=1)[..., None]


full_convolution = with_vjp(_full_convolution, _vjp)


def _padded(x: mx.array, zeros: int) -> mx.array:
    """x (b, l, c) with zeros at both ends of l."""
    return mx.pad(x, [(0, 0), (zeros, zeros), (0, 0)])


def _rows(weight: mx.array) -> list[mx.array]:
    """The taps, first to last, each (c,): contiguous, since a strided factor takes twice as long."""
    return list(mx.contiguous(weight[..., 0].T))


def _total(products: Iterable[mx.array]) -> mx.array:
    """Sum from the first to the last, beginning with zero."""
    first, *others = products
    return functools.reduce(operator.add, others, first + 0)
