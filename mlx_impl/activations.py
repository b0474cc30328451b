"""GELU, by the profile's `gelu_mode`."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_impl.ops import Ops
from parity.spec.profile import CANONICAL, HyperProfile


class Gelu(nn.Module):
    """Gaussian error linear unit, exact (`erf`) or by the tanh approximation; formulas in `Ops`.

    Source: bert/src/bert_layers.py, `nn.GELU(approximate='none')`.
    """

    def __init__(self, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops(profile)
        self.approximate = "none" if profile.gelu_mode == "erf" else "tanh"

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the unit to `x` of any shape."""
        return self.ops.gelu_erf(x) if self.approximate == "none" else self.ops.gelu_tanh(x)
