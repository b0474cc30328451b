"""Layer, encoder and the two whole models."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch.embeddings import BertEmbeddings
from reference_torch.heads import AttentionPooler, MaskedLMHead, Pooler, sentence_embedding
from reference_torch.mixer import MonarchMixer
from reference_torch.mlp import GatedMlp, Mlp


class BertLayer(nn.Module):
    """mlp(attention(x)) on (b, l, d): sequence mixing, then state mixing.

    Source: bert/src/bert_layers.py, `BertLayer`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
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
        )
        self.mlp = GatedMlp(config, profile) if config.use_glu_mlp else Mlp(config, profile)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, l, d) to (b, l, d)."""
        out: torch.Tensor = self.mlp(self.attention(x))
        return out


class BertEncoder(nn.Module):
    """`num_hidden_layers` layers in sequence.

    Source: bert/src/bert_layers.py, `BertEncoder`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, profile) for _ in range(config.num_hidden_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (b, l, d) to (b, l, d)."""
        for layer in self.layer:
            x = layer(x)
        return x


class BertModel(nn.Module):
    """Embeddings, encoder and, where asked for, a pooler.

    Source: bert/src/bert_layers.py, `BertModel`.
    """

    def __init__(self, config: ModelConfig, add_pooling_layer: bool = True, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(config, profile)
        self.encoder = BertEncoder(config, profile)
        self.pooler: AttentionPooler | Pooler | None = None
        if add_pooling_layer:
            self.pooler = AttentionPooler(config, profile) if config.attention_pooling else Pooler(config)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Map ids (b, l) to hidden states (b, l, d)."""
        out: torch.Tensor = self.encoder(self.embeddings(input_ids, token_type_ids))
        return out


class BertForMaskedLM(nn.Module):
    """The masked-language model; `cls.predictions.decoder.weight` is the word-embedding table.

    Source: bert/src/bert_layers.py, `BertForMaskedLM`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False, profile=profile)
        self.cls = MaskedLMHead(config, profile)
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Map ids (b, l) and types (b, l) to logits (b, l, vocab)."""
        out: torch.Tensor = self.cls(self.bert(input_ids, token_type_ids))
        return out

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of logits (b, l, vocab) over the positions of labels (b, l) that are above 0."""
        kept = labels > 0
        return functional.cross_entropy(logits[kept], labels[kept])


class BertForSequenceClassification(nn.Module):
    """The classifier, and the sentence embedding that retrieval uses.

    The vector is the pooled output, or the first token's hidden state with `use_cls_token`.

    Source: bert/src/bert_layers.py, `BertForSequenceClassification`.
    """

    def __init__(self, config: ModelConfig, profile: HyperProfile = CANONICAL) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config, profile=profile)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Map ids (b, l), mask (b, l) to `hidden` (b, l, d), `pooled` (b, d), `embedding` (b, d), `y` (b, labels)."""
        hidden = self.bert(input_ids)
        pooled = self.bert.pooler(hidden, attention_mask)  # type: ignore[misc]
        vector = hidden[:, 0] if self.config.use_cls_token else pooled
        return {
            "hidden": hidden,
            "pooled": pooled,
            "embedding": sentence_embedding(vector, self.config),
            "y": self.classifier(vector),
        }
