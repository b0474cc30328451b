"""Block-diagonal products of blocks x (..., k, p) with weight (k, q, p) -> (..., k, q), by profile name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import mlx.core as mx

BlockdiagKernel = Callable[[mx.array, mx.array], mx.array]


def einsum(x: mx.array, weight: mx.array) -> mx.array:
    """One contraction, the order of which MLX chooses."""
    return mx.einsum("...kp,kqp->...kq", x, weight)


def batched(x: mx.array, weight: mx.array) -> mx.array:
    """One batched matrix product over the blocks: (k, rows, p) @ (k, p, q)."""
    rows = x.reshape(-1, *x.shape[-2:]).swapaxes(0, 1)
    y = (rows @ weight.swapaxes(-1, -2)).swapaxes(0, 1)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def loop(x: mx.array, weight: mx.array) -> mx.array:
    """One matrix product a block."""
    return mx.stack([x[..., i, :] @ weight[i].T for i in range(weight.shape[0])], axis=-2)


POSITIONS: Final = 32
"""Positions of a group: a row of 32 float32 stays in the nearest cache while the block goes by."""

FEWEST: Final = 8
"""Rows below which the groups are not worth their transpositions."""


def fast(x: mx.array, weight: mx.array) -> mx.array:
    """The positions last, in groups: (k, q, p) @ (k, p, 32), so that the innermost loop of a BLAS runs over positions.

    The reference BLAS of MLX's CPU wheel then adds multiples of whole rows, which compilers turn into vector
    instructions; over the features it sums one product after the other. The terms of each sum keep their order.
    """
    rows = x.reshape(-1, *x.shape[-2:]).transpose(1, 2, 0)
    count = rows.shape[-1]
    if count < FEWEST:
        return batched(x, weight)
    groups = [weight @ mx.contiguous(rows[..., i : i + POSITIONS]) for i in range(0, count, POSITIONS)]
    return mx.concatenate(groups, axis=-1).transpose(2, 0, 1).reshape(*x.shape[:-1], weight.shape[1])


BLOCKDIAG_KERNELS: Final[Mapping[str, BlockdiagKernel]] = {
    "einsum": einsum,
    "batched": batched,
    "loop": loop,
    "fast": fast,
}
"""On x86-64 with the reference BLAS all four give the same bits. Whatever the library, each lies within 2 sqrt(p) u
(|X||W|) of the exact product, `matmul_max` of parity.tolerance, and so within twice that of each other."""
