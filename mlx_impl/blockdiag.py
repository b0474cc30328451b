"""Block-diagonal linear layer and the Monarch product of two block-diagonal factors."""

from __future__ import annotations

import math

import mlx.core as mx
from einops import rearrange
from mlx import nn

from mlx_impl.ops import Ops


def blockdiag_multiply(x: mx.array, weight: mx.array, ops: Ops) -> mx.array:
    """Multiply by a block-diagonal matrix: y[..., i, :] = x[..., i, :] @ weight[i].T, blocks concatenated.

    Args:
        x: (..., k*p).
        weight: (k, q, p).
        ops: Primitives.

    Returns:
        (..., k*q).

    Raises:
        ValueError: The last axis of x is not k*p.

    Source: bert/src/mm/blockdiag_multiply.py, `blockdiag_multiply_reference`.
    """
    k, _, p = weight.shape
    if x.shape[-1] != k * p:
        raise ValueError(f"x has {x.shape[-1]} features; weight {tuple(weight.shape)} needs k*p = {k * p}")
    blocks = rearrange(x, "... (k p) -> ... k p", k=k)
    return rearrange(ops.blockdiag(blocks, weight), "... k q -> ... (k q)")


class BlockdiagLinear(nn.Module):
    """Linear layer whose matrix is block-diagonal: `nblocks` blocks of ceil(out/k) x ceil(in/k).

    x (..., in_features) is zero-padded on the right to k*p, regrouped `(g c) -> (c g)` with g = k when `shuffle`,
    multiplied block by block, cut to out_features; then `bias` (out_features,) is added.

    Source: bert/src/mm/structured_linear.py and blockdiag_linear.py.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        nblocks: int = 4,
        bias: bool = True,
        shuffle: bool = False,
        ops: Ops | None = None,
    ) -> None:
        super().__init__()
        self.ops = ops or Ops()
        self.in_features, self.out_features, self.nblocks, self.shuffle = (
            in_features,
            out_features,
            nblocks,
            shuffle,
        )
        p, q = math.ceil(in_features / nblocks), math.ceil(out_features / nblocks)
        self.weight = _initial_weight(nblocks, q, p)
        bound = 1 / math.sqrt(out_features)
        self.bias = mx.random.uniform(-bound, bound, (out_features,)) if bias else None

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (..., in_features) to (..., out_features).

        Raises:
            ValueError: The last axis of x is not in_features.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} features; this layer takes {self.in_features}")
        k, _, p = self.weight.shape
        x = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, k * p - self.in_features)])
        if self.shuffle:
            x = rearrange(x, "... (g c) -> ... (c g)", g=k)
        y = blockdiag_multiply(x, self.weight, self.ops)[..., : self.out_features]
        return y if self.bias is None else y + self.bias


def _initial_weight(k: int, q: int, p: int) -> mx.array:
    """Kaiming-uniform blocks (k, q, p), scaled so that the variance equals a dense layer's.

    The bound is that of a dense (k*q, k*p) layer with a = sqrt 5, 1 / sqrt(k*p), times sqrt(dense / block elements).
    """
    bound = math.sqrt(k) / math.sqrt(k * p)
    return mx.random.uniform(-bound, bound, (k, q, p))


def monarch_multiply(x: mx.array, w1: mx.array, w2: mx.array, ops: Ops) -> mx.array:
    """Multiply by a Monarch matrix: block-diagonal, stride permutation, block-diagonal, stride permutation.

    o1[b, k, q] = sum_p w1[k, q, p] x[b, k, p]; flattened as (k q), read as (r l), transposed to (l, r);
    o2[b, s, l] = sum_r w2[l, s, r] o1[b, l, r]; flattened as (s l).

    Args:
        x: (..., k*p).
        w1: (k, q, p).
        w2: (l, s, r) with l*r = k*q.
        ops: Primitives.

    Returns:
        (..., s*l).

    Raises:
        ValueError: The factors do not fit each other, or x does not fit w1.

    Source: bert/src/mm/blockdiag_butterfly_multiply.py; Dao et al., arXiv 2204.00595.
    """
    l, _, r = w2.shape
    if l * r != w1.shape[0] * w1.shape[1]:
        raise ValueError(f"w1 {tuple(w1.shape)} and w2 {tuple(w2.shape)} do not fit: l*r must equal k*q")
    o1 = rearrange(blockdiag_multiply(x, w1, ops), "... (r l) -> ... l r", l=l)
    return rearrange(ops.blockdiag(o1, w2), "... l s -> ... (s l)")


class MonarchMultiply(nn.Module):
    """`monarch_multiply` with its two factors as parameters `w1` (k, q, p) and `w2` (l, s, r)."""

    def __init__(self, k: int, q: int, p: int, l: int, s: int, r: int, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops()
        self.w1 = mx.random.normal((k, q, p)) / math.sqrt(p)
        self.w2 = mx.random.normal((l, s, r)) / math.sqrt(r)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (..., k*p) to (..., s*l)."""
        return monarch_multiply(x, self.w1, self.w2, self.ops)
