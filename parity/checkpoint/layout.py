"""Names and shapes of every tensor of an M2-BERT state dict, and which of them are one parameter: no framework.

Axes: d hidden size, e columns of the position embedding, o filter order, L longest sequence, k blocks, v vocabulary.

Source: bert/src/bert_layers.py and bert/src/mm of HazyResearch/m2 at 7d359e8, as `reference_torch` restates them.
"""

from __future__ import annotations

from math import ceil
from typing import Final, Literal

from parity.spec.config import ModelConfig

Shape = tuple[int, ...]
Head = Literal["BertForMaskedLM", "BertForSequenceClassification"]

MASKED_LM: Final[Head] = "BertForMaskedLM"
CLASSIFICATION: Final[Head] = "BertForSequenceClassification"

LAYER: Final = "bert.encoder.layer."
WORDS: Final = "bert.embeddings.word_embeddings.weight"
DECODER: Final = "cls.predictions.decoder.weight"
POSITION_IDS: Final = "bert.embeddings.position_ids"
SIN_PLACES: Final = (1, 3, 5)
"""Places of `Sin` in a filter's network; one object stands at all of them, in both directions."""


def state_shapes(head: Head, config: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every tensor of the state dict by name, aliases and `position_ids` included."""
    layer = _layer(config)
    shapes = _embeddings(config)
    for number in range(config.num_hidden_layers):
        shapes |= {f"{LAYER}{number}.{name}": shape for name, shape in layer.items()}
    return shapes | (_masked_lm(config) if head == MASKED_LM else _classification(config))


def state_ties(head: Head, config: ModelConfig) -> dict[str, str]:
    """Return every alias of a shared parameter, with the first name of that parameter."""
    ties = {DECODER: WORDS} if head == MASKED_LM else {}
    networks = ("implicit_filter", "implicit_filter_rev") if config.bidirectional else ("implicit_filter",)
    filters = ("filter_fn", "filter_fn2") if config.residual_long_conv else ("filter_fn",)
    for number in range(config.num_hidden_layers):
        for name in filters:
            first, *others = (
                f"{LAYER}{number}.attention.{name}.{network}.{place}.freq"
                for network in networks
                for place in SIN_PLACES
            )
            ties |= dict.fromkeys(others, first)
    return ties


def intermediate_sizes(config: ModelConfig, rows: int, columns: int) -> range:
    """Return the intermediate sizes for which block-diagonal linears have these blocks.

    Args:
        config: Its `monarch_mlp_nblocks` k and `use_glu_mlp` count.
        rows: Out-features of a block of `gated_layers`: ceil(I / k), of the gated form ceil(2 I / k).
        columns: In-features of a block of `wo`: ceil(I / k).
    """
    k, factor = config.monarch_mlp_nblocks, 2 if config.use_glu_mlp else 1
    first = max(k * (columns - 1) + 1, k * (rows - 1) // factor + 1)
    return range(first, min(k * columns, k * rows // factor) + 1)


def _embeddings(config: ModelConfig) -> dict[str, Shape]:
    d = config.hidden_size
    shapes: dict[str, Shape] = {WORDS: (config.vocab_size, d)}
    if config.use_positional_encodings:
        shapes[POSITION_IDS] = (1, config.max_position_embeddings)
        shapes["bert.embeddings.position_embeddings.weight"] = (config.max_position_embeddings, d)
    shapes["bert.embeddings.token_type_embeddings.weight"] = (config.type_vocab_size, d)
    return shapes | _norm("bert.embeddings.LayerNorm", d)


def _layer(config: ModelConfig) -> dict[str, Shape]:
    d = config.hidden_size
    shapes = _norm("attention.layernorm", d) if config.hyena_training_additions else {}
    shapes |= _filter("attention.filter_fn", config)
    if config.residual_long_conv:
        shapes |= _filter("attention.filter_fn2", config)
    shapes |= _dense("attention.in_linear", 3 * d, d) | _dense("attention.out_linear", d, d)
    shapes |= {"attention.short_filter.weight": (3 * d, 1, 3), "attention.short_filter.bias": (3 * d,)}
    inner = config.intermediate_size
    shapes["mlp.gated_layers.weight"] = _linear(config, d, 2 * inner if config.use_glu_mlp else inner)
    shapes |= {"mlp.wo.weight": _linear(config, inner, d), "mlp.wo.bias": (d,)}
    return shapes | _norm("mlp.layernorm", d)


def _linear(config: ModelConfig, inputs: int, outputs: int) -> Shape:
    if not config.use_monarch_mlp:
        return (outputs, inputs)
    k = config.monarch_mlp_nblocks
    return (k, ceil(outputs / k), ceil(inputs / k))


def _filter(prefix: str, config: ModelConfig) -> dict[str, Shape]:
    d, e, o, length = config.hidden_size, config.hyena_emb_dim, config.hyena_filter_order, config.long_conv_l_max
    shapes: dict[str, Shape] = {
        f"{prefix}.bias": (d,),
        f"{prefix}.pos_emb.z": (1, length, e),
        f"{prefix}.pos_emb.t": (1, length, 1),
    }
    for network in ("implicit_filter", "implicit_filter_rev") if config.bidirectional else ("implicit_filter",):
        place = f"{prefix}.{network}"
        shapes |= _dense(f"{place}.0", o, e) | _dense(f"{place}.2", o, o) | _dense(f"{place}.4", o, o)
        shapes |= {f"{place}.{number}.freq": (1, o) for number in SIN_PLACES}
        shapes[f"{place}.6.weight"] = (d, o)
    return shapes | {f"{prefix}.modulation.deltas": (1, 1, d)}


def _masked_lm(config: ModelConfig) -> dict[str, Shape]:
    d, v = config.hidden_size, config.vocab_size
    shapes = _dense("cls.predictions.transform.dense", d, d) | _norm("cls.predictions.transform.LayerNorm", d)
    return shapes | {DECODER: (v, d), "cls.predictions.decoder.bias": (v,)}


def _classification(config: ModelConfig) -> dict[str, Shape]:
    d, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, Shape] = {}
    if config.attention_pooling:
        shapes |= _dense("bert.pooler.Wqkv", 3 * d, d)
        shapes |= _dense("bert.pooler.dense1", inner, d) | _dense("bert.pooler.dense2", d, inner)
        shapes |= _dense("bert.pooler.dense3", inner, d) | _dense("bert.pooler.dense4", d, inner)
    return shapes | _dense("bert.pooler.dense", d, d) | _dense("classifier", config.num_labels, d)


def _dense(prefix: str, outputs: int, inputs: int) -> dict[str, Shape]:
    return {f"{prefix}.weight": (outputs, inputs), f"{prefix}.bias": (outputs,)}


def _norm(prefix: str, d: int) -> dict[str, Shape]:
    return {f"{prefix}.weight": (d,), f"{prefix}.bias": (d,)}
