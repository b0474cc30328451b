"""Layer normalisation over channels, with the profile's epsilon."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_impl.ops import Ops
from parity.spec.profile import CANONICAL, HyperProfile


class LayerNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis, var the biased variance.

    Args:
        dims: Channels d; x is (..., d), weight and bias are (d,).
        eps: The model's epsilon, unless the profile names one.
        profile: Its `layer_norm_eps` replaces `eps` where it is not null.
        ops: Primitives.

    Source: bert/src/bert_layers.py, `nn.LayerNorm`.
    """

    def __init__(self, dims: int, eps: float, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops(profile)
        self.eps = eps if profile.layer_norm_eps is None else profile.layer_norm_eps
        self.weight = mx.ones((dims,))
        self.bias = mx.zeros((dims,))

    def __call__(self, x: mx.array) -> mx.array:
        """Normalise x (..., d)."""
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps)
