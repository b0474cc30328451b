"""Dense linear layer and embedding table over the seam."""

from __future__ import annotations

import math

import mlx.core as mx
from mlx import nn

from mlx_impl.ops import Ops


class Linear(nn.Module):
    """y = x @ weight.T + bias, weight (out_features, in_features).

    Args:
        in_features, out_features: Sizes; x is (..., in_features).
        bias: Whether there is a `bias` (out_features,).
        ops: Primitives.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops()
        bound = 1 / math.sqrt(in_features)
        self.weight = mx.random.uniform(-bound, bound, (out_features, in_features))
        self.bias = mx.random.uniform(-bound, bound, (out_features,)) if bias else None

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (..., in_features) to (..., out_features)."""
        return self.ops.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """Rows of `weight` (num_embeddings, dims) by integer index; the row `padding_idx` passes no gradient on."""

    def __init__(self, num_embeddings: int, dims: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self.weight = mx.random.normal((num_embeddings, dims))

    def __call__(self, ids: mx.array) -> mx.array:
        """Map integer ids (...) to (..., dims)."""
        rows = self.weight[ids]
        if self.padding_idx is None:
            return rows
        return mx.where((ids == self.padding_idx)[..., None], mx.stop_gradient(rows), rows)
