"""What stands on the encoder: masked-language-model head, poolers, sentence embedding."""

from __future__ import annotations

import math

import mlx.core as mx
from mlx import nn

from mlx_impl.activations import Gelu
from mlx_impl.linear import Embedding, Linear
from mlx_impl.norm import LayerNorm
from mlx_impl.ops import Ops
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile


class PredictionTransform(nn.Module):
    """LayerNorm(gelu(dense(x))) with epsilon 1e-12, on (b, l, d).

    Source: bert/src/bert_layers.py, `BertPredictionHeadTransform`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        ops = ops or Ops(profile)
        self.dense = Linear(config.hidden_size, config.hidden_size, ops=ops)
        self.transform_act_fn = Gelu(profile, ops)
        self.LayerNorm = LayerNorm(config.hidden_size, 1e-12, profile, ops)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to (b, l, d)."""
        return self.LayerNorm(self.transform_act_fn(self.dense(x)))


class Decoder(nn.Module):
    """Logits x @ weight.T + bias; `tie` replaces the own weight by an embedding table, which stays its only owner."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        bound = 1 / math.sqrt(config.hidden_size)
        self.weight = mx.random.uniform(-bound, bound, (config.vocab_size, config.hidden_size))
        self.bias = mx.random.uniform(-bound, bound, (config.vocab_size,))
        object.__setattr__(self, "_table", None)

    def tie(self, table: Embedding) -> None:
        """Use the rows of `table` (vocab, d) from now on."""
        del self.weight
        object.__setattr__(self, "_table", table)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to (b, l, vocab)."""
        return self.ops.linear(x, self.weight if self._table is None else self._table.weight, self.bias)


class MaskedLMPredictions(nn.Module):
    """decoder(transform(x)): logits (b, l, vocab) of hidden states (b, l, d)."""

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        ops = ops or Ops(profile)
        self.transform = PredictionTransform(config, profile, ops)
        self.decoder = Decoder(config, ops)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to (b, l, vocab)."""
        return self.decoder(self.transform(x))


class MaskedLMHead(nn.Module):
    """The masked-language-model head; inside a model its decoder's weight is the word-embedding table.

    Source: bert/src/bert_layers.py, `BertOnlyMLMHead` and `BertLMPredictionHead`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        self.predictions = MaskedLMPredictions(config, profile, ops)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to logits (b, l, vocab)."""
        return self.predictions(x)


class Pooler(nn.Module):
    """tanh(dense(s)), s the first token's state or, with `pool_all`, the mean over the positions the mask keeps.

    Source: bert/src/bert_layers.py, `BertPooler`.
    """

    def __init__(self, config: ModelConfig, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops()
        self.pool_all = config.pool_all
        self.dense = Linear(config.hidden_size, config.hidden_size, ops=self.ops)

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        """Map x (b, l, d), mask (b, l) of ones and zeros or None, to (b, d)."""
        return self.ops.tanh(self.dense(_masked_mean(x, mask, self.ops) if self.pool_all else x[:, 0]))


def _masked_mean(x: mx.array, mask: mx.array | None, ops: Ops | None = None) -> mx.array:
    ops = ops or Ops()
    if mask is None:
        return ops.mean(x, axis=1)
    weight = mask.astype(x.dtype)[..., None]
    return ops.sum(x * weight, axis=1) / ops.sum(weight, axis=1)


class AttentionPooler(nn.Module):
    """Two rounds of single-head attention, each with its own two-layer network, then tanh(dense(first token)).

    Scores q k^T / sqrt(d), of shape (b, l, s), are multiplied by the mask along l, and the softmax runs over axis 1,
    along l; both rounds share `Wqkv`.

    Source: bert/src/bert_layers.py of the original at 7d359e8; the golden files `attention_pooler_*`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops(profile)
        d, inner = config.hidden_size, config.intermediate_size
        self.Wqkv = Linear(d, 3 * d, ops=self.ops)
        self.dense1 = Linear(d, inner, ops=self.ops)
        self.dense2 = Linear(inner, d, ops=self.ops)
        self.dense3 = Linear(d, inner, ops=self.ops)
        self.dense4 = Linear(inner, d, ops=self.ops)
        self.dense = Linear(d, d, ops=self.ops)
        self.act = Gelu(profile, self.ops)

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        """Map x (b, l, d), mask (b, l) or None, to (b, d)."""
        x = self.dense2(self.act(self.dense1(self._attend(x, mask))))
        x = self.dense4(self.act(self.dense3(self._attend(x, mask))))
        return self.ops.tanh(self.dense(x[:, 0]))

    def _attend(self, x: mx.array, mask: mx.array | None) -> mx.array:
        q, k, v = mx.split(self.Wqkv(x), 3, axis=-1)
        scores = self.ops.matmul(q, k.swapaxes(-1, -2)) / math.sqrt(x.shape[-1])
        if mask is not None:
            scores = scores * mask.astype(x.dtype)[..., None]
        return self.ops.matmul(self.ops.softmax(scores, axis=1), v)


def sentence_embedding(vector: mx.array, config: ModelConfig, ops: Ops | None = None) -> mx.array:
    """Return the vector (b, d) that stands for a sentence, of unit length when `use_normalized_embeddings`."""
    if not config.use_normalized_embeddings:
        return vector
    return vector / (ops or Ops()).norm(vector)
