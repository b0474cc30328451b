"""Rounding of the sums of convolutions: the convolution itself, and its gradients, in any number of dimensions.

A convolution is a sum over the taps of its kernel and the channels of a group, taps outermost:
y[b, o, p] = sum_t sum_c w[o, c, t] x[b, c, s p + d t]. Its partial sums are computed after each tap, or at some
channels within it, and bridged in between (`parity.backends.summation`). A transposed convolution is the plain one of
an input spread by the stride, with the kernel turned round; of its terms one in prod(stride) is not zero by
construction. The kernel's gradient is for each tap a matrix product over batch and positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch.nn import functional

from parity.backends.summation import CHUNKS, bridged, product_sums


@dataclass(frozen=True)
class Convolution:
    """How a kernel is moved; every tuple has a number for each spatial axis.

    Args:
        stride: Step.
        padding: Zeros on either side.
        dilation: Distance of taps.
        groups: Groups of channels that do not mix.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def taps(self, x: torch.Tensor, kernel: tuple[int, ...], out: tuple[int, ...]) -> Iterator[torch.Tensor]:
        """Yield for each tap what it meets at every output position, from a padded input: (g, c / g, b prod(out))."""
        for offsets in product(*map(range, kernel)):
            starts = [offset * step for offset, step in zip(offsets, self.dilation, strict=True)]
            met = x[
                :,
                :,
                *(
                    slice(start, start + (size - 1) * step + 1, step)
                    for start, size, step in zip(starts, out, self.stride, strict=True)
                ),
            ]
            yield self.grouped(met)

    def grouped(self, values: torch.Tensor) -> torch.Tensor:
        """(b, c, *l) to (g, c / g, b prod(l))."""
        return values.transpose(0, 1).reshape(self.groups, values.shape[1] // self.groups, -1)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input with zeros on either side."""
        return functional.pad(x, [size for size in reversed(self.padding) for _ in range(2)])


def plain_sums(x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """Return the error of a convolution in units of u, shape (b, o, *l).

    Args:
        x: Input, padded already, (b, c, *l).
        weight: Kernel (o, c / g, *k).
        how: Its padding is not looked at.
    """
    kernel, channels = tuple(weight.shape[2:]), weight.shape[1]
    out = tuple(
        (size - step * (taps - 1) - 1) // stride + 1
        for size, step, taps, stride in zip(x.shape[2:], how.dilation, kernel, how.stride, strict=True)
    )
    left = weight.reshape(how.groups, weight.shape[0] // how.groups, channels, -1)
    chunk = math.ceil(channels / math.ceil(CHUNKS / math.prod(kernel)))
    parts = [slice(first, min(first + chunk, channels)) for first in range(0, channels, chunk)]
    steps = torch.zeros(how.groups, left.shape[1], x.shape[0] * math.prod(out), dtype=x.dtype)

    def grow() -> Iterator[tuple[torch.Tensor, int]]:
        for tap, met in enumerate(how.taps(x, kernel, out)):
            if chunk > 1:
                steps.add_(torch.matmul(left[..., tap].square(), met.square()))
            for part in parts:
                yield torch.matmul(left[:, :, part, tap], met[:, part]), part.stop - part.start

    norm = bridged(grow(), steps)
    return norm.reshape(weight.shape[0], x.shape[0], *out).transpose(0, 1)


def transposed_sums(
    x: torch.Tensor, weight: torch.Tensor, how: Convolution, output_padding: tuple[int, ...]
) -> torch.Tensor:
    """Return the error of a transposed convolution in units of u, shape (b, o, *l).

    Args:
        x: Input (b, c, *l).
        weight: Kernel (c, o / g, *k).
        how: As of the transposed convolution.
        output_padding: Positions that the result is longer by.
    """
    kernel, spatial = tuple(weight.shape[2:]), tuple(x.shape[2:])
    spread = x.new_zeros(
        *x.shape[:2], *((max(size, 1) - 1) * step + 1 for size, step in zip(spatial, how.stride, strict=True))
    )
    spread[:, :, *(slice(None, None, step) for step in how.stride)] = x
    reach = [step * (taps - 1) for step, taps in zip(how.dilation, kernel, strict=True)]
    margins = [
        margin
        for size, cut, more in zip(reversed(reach), reversed(how.padding), reversed(output_padding), strict=True)
        for margin in (size - cut, size - cut + more)
    ]
    grouped = weight.reshape(how.groups, weight.shape[0] // how.groups, *weight.shape[1:]).transpose(1, 2)
    turned = grouped.reshape(-1, grouped.shape[2], *kernel).flip(tuple(range(2, weight.ndim)))
    ones = (1,) * len(kernel)
    sums = plain_sums(functional.pad(spread, margins), turned, Convolution(ones, ones, how.dilation, how.groups))
    return sums / math.sqrt(math.prod(how.stride))


def kernel_sums(x: torch.Tensor, dy: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """Return the error of the kernel's gradient in units of u, of the kernel's shape.

    Args:
        x: Input (b, c, *l); of a transposed convolution the cotangent.
        dy: Cotangent (b, o, *l); of a transposed convolution the input.
        weight: Kernel.
        how: The convolution.
    """
    left = how.grouped(dy)
    taps = how.taps(how.pad(x), tuple(weight.shape[2:]), tuple(dy.shape[2:]))
    return torch.stack([product_sums(left, met.mT) for met in taps], -1).reshape(weight.shape)
