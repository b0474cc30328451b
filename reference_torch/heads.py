"""What stands on the encoder: masked-language-model head, poolers, sentence embedding."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch.activations import Gelu
from reference_torch.norm import LayerNorm


class PredictionTransform(nn.Module):
    """LayerNorm(gelu(dense(x))) with epsilon 1e-12, on (b, l, d).

    Source: bert/src/bert_layers.py, `BertPredictionHeadTransform`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = Gelu(profile)
        self.LayerNorm = LayerNorm(config.hidden_size, 1e-12, profile)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, l, d) to (b, l, d)."""
        out: torch.Tensor = self.LayerNorm(self.transform_act_fn(self.dense(x)))
        return out


class MaskedLMPredictions(nn.Module):
    """decoder(transform(x)): logits (b, l, vocab) of hidden states (b, l, d)."""

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.transform = PredictionTransform(config, profile)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, l, d) to (b, l, vocab)."""
        out: torch.Tensor = self.decoder(self.transform(x))
        return out


class MaskedLMHead(nn.Module):
    """The masked-language-model head; inside a model its decoder's weight is the word-embedding table.

    Source: bert/src/bert_layers.py, `BertOnlyMLMHead` and `BertLMPredictionHead`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.predictions = MaskedLMPredictions(config, profile)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, l, d) to logits (b, l, vocab)."""
        out: torch.Tensor = self.predictions(x)
        return out


class Pooler(nn.Module):
    """tanh(dense(s)), s the first token's state or, with `pool_all`, the mean over the positions the mask keeps.

    Source: bert/src/bert_layers.py, `BertPooler`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pool_all = config.pool_all
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map x (b, l, d), mask (b, l) of ones and zeros or None, to (b, d)."""
        out: torch.Tensor = torch.tanh(self.dense(_masked_mean(x, mask) if self.pool_all else x[:, 0]))
        return out


def _masked_mean(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return x.mean(dim=1)
    weight = mask.to(x.dtype)[..., None]
    return (x * weight).sum(dim=1) / weight.sum(dim=1)


class AttentionPooler(nn.Module):
    """Two rounds of single-head attention, each with its own two-layer network, then tanh(dense(first token)).

    Scores q k^T / sqrt(d), of shape (b, l, s), are multiplied by the mask along l, and the softmax runs over axis 1,
    along l; both rounds share `Wqkv`.

    Source: bert/src/bert_layers.py of the original at 7d359e8; the golden files `attention_pooler_*`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        d, inner = config.hidden_size, config.intermediate_size
        self.Wqkv = nn.Linear(d, 3 * d)
        self.dense1 = nn.Linear(d, inner)
        self.dense2 = nn.Linear(inner, d)
        self.dense3 = nn.Linear(d, inner)
        self.dense4 = nn.Linear(inner, d)
        self.dense = nn.Linear(d, d)
        self.act = Gelu(profile)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map x (b, l, d), mask (b, l) or None, to (b, d)."""
        x = self.dense2(self.act(self.dense1(self._attend(x, mask))))
        x = self.dense4(self.act(self.dense3(self._attend(x, mask))))
        return torch.tanh(self.dense(x[:, 0]))

    def _attend(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        q, k, v = self.Wqkv(x).chunk(3, dim=-1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(x.shape[-1])
        if mask is not None:
            scores = scores * mask.to(x.dtype)[..., None]
        return functional.softmax(scores, dim=1) @ v


def sentence_embedding(vector: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Return the vector (b, d) that stands for a sentence, of unit length when `use_normalized_embeddings`."""
    if not config.use_normalized_embeddings:
        return vector
    return vector / vector.norm(dim=-1, keepdim=True)
