"""The Hyena filter: a long kernel made by a small network of sines from the position, and its convolution."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import nn

from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch.fft_conv import fftconv
from reference_torch.precision import widen


class Sin(nn.Module):
    """y = sin(w_mod * freq * x) with one trained frequency per feature.

    Args:
        dim: Features; x is (..., dim), `freq` (1, dim) starts at w.
        w: Initial frequency.
        w_mod: Fixed factor.

    Source: bert/src/mm/hyena_utils.py, `Sin`.
    """

    def __init__(self, dim: int, w: float = 10, w_mod: float = 1) -> None:
        super().__init__()
        self.w_mod = w_mod
        self.freq = nn.Parameter(torch.full((1, dim), float(w)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (..., dim)."""
        return torch.sin(self.w_mod * self.freq * x)


class PositionalEmbedding(nn.Module):
    """Complex exponentials of the position: columns t, then cosines, then minus sines, of B = (emb_dim - 1) / 2 bands.

    t = linspace(0, 1, L); f = linspace(1e-4, B - 1, B); w = 2 pi arange(L) / L; z = [t, Re e, Im e], e = exp(-i f w).
    `z` (1, L, emb_dim) is a parameter, `t` (1, L, 1) a buffer: both belong to the checkpoint.

    Source: bert/src/mm/hyena_utils.py, `PositionalEmbedding`.
    """

    t: torch.Tensor

    def __init__(self, emb_dim: int, seq_len: int) -> None:
        super().__init__()
        bands = (emb_dim - 1) // 2
        t = torch.linspace(0, 1, seq_len)[None, :, None]
        w = 2 * math.pi * torch.linspace(0, seq_len - 1, seq_len)[None, :, None] / seq_len
        f = torch.linspace(1e-4, bands - 1, bands)[None, None]
        z = torch.exp(-1j * f * w)
        self.z = nn.Parameter(torch.cat([t, z.real, z.imag], dim=-1))
        self.register_buffer("t", t)

    def forward(self, L: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first L rows of z (1, L, emb_dim) and t (1, L, 1)."""
        return self.z[:, :L], self.t[:, :L]


class ExponentialModulation(nn.Module):
    """h * (exp(-t |deltas|) + shift): each channel decays at its own rate.

    `deltas` (1, 1, d) = linspace(log(target) / slow_decay_pct, log(target) / fast_decay_pct, d).

    Source: bert/src/mm/hyena_utils.py, `ExponentialModulation`.
    """

    deltas: torch.Tensor

    def __init__(
        self,
        d_model: int,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.shift = shift
        slow, fast = math.log(target) / slow_decay_pct, math.log(target) / fast_decay_pct
        self.register_buffer("deltas", torch.linspace(slow, fast, d_model)[None, None])

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Modulate x (1, L, d) by the positions t (1, L, 1)."""
        return x * (torch.exp(-t * self.deltas.abs()) + self.shift)


def _filter_mlp(emb_dim: int, order: int, d_model: int, num_inner_mlps: int, act: Sin) -> nn.Sequential:
    """Linear, Sin, [Linear, Sin] x num_inner_mlps, Linear without bias; every Sin is the same object."""
    layers: list[nn.Module] = [nn.Linear(emb_dim, order), act]
    for _ in range(num_inner_mlps):
        layers += [nn.Linear(order, order), act]
    return nn.Sequential(*layers, nn.Linear(order, d_model, bias=False))


class HyenaFilter(nn.Module):
    """Implicit long filter of d_model channels with modulation, and the convolution with it.

    Args:
        d_model: Channels d.
        emb_dim: Columns of the position embedding, odd and at least 3.
        order: Width of the network.
        seq_len: Longest input; a shorter one takes the first rows of the embedding.
        w, w_mod: Frequencies of `Sin`, one object shared by all its places, both directions included.
        bias: False multiplies the skip weight `bias` (d,) by 0.
        num_inner_mlps: Inner linear layers.
        linear_mixer: The forward network is a single Linear(emb_dim, d) without bias.
        modulate: Apply `modulation`.
        normalized: Divide by the sum of absolute values over channels, without epsilon.
        bidirectional: A second network makes the reverse kernel.
        fast_decay_pct, slow_decay_pct, target, shift: See `ExponentialModulation`.
        profile: How the kernels of both directions are combined.

    Raises:
        ValueError: emb_dim is even or below 3.

    Source: bert/src/mm/hyena_utils.py, `HyenaFilter`.
    """

    at_least_float32 = True

    def __init__(
        self,
        d_model: int,
        emb_dim: int = 3,
        order: int = 16,
        seq_len: int = 1024,
        w: float = 1,
        w_mod: float = 1,
        bias: bool = True,
        num_inner_mlps: int = 2,
        linear_mixer: bool = False,
        modulate: bool = True,
        normalized: bool = False,
        bidirectional: bool = False,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
        profile: HyperProfile = CANONICAL,
    ) -> None:
        super().__init__()
        if emb_dim % 2 == 0 or emb_dim < 3:
            raise ValueError(f"emb_dim must be odd and at least 3 (time, cosines, sines); got {emb_dim}")
        self.seq_len, self.use_bias, self.profile = seq_len, bias, profile
        self.modulate, self.normalized, self.bidirectional = modulate, normalized, bidirectional
        self.bias = nn.Parameter(torch.randn(d_model))
        self.pos_emb = PositionalEmbedding(emb_dim, seq_len)
        act = Sin(order, w, w_mod)
        if linear_mixer:
            self.implicit_filter = nn.Sequential(nn.Linear(emb_dim, d_model, bias=False))
        else:
            self.implicit_filter = _filter_mlp(emb_dim, order, d_model, num_inner_mlps, act)
        if bidirectional:
            self.implicit_filter_rev = _filter_mlp(emb_dim, order, d_model, num_inner_mlps, act)
        self.modulation = ExponentialModulation(d_model, fast_decay_pct, slow_decay_pct, target, shift)

    def filter(self, L: int) -> torch.Tensor:
        """Return the forward kernel (1, L, d)."""
        return self._kernel(self.implicit_filter, L)

    def filter_rev(self, L: int) -> torch.Tensor:
        """Return the reverse kernel (1, L, d)."""
        return self._kernel(self.implicit_filter_rev, L)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x (b, d, L) with the filter; returns (b, d, L) in x's dtype.

        Raises:
            ValueError: L is longer than `seq_len`.
        """
        L = x.shape[-1]
        k = rearrange(self.filter(L), "1 l d -> d l")
        k_rev = rearrange(self.filter_rev(L), "1 l d -> d l") if self.bidirectional else None
        D = self.bias if self.use_bias else 0 * self.bias
        return fftconv(widen(x), k, D, k_rev, self.profile).to(x.dtype)

    def _kernel(self, network: nn.Sequential, L: int) -> torch.Tensor:
        if self.seq_len < L:
            raise ValueError(f"{L} positions, but this filter was built for seq_len = {self.seq_len}")
        z, t = self.pos_emb(L)
        h: torch.Tensor = network(z)
        if self.modulate:
            h = self.modulation(t, h)
        if self.normalized:
            h = h / h.abs().sum(dim=-1, keepdim=True)
        return h
