"""Block-diagonal linear layer and the Monarch product of two block-diagonal factors."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional


def blockdiag_multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply by a block-diagonal matrix: y[..., i, :] = x[..., i, :] @ weight[i].T, blocks concatenated.

    Args:
        x: (..., k*p).
        weight: (k, q, p).

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
    return rearrange(torch.einsum("...kp,kqp->...kq", blocks, weight), "... k q -> ... (k q)")


class BlockdiagLinear(nn.Module):
    """Linear layer whose matrix is block-diagonal: `nblocks` blocks of ceil(out/k) x ceil(in/k).

    x (..., in_features) is zero-padded on the right to k*p, regrouped `(g c) -> (c g)` with g = k when `shuffle`,
    multiplied block by block, cut to out_features; then `bias` (out_features,) is added.

    Source: bert/src/mm/structured_linear.py and blockdiag_linear.py.
    """

    bias: nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, nblocks: int = 4, bias: bool = True, shuffle: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.nblocks, self.shuffle = (
            in_features,
            out_features,
            nblocks,
            shuffle,
        )
        p, q = math.ceil(in_features / nblocks), math.ceil(out_features / nblocks)
        self.weight = nn.Parameter(_initial_weight(nblocks, q, p))
        bound = 1 / math.sqrt(out_features)
        start = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None
        self.register_parameter("bias", start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (..., in_features) to (..., out_features).

        Raises:
            ValueError: The last axis of x is not in_features.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} features; this layer takes {self.in_features}")
        k, _, p = self.weight.shape
        x = functional.pad(x, (0, k * p - self.in_features))
        if self.shuffle:
            x = rearrange(x, "... (g c) -> ... (c g)", g=k)
        y = blockdiag_multiply(x, self.weight)[..., : self.out_features]
        return y if self.bias is None else y + self.bias


def _initial_weight(k: int, q: int, p: int) -> torch.Tensor:
    """Kaiming-uniform blocks (k, q, p), scaled so that the variance equals a dense layer's."""
    dense = torch.empty(k * q, k * p)
    nn.init.kaiming_uniform_(dense, a=math.sqrt(5))
    dense = dense * math.sqrt(dense.numel() / (k * q * p))
    return rearrange(dense, "(b o) (b1 i) -> b b1 o i", b=k, b1=k)[:, 0].contiguous()


def monarch_multiply(x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """Multiply by a Monarch matrix: block-diagonal, stride permutation, block-diagonal, stride permutation.

    o1[b, k, q] = sum_p w1[k, q, p] x[b, k, p]; flattened as (k q), read as (r l), transposed to (l, r);
    o2[b, s, l] = sum_r w2[l, s, r] o1[b, l, r]; flattened as (s l).

    Args:
        x: (..., k*p).
        w1: (k, q, p).
        w2: (l, s, r) with l*r = k*q.

    Returns:
        (..., s*l).

    Raises:
        ValueError: The factors do not fit each other, or x does not fit w1.

    Source: bert/src/mm/blockdiag_butterfly_multiply.py; Dao et al., arXiv 2204.00595.
    """
    l, _, r = w2.shape
    if l * r != w1.shape[0] * w1.shape[1]:
        raise ValueError(f"w1 {tuple(w1.shape)} and w2 {tuple(w2.shape)} do not fit: l*r must equal k*q")
    o1 = rearrange(blockdiag_multiply(x, w1), "... (r l) -> ... l r", l=l)
    return rearrange(torch.einsum("...lr,lsr->...sl", o1, w2), "... s l -> ... (s l)")


class MonarchMultiply(nn.Module):
    """`monarch_multiply` with its two factors as parameters `w1` (k, q, p) and `w2` (l, s, r)."""

    def __init__(self, k: int, q: int, p: int, l: int, s: int, r: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(k, q, p) / math.sqrt(p))
        self.w2 = nn.Parameter(torch.randn(l, s, r) / math.sqrt(r))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (..., k*p) to (..., s*l)."""
        return monarch_multiply(x, self.w1, self.w2)
