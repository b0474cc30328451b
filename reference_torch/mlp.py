"""State mixing: the plain and the gated MLP of a layer, dense or block-diagonal."""

from __future__ import annotations

import torch
from torch import nn

from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch.activations import Gelu
from reference_torch.blockdiag import BlockdiagLinear
from reference_torch.norm import LayerNorm


def _linear(config: ModelConfig, in_features: int, out_features: int, bias: bool) -> nn.Module:
    if config.use_monarch_mlp:
        return BlockdiagLinear(in_features, out_features, nblocks=config.monarch_mlp_nblocks, bias=bias)
    return nn.Linear(in_features, out_features, bias=bias)


class Mlp(nn.Module):
    """y = layernorm(wo(gelu(gated_layers(x))) + x) on x (b, l, d).

    Source: bert/src/bert_layers.py, `BertMLP`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.gated_layers = _linear(config, config.hidden_size, config.intermediate_size, bias=False)
        self.act = Gelu(profile)
        self.wo = _linear(config, config.intermediate_size, config.hidden_size, bias=True)
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, profile)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, l, d) to (b, l, d)."""
        out: torch.Tensor = self.layernorm(self.wo(self.act(self.gated_layers(x))) + x)
        return out


class GatedMlp(nn.Module):
    """y = layernorm(wo(gelu(gate) * value) + x), [gate, value] = gated_layers(x), on x (b, l, d).

    The split is at `intermediate_size`, across the blocks of a block-diagonal `gated_layers`.

    Source: bert/src/bert_layers.py, `BertGatedLinearUnitMLP`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.gated_layers = _linear(config, config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.act = Gelu(profile)
        self.wo = _linear(config, config.intermediate_size, config.hidden_size, bias=True)
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, profile)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, l, d) to (b, l, d)."""
        gate, value = self.gated_layers(x).chunk(2, dim=-1)
        out: torch.Tensor = self.layernorm(self.wo(self.act(gate) * value) + x)
        return out
