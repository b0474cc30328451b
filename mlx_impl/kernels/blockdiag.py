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


BLOCKDIAG_KERNELS: Final[Mapping[str, BlockdiagKernel]] = {"einsum": einsum, "batched": batched, "loop": loop}
