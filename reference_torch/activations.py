"""GELU, by the profile's `gelu_mode`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from parity.spec.profile import CANONICAL, HyperProfile


class Gelu(nn.Module):
    """Gaussian error linear unit, elementwise on any shape.

    `erf`: y = x * (1 + erf(x / sqrt 2)) / 2. `tanh`: y = x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.

    Source: bert/src/bert_layers.py, `nn.GELU(approximate='none')`; Hendrycks and Gimpel, arXiv 1606.08415.
    """

    def __init__(self, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.approximate = "none" if profile.gelu_mode == "erf" else "tanh"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the unit to `x` of any shape."""
        return functional.gelu(x, approximate=self.approximate)
