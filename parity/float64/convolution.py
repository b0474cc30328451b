"""Convolutions in float64, as windows times weights: MLX sums them in float32, whatever the dtype says."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from parity.float64.spectrum import wide

Sizes = int | Sequence[int]


def _each(value: Sizes, axes: int) -> list[int]:
    """One number for every spatial axis."""
    return [value] * axes if isinstance(value, int) else [int(item) for item in value]


def _spread(x: mx.array, axis: int, step: int) -> mx.array:
    """Put step - 1 zeros between the elements of an axis."""
    if step == 1:
        return x
    length = x.shape[axis]
    spread = mx.pad(
        mx.expand_dims(x, axis + 1), [(0, 0)] * (axis + 1) + [(0, step - 1)] + [(0, 0)] * (x.ndim - axis - 1)
    )
    shape = [*x.shape[:axis], length * step, *x.shape[axis + 1 :]]
    return _cut(spread.reshape(shape), axis, 0, length * step - (step - 1))


def _cut(x: mx.array, axis: int, start: int, stop: int, step: int = 1) -> mx.array:
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


def _surrounded(x: mx.array, low: list[int], high: list[int], dilation: list[int]) -> mx.array:
    """Zeros between the elements of the spatial axes and at both ends; a negative number cuts first, as in MLX."""
    pairs = list(zip(low, high, strict=True))
    for axis, (start, end) in enumerate(pairs, start=1):
        x = _spread(_cut(x, axis, max(-start, 0), x.shape[axis] - max(-end, 0)), axis, dilation[axis - 1])
    return mx.pad(x, [(0, 0), *((max(a, 0), max(b, 0)) for a, b in pairs), (0, 0)])


def _windows(x: mx.array, taps: list[int], stride: list[int], dilation: list[int]) -> list[mx.array]:
    """For every tap, in the order of the weight's spatial axes, what it meets: (n, *positions, c)."""
    sizes = [
        (length - reach * (tap - 1) - 1) // step + 1
        for length, tap, step, reach in zip(x.shape[1:-1], taps, stride, dilation, strict=True)
    ]
    windows = []
    for offsets in itertools.product(*map(range, taps)):
        window = x
        for axis, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
            start = offset * dilation[axis]
            window = _cut(window, axis + 1, start, start + (size - 1) * stride[axis] + 1, stride[axis])
        windows.append(window)
    return windows


def conv_general(
    input: Any,  # noqa: A002
    weight: Any,
    /,
    stride: Sizes = 1,
    padding: Any = 0,
    kernel_dilation: Sizes = 1,
    input_dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
) -> mx.array:
    """`mx.conv_general`: y[n, p, o] = sum over taps t and c of x[n, p stride + t dilation - padding, c] w[o, t, c].

    Args:
        input: (n, *space, c).
        weight: (o, *taps, c / groups).
        stride: One number, or one for every spatial axis.
        padding: The same, or such for the low ends and for the high ends.
        kernel_dilation: Distance between taps.
        input_dilation: Distance between inputs, zeros between them.
        groups: Groups of channels that do not mix.
        flip: Whether the taps run backwards.
    """
    x, w = wide(input), wide(weight)
    axes = x.ndim - 2
    low, high = padding if isinstance(padding, tuple) and isinstance(padding[0], Sequence) else (padding, padding)
    if flip:
        w = w[(slice(None), *[slice(None, None, -1)] * axes)]
    x = _surrounded(x, _each(low, axes), _each(high, axes), _each(input_dilation, axes))
    taps = list(w.shape[1:-1])
    windows = _windows(x, taps, _each(stride, axes), _each(kernel_dilation, axes))
    w = w.reshape(w.shape[0], len(windows), w.shape[-1])
    if groups == x.shape[-1] == w.shape[0]:
        return functools.reduce(mx.add, [window * w[:, tap, 0] for tap, window in enumerate(windows)])
    return _grouped(mx.stack(windows, axis=-2), w, groups)


def _grouped(windows: mx.array, weight: mx.array, groups: int) -> mx.array:
    """windows (n, *positions, k, c) times weight (o, k, c / groups), group by group, as one matrix product each."""
    *outer, taps, channels = windows.shape
    inner = taps * (channels // groups)
    by_group = windows.reshape(-1, taps, groups, channels // groups).transpose(2, 0, 1, 3).reshape(groups, -1, inner)
    product = by_group @ weight.reshape(groups, -1, inner).swapaxes(-1, -2)
    return product.transpose(1, 0, 2).reshape(*outer, weight.shape[0])


def conv(
    input: Any,  # noqa: A002
    weight: Any,
    /,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> mx.array:
    """`mx.conv1d`, `mx.conv2d`, `mx.conv3d`: as `conv_general`, without dilation of the input."""
    return conv_general(input, weight, stride=stride, padding=padding, kernel_dilation=dilation, groups=groups)


def conv_transpose(
    input: Any,  # noqa: A002
    weight: Any,
    /,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    output_padding: Sizes = 0,
    groups: int = 1,
) -> mx.array:
    """`mx.conv_transpose1d`, `2d`, `3d`: the input spread by `stride`, the taps backwards over all they meet."""
    taps = weight.shape[1:-1]
    axes = len(taps)
    given = zip(taps, _each(dilation, axes), _each(padding, axes), strict=True)
    low = [reach * (tap - 1) - cut for tap, reach, cut in given]
    high = [least + more for least, more in zip(low, _each(output_padding, axes), strict=True)]
    return conv_general(
        input,
        weight,
        padding=(low, high),
        kernel_dilation=dilation,
        input_dilation=stride,
        groups=groups,
        flip=True,
    )


def convolve(a: Any, v: Any, /, mode: str = "full") -> mx.array:
    """`mx.convolve` of two vectors: y[i] = sum_j a[j] v[i - j]; 'full', 'same' (as long as a) or 'valid'.

    Raises:
        ValueError: The mode is none of the three.
    """
    a, v = wide(a), wide(v)
    if v.size > a.size:
        a, v = v, a
    taps = v.size
    pads = {"full": (taps - 1, taps - 1), "same": (taps // 2, (taps - 1) // 2), "valid": (0, 0)}
    if mode not in pads:
        raise ValueError(f"mode is {mode!r}; allowed: {', '.join(pads)}")
    low, high = pads[mode]
    return conv_general(a[None, :, None], v[None, :, None], padding=([low], [high]), flip=True).reshape(-1)
