"""The same model in MLX, as somebody would port it: channels last, and the block called otherwise."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn


class GatedMLP(nn.Module):
    """x + down(silu(gate(n)) * up(n)), n = norm(x).

    Args:
        dim: Channels of x.
        hidden: Channels in between.
        eps: Of the norm.
    """

    def __init__(self, dim: int, hidden: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=eps)
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """x is (batch, length, dim), and so is the result."""
        n = self.norm(x)
        return x + self.down(nn.silu(self.gate(n)) * self.up(n))


class ShortMixer(nn.Module):
    """A causal depthwise convolution of `taps` positions, then a gated MLP."""

    def __init__(self, dim: int, hidden: int, taps: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, taps, groups=dim, padding=taps - 1)
        self.feed_forward = GatedMLP(dim, hidden)

    def __call__(self, x: mx.array) -> dict[str, mx.array]:
        """x is (batch, length, dim); `mixed` and `hidden` are as large."""
        mixed = self.conv(x)[:, : x.shape[1]]
        return {"hidden": self.feed_forward(mixed), "mixed": mixed}
