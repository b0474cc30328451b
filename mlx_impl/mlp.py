"""State mixing: the plain and the gated MLP of a layer, dense or block-diagonal."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_impl.activations import Gelu
from mlx_impl.blockdiag import BlockdiagLinear
from mlx_impl.linear import Linear
from mlx_impl.norm import LayerNorm
from mlx_impl.ops import Ops
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile


def _linear(config: ModelConfig, in_features: int, out_features: int, bias: bool, ops: Ops) -> nn.Module:
    if config.use_monarch_mlp:
        return BlockdiagLinear(in_features, out_features, nblocks=config.monarch_mlp_nblocks, bias=bias, ops=ops)
    return Linear(in_features, out_features, bias=bias, ops=ops)


class Mlp(nn.Module):
    """y = layernorm(wo(gelu(gated_layers(x))) + x) on x (b, l, d).

    Source: bert/src/bert_layers.py, `BertMLP`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        ops = ops or Ops(profile)
        self.gated_layers = _linear(config, config.hidden_size, config.intermediate_size, False, ops)
        self.act = Gelu(profile, ops)
        self.wo = _linear(config, config.intermediate_size, config.hidden_size, True, ops)
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, profile, ops)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to (b, l, d)."""
        return self.layernorm(self.wo(self.act(self.gated_layers(x))) + x)


class GatedMlp(nn.Module):
    """y = layernorm(wo(gelu(gate) * value) + x), [gate, value] = gated_layers(x), on x (b, l, d).

    The split is at `intermediate_size`, across the blocks of a block-diagonal `gated_layers`.

    Source: bert/src/bert_layers.py, `BertGatedLinearUnitMLP`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        ops = ops or Ops(profile)
        self.gated_layers = _linear(config, config.hidden_size, 2 * config.intermediate_size, False, ops)
        self.act = Gelu(profile, ops)
        self.wo = _linear(config, config.intermediate_size, config.hidden_size, True, ops)
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, profile, ops)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to (b, l, d)."""
        gate, value = mx.split(self.gated_layers(x), 2, axis=-1)
        return self.layernorm(self.wo(self.act(gate) * value) + x)
