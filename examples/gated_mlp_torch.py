"""A small model in PyTorch: a causal convolution, then a gated MLP behind an RMSNorm."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class GatedMLP(nn.Module):
    """x + down(silu(gate(n)) * up(n)), n = norm(x): what a decoder layer has behind its attention."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x is (batch, length, dim), and so is the result."""
        n = self.norm(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class ShortMixer(nn.Module):
    """A causal depthwise convolution of `taps` positions, then a gated MLP."""

    def __init__(self, dim: int, hidden: int, taps: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, taps, groups=dim, padding=taps - 1)
        self.mlp = GatedMLP(dim, hidden)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """x is (batch, length, dim); `mixed` and `hidden` are as large."""
        mixed = self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        return {"hidden": self.mlp(mixed), "mixed": mixed}
