"""Token, type and position embeddings."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_impl.linear import Embedding
from mlx_impl.norm import LayerNorm
from mlx_impl.ops import Ops
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile


class BertEmbeddings(nn.Module):
    """LayerNorm(word[ids] + token_type[types] (+ position[0..l-1])).

    Source: bert/src/bert_layers.py, `BertEmbeddings`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.position_embeddings = None
        if config.use_positional_encodings:
            self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, profile, ops)

    def __call__(self, input_ids: mx.array, token_type_ids: mx.array | None = None) -> mx.array:
        """Map integer ids (b, l) and types (b, l), zeros by default, to (b, l, d)."""
        if token_type_ids is None:
            token_type_ids = mx.zeros_like(input_ids)
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        if self.position_embeddings is not None:
            x = x + self.position_embeddings(mx.arange(input_ids.shape[1])[None])
        return self.LayerNorm(x)
