"""The Monarch mixer: the sequence mixing of a layer, a gated pair of long convolutions."""

from __future__ import annotations

import math

import mlx.core as mx
from einops import rearrange
from mlx import nn

from mlx_impl.hyena import HyenaFilter
from mlx_impl.linear import Linear
from mlx_impl.norm import LayerNorm
from mlx_impl.ops import Ops
from parity.spec.profile import CANONICAL, HyperProfile


class ShortConvolution(nn.Module):
    """Causal depthwise convolution of three taps: y[t] = w0 x[t-2] + w1 x[t-1] + w2 x[t] + bias.

    Args:
        channels: c; x is (b, c, l), `weight` (c, 3, 1) as MLX lays it out, `bias` (c,).
        ops: Primitives.

    Source: bert/src/mm/monarch_mixer_sequence_mixer.py, `short_filter`: padding 2 on both sides, cut to l.
    """

    padding = 2

    def __init__(self, channels: int, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops()
        bound = 1 / math.sqrt(3)
        self.weight = mx.random.uniform(-bound, bound, (channels, 3, 1))
        self.bias = mx.random.uniform(-bound, bound, (channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, c, l) to (b, c, l)."""
        y = self.ops.depthwise_conv(rearrange(x, "b c l -> b l c"), self.weight, self.bias, self.padding)
        return rearrange(y[:, : x.shape[-1]], "b l c -> b c l")


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
        ops: Primitives.

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
        ops: Ops | None = None,
    ) -> None:
        super().__init__()
        ops = ops or Ops(profile)

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
                ops=ops,
            )

        self.layernorm = LayerNorm(d_model, 1e-5, profile, ops) if hyena_training_additions else None
        self.in_linear = Linear(d_model, 3 * d_model, ops=ops)
        self.short_filter = ShortConvolution(3 * d_model, ops)
        self.filter_fn = long_filter()
        self.filter_fn2 = long_filter() if residual_long_conv else None
        self.out_linear = Linear(d_model, d_model, ops=ops)

    def __call__(self, u: mx.array) -> mx.array:
        """Map u (b, l, d) to (b, l, d)."""
        if self.layernorm is not None:
            u = self.layernorm(u)
        mixed = self.short_filter(rearrange(self.in_linear(u), "b l d -> b d l"))
        x1, x2, v = mx.split(mixed, 3, axis=1)
        y = self.filter_fn(v * x1) * x2
        if self.filter_fn2 is not None:
            y = y + self.filter_fn2(rearrange(u, "b l d -> b d l"))
        return self.out_linear(rearrange(y, "b d l -> b l d"))
