"""Layer normalisation over channels, with the profile's epsilon."""

from __future__ import annotations

from torch import nn

from parity.spec.profile import CANONICAL, HyperProfile


class LayerNorm(nn.LayerNorm):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis, var the biased variance.

    Args:
        dims: Channels d; x is (..., d), weight and bias are (d,).
        eps: The model's epsilon, unless the profile names one.
        profile: Its `layer_norm_eps` replaces `eps` where it is not null.

    Source: bert/src/bert_layers.py, `nn.LayerNorm`.
    """

    def __init__(self, dims: int, eps: float, profile: HyperProfile = CANONICAL) -> None:
        super().__init__(dims, eps=eps if profile.layer_norm_eps is None else profile.layer_norm_eps)
