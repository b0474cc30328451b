"""Layer, encoder and the two whole models."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_impl.embeddings import BertEmbeddings
from mlx_impl.heads import AttentionPooler, MaskedLMHead, Pooler, sentence_embedding
from mlx_impl.linear import Linear
from mlx_impl.mixer import MonarchMixer
from mlx_impl.mlp import GatedMlp, Mlp
from mlx_impl.ops import Ops
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile


class BertLayer(nn.Module):
    """mlp(attention(x)) on (b, l, d): sequence mixing, then state mixing.

    Source: bert/src/bert_layers.py, `BertLayer`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        ops = ops or Ops(profile)
        self.attention = MonarchMixer(
            config.hidden_size,
            l_max=config.long_conv_l_max,
            bidirectional=config.bidirectional,
            residual_long_conv=config.residual_long_conv,
            hyena_w=config.hyena_w,
            hyena_w_mod=config.hyena_w_mod,
            hyena_emb_dim=config.hyena_emb_dim,
            hyena_filter_order=config.hyena_filter_order,
            hyena_training_additions=config.hyena_training_additions,
            profile=profile,
            ops=ops,
        )
        self.mlp = GatedMlp(config, profile, ops) if config.use_glu_mlp else Mlp(config, profile, ops)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to (b, l, d)."""
        return self.mlp(self.attention(x))


class BertEncoder(nn.Module):
    """`num_hidden_layers` layers in sequence.

    Source: bert/src/bert_layers.py, `BertEncoder`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        ops = ops or Ops(profile)
        self.layer = [BertLayer(config, profile, ops) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (b, l, d) to (b, l, d)."""
        for layer in self.layer:
            x = layer(x)
        return x


class BertModel(nn.Module):
    """Embeddings, encoder and, where asked for, a pooler.

    Source: bert/src/bert_layers.py, `BertModel`.
    """

    def __init__(
        self,
        config: ModelConfig,
        add_pooling_layer: bool = True,
        profile: HyperProfile = CANONICAL,
        ops: Ops | None = None,
    ) -> None:
        super().__init__()
        ops = ops or Ops(profile)
        self.embeddings = BertEmbeddings(config, profile, ops)
        self.encoder = BertEncoder(config, profile, ops)
        self.pooler: AttentionPooler | Pooler | None = None
        if add_pooling_layer:
            self.pooler = AttentionPooler(config, profile, ops) if config.attention_pooling else Pooler(config, ops)

    def __call__(self, input_ids: mx.array, token_type_ids: mx.array | None = None) -> mx.array:
        """Map ids (b, l) to hidden states (b, l, d)."""
        return self.encoder(self.embeddings(input_ids, token_type_ids))


class BertForMaskedLM(nn.Module):
    """The masked-language model; `cls.predictions.decoder.weight` is the word-embedding table.

    Source: bert/src/bert_layers.py, `BertForMaskedLM`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops(profile)
        self.bert = BertModel(config, add_pooling_layer=False, profile=profile, ops=self.ops)
        self.cls = MaskedLMHead(config, profile, self.ops)
        self.cls.predictions.decoder.tie(self.bert.embeddings.word_embeddings)

    def __call__(self, input_ids: mx.array, token_type_ids: mx.array | None = None) -> mx.array:
        """Map ids (b, l) and types (b, l) to logits (b, l, vocab)."""
        return self.cls(self.bert(input_ids, token_type_ids))

    def loss(self, logits: mx.array, labels: mx.array) -> mx.array:
        """Mean cross-entropy of logits (b, l, vocab) over the positions of labels (b, l) that are above 0."""
        kept = (labels > 0).astype(logits.dtype)
        top = mx.stop_gradient(mx.max(logits, axis=-1, keepdims=True))
        log_sum = mx.log(mx.sum(self.ops.exp(logits - top), axis=-1)) + top[..., 0]
        own = mx.take_along_axis(logits, mx.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return mx.sum((log_sum - own) * kept) / mx.sum(kept)

    def ties(self) -> dict[str, str]:
        """Names under which the checkpoint repeats a parameter, each with the name that stores it."""
        return {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}


class BertForSequenceClassification(nn.Module):
    """The classifier, and the sentence embedding that retrieval uses.

    The vector is the pooled output, or the first token's hidden state with `use_cls_token`.

    Source: bert/src/bert_layers.py, `BertForSequenceClassification`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops(profile)
        self.config = config
        self.bert = BertModel(config, profile=profile, ops=self.ops)
        self.classifier = Linear(config.hidden_size, config.num_labels, ops=self.ops)

    def __call__(self, input_ids: mx.array, attention_mask: mx.array | None = None) -> dict[str, mx.array]:
        """Map ids (b, l), mask (b, l) to `hidden` (b, l, d), `pooled` (b, d), `embedding` (b, d), `y` (b, labels)."""
        hidden = self.bert(input_ids)
        pooled = self.bert.pooler(hidden, attention_mask)  # type: ignore[misc]
        vector = hidden[:, 0] if self.config.use_cls_token else pooled
        return {
            "hidden": hidden,
            "pooled": pooled,
            "embedding": sentence_embedding(vector, self.config, self.ops),
            "y": self.classifier(vector),
        }
