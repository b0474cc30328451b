"""The Monarch mixer: the sequence mixing of a layer, a gated pair of long convolutions."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import nn

from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch.hyena import HyenaFilter
from reference_torch.norm import LayerNorm


class ShortConvolution(nn.Conv1d):
    """Causal depthwise convolution of three taps: y[t] = w0 x[t-2] + w1 x[t-1] + w2 x[t] + bias.

    Args:
        channels: c; x is (b, c, l), `weight` (c, 1, 3), `bias` (c,).

    Source: bert/src/mm/monarch_mixer_sequence_mixer.py, `short_filter`: padding 2 on both sides, cut to l.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=3, groups=channels, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, c, l) to (b, c, l)."""
        return super().forward(x)[..., : x.shape[-1]]


class MonarchMixer(nn.Module):
    """Gated long convolution: u (b, l, d) -> (b, l, d), without residual or LayerNorm around it.

    [x1, x2, v] = short_filter(in_linear(u)); y = filter_fn(v x1) x2 (+ filter_fn2(u)); out_linear(y).

    Args:
        d_model: Channels d.
        l_max: Longest input.
        bidirectional: Both filters look ahead as well.
        residual_long_conv: Add the second long convolution, on u itself.
        hyena_w, hyena_w_mod, hyena_emb_dim, hyena_filter_order: See `HyenaFilter`.
        hyena_training_additions: LayerNorm (eps 1e-5) on u first.
        profile: Semantic knobs.

    Source: bert/src/mm/monarch_mixer_sequence_mixer.py, `MonarchMixerSequenceMixing`.
    """

    def __init__(
        self,
        d_model: int,
        l_max: int = 128,
        bidirectional: bool = False,
        residual_long_conv: bool = False,
        hyena_w: float = 10,
        hyena_w_mod: float = 1,
        hyena_emb_dim: int = 3,
        hyena_filter_order: int = 16,
        hyena_training_additions: bool = False,
        profile: HyperProfile = CANONICAL,
    ) -> None:
        super().__init__()

        def long_filter() -> HyenaFilter:
            return HyenaFilter(
                d_model,
                emb_dim=hyena_emb_dim,
                order=hyena_filter_order,
                seq_len=l_max,
                w=hyena_w,
                w_mod=hyena_w_mod,
                bidirectional=bidirectional,
                profile=profile,
            )

        self.layernorm = LayerNorm(d_model, 1e-5, profile) if hyena_training_additions else None
        self.in_linear = nn.Linear(d_model, 3 * d_model)
        self.short_filter = ShortConvolution(3 * d_model)
        self.filter_fn = long_filter()
        self.filter_fn2 = long_filter() if residual_long_conv else None
        self.out_linear = nn.Linear(d_model, d_model)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """Map u (b, l, d) to (b, l, d)."""
        if self.layernorm is not None:
            u = self.layernorm(u)
        mixed = self.short_filter(rearrange(self.in_linear(u), "b l d -> b d l"))
        x1, x2, v = mixed.chunk(3, dim=1)
        y = self.filter_fn(v * x1) * x2
        if self.filter_fn2 is not None:
            y = y + self.filter_fn2(rearrange(u, "b l d -> b d l"))
        out: torch.Tensor = self.out_linear(rearrange(y, "b d l -> b l d"))
        return out
