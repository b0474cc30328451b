"""Token, type and position embeddings."""

from __future__ import annotations

import torch
from torch import nn

from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch.norm import LayerNorm


class BertEmbeddings(nn.Module):
    """LayerNorm(word[ids] + token_type[types] (+ position[0..l-1])).

    Source: bert/src/bert_layers.py, `BertEmbeddings`.
    """

    position_ids: torch.Tensor

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.position_embeddings = None
        if config.use_positional_encodings:
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
            self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, profile)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Map integer ids (b, l) and types (b, l), zeros by default, to (b, l, d)."""
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        if self.position_embeddings is not None:
            x = x + self.position_embeddings(self.position_ids[:, : input_ids.shape[1]])
        out: torch.Tensor = self.LayerNorm(x)
        return out
