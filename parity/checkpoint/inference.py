"""Which model a state dict is of, from names and shapes alone; and what they do not say.

| read                                              | from                                                     |
|---------------------------------------------------|----------------------------------------------------------|
| head                                              | `cls.*` or `classifier.*`                                |
| vocabulary, hidden size, types, positions         | `bert.embeddings.*`                                      |
| layers                                            | the highest number under `bert.encoder.layer`            |
| longest sequence, columns of the embedding        | `filter_fn.pos_emb.z` (1, L, e)                          |
| filter order                                      | `filter_fn.implicit_filter.0.weight` (o, e)              |
| bidirectional, residual                           | presence of `implicit_filter_rev`, `filter_fn2`          |
| LayerNorm before the mixer                        | presence of `attention.layernorm`                        |
| dense or Monarch, blocks                          | axes of `mlp.gated_layers.weight`                        |
| gated, intermediate size                          | `mlp.gated_layers.weight` against `mlp.wo.weight`        |
| labels, attention pooling                         | `classifier.weight`, presence of `bert.pooler.Wqkv`      |

Blocks are padded to whole numbers, so block-diagonal linears of neighbouring intermediate sizes have the same shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from parity.checkpoint.layout import CLASSIFICATION, LAYER, MASKED_LM, WORDS, Head, Shape, intermediate_sizes
from parity.checkpoint.tensors import shown
from parity.errors import CheckpointError
from parity.spec.config import ModelConfig

_Z: Final = "attention.filter_fn.pos_emb.z"
_INNER: Final = "bert.pooler.dense1.weight"

NOT_STORED: Final[Mapping[str, str]] = {
    "hyena_w_mod": "a fixed factor of every sine, stored nowhere; another value is another model",
    "layer_norm_eps": "the epsilon of the embeddings' and the MLPs' LayerNorm, stored nowhere",
    "hyena_w": "only where the frequencies started: the stored ones are used",
    "hidden_act": "exact GELU, stored nowhere",
    "pad_token_id": "which word is padding, stored nowhere",
}
CLASSIFIER_NOT_STORED: Final[Mapping[str, str]] = {
    "pool_all": "whether the pooler takes the mean of all positions instead of the first token",
    "use_cls_token": "whether the classifier takes the first token's hidden state instead of the pooler's",
    "use_normalized_embeddings": "whether sentence embeddings have unit length",
}
MAX_LAYERS: Final = 1000
"""Layers of a model: names of a file that numbers them higher would fill memory."""


Origin = Literal["default", "given", "noted"]
"""Nobody; the user; a file: a published configuration, or what a conversion noted beside its output."""


@dataclass(frozen=True)
class Assumed:
    """A value that no name or shape tells: what it is taken as, why that may matter, and who says so."""

    key: str
    value: Any
    reason: str
    origin: Origin = "default"


@dataclass(frozen=True)
class Inferred:
    """What a state dict says about its model.

    Attributes:
        head: The model's class.
        config: Sizes and switches; what is not read has its default, or what the user said.
        read: The keys that were read, each with the tensor that told it.
        assumed: The keys that were not.
    """

    head: Head
    config: ModelConfig
    read: Mapping[str, str]
    assumed: tuple[Assumed, ...]


def infer(
    shapes: Mapping[str, Shape],
    overrides: Mapping[str, Any] | None = None,
    noted: Mapping[str, Any] | None = None,
) -> Inferred:
    """Infer head and configuration.

    Args:
        shapes: The tensors of a state dict, by the checkpoint's names; a missing alias or layer does no harm here.
        overrides: Values for what cannot be read; a value that contradicts what was read raises.
        noted: Values of a configuration file; used for what cannot be read and is not overridden.

    Raises:
        CheckpointError: No M2-BERT has these names, or a value contradicts them.
        ConfigError: A key is unknown, or a value is not allowed.
    """
    reader = _Reader(shapes)
    head = reader.head()
    reader.embeddings()
    reader.layers()
    sizes = reader.state_mixing()
    if head == CLASSIFICATION:
        reader.take("num_labels", "classifier.weight", 2, 0)
        reader.put("attention_pooling", "bert.pooler.Wqkv.weight" in shapes, "bert.pooler.Wqkv.weight")
    reasons = {**NOT_STORED, **(CLASSIFIER_NOT_STORED if head == CLASSIFICATION else {})}
    if not reader.values["use_positional_encodings"]:
        reasons["max_position_embeddings"] = "there are no position embeddings, so nothing depends on it"
        reader.defaults["max_position_embeddings"] = reader.values["long_conv_l_max"]
    if not reader.values["use_monarch_mlp"]:
        reasons["monarch_mlp_nblocks"] = "there are no blocks, so nothing depends on it"
    if "intermediate_size" not in reader.values:
        reasons["intermediate_size"] = (
            f"blocks are padded to whole numbers: {sizes[0]} to {sizes[-1]} have these very shapes"
        )
        usual = 4 * reader.values["hidden_size"]
        reader.defaults["intermediate_size"] = usual if usual in sizes else sizes[-1]
    given = dict(overrides or {})
    remembered = {key: value for key, value in (noted or {}).items() if key in reasons and key not in given}
    _require_within({**remembered, **given}, reader, sizes)
    config = ModelConfig.parse(
        {**reader.defaults, **remembered, **given, **reader.values}, "configuration of the checkpoint"
    )
    origins: dict[str, Origin] = {**dict.fromkeys(remembered, "noted"), **dict.fromkeys(given, "given")}
    assumed = tuple(
        Assumed(key, getattr(config, key), reason, origins.get(key, "default")) for key, reason in reasons.items()
    )
    return Inferred(head, config, reader.sources, assumed)


def _require_within(said: Mapping[str, Any], reader: _Reader, sizes: range) -> None:
    for key, value in said.items():
        if key in reader.values and reader.values[key] != value:
            raise CheckpointError(
                f"{key} = {value!r} contradicts {reader.sources[key]}, which says {reader.values[key]!r}"
            )
    chosen = said.get("intermediate_size", sizes[-1])
    if chosen not in sizes:
        raise CheckpointError(
            f"intermediate_size = {chosen!r} contradicts the shapes of mlp, which allow {sizes[0]} to {sizes[-1]}"
        )


@dataclass
class _Reader:
    """Values read so far, and the tensor that told each."""

    shapes: Mapping[str, Shape]
    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)

    def put(self, key: str, value: Any, source: str) -> None:
        self.values[key] = value
        self.sources[key] = source

    def take(self, key: str, name: str, rank: int, axis: int) -> None:
        self.put(key, self.shape(name, rank)[axis], name)

    def shape(self, name: str, *ranks: int) -> Shape:
        """Return the shape of a tensor without which no model can be told.

        Raises:
            CheckpointError: It is missing or has another number of axes.
        """
        found = self.shapes.get(name)
        if found is None:
            there = ", ".join(shown(other) for other in list(self.shapes)[:3])
            raise CheckpointError(
                f"is no M2-BERT: {name} is missing; it has {len(self.shapes)} tensors, the first: {there}"
            )
        if len(found) not in ranks or 0 in found:
            raise CheckpointError(
                f"is no M2-BERT: {name} has shape {found}; {' or '.join(map(str, ranks))} axes, none empty"
            )
        return found

    def head(self) -> Head:
        heads: list[Head] = []
        if any(name.startswith("cls.") for name in self.shapes):
            heads.append(MASKED_LM)
        if any(name.startswith("classifier.") for name in self.shapes):
            heads.append(CLASSIFICATION)
        if len(heads) != 1:
            which = "both heads" if heads else "no head"
            there = ", ".join(shown(other) for other in list(self.shapes)[:3])
            raise CheckpointError(
                f"has {which}: a masked-language model has cls.*, a classifier or retrieval model classifier.*, and "
                f"each only its own; it has {len(self.shapes)} tensors, the first: {there}"
            )
        return heads[0]

    def embeddings(self) -> None:
        self.take("vocab_size", WORDS, 2, 0)
        self.take("hidden_size", WORDS, 2, 1)
        self.take("type_vocab_size", "bert.embeddings.token_type_embeddings.weight", 2, 0)
        positions = "bert.embeddings.position_embeddings.weight"
        self.put("use_positional_encodings", positions in self.shapes, positions)
        if positions in self.shapes:
            self.take("max_position_embeddings", positions, 2, 0)

    def layers(self) -> None:
        numbers = [found[1] for name in self.shapes if (found := re.match(rf"{re.escape(LAYER)}([0-9]+)\.", name))]
        longest = max(numbers, key=len, default="")
        if len(longest) > len(str(MAX_LAYERS)) or any(int(number) >= MAX_LAYERS for number in numbers):
            raise CheckpointError(f"numbers its layers up to {shown(longest)}; {MAX_LAYERS} are allowed")
        self.put("num_hidden_layers", max(map(int, numbers), default=-1) + 1, f"{LAYER}*")
        z = self.any_layer(_Z)
        self.take("long_conv_l_max", z, 3, 1)
        self.take("hyena_emb_dim", z, 3, 2)
        self.take("hyena_filter_order", self.any_layer("attention.filter_fn.implicit_filter.0.weight"), 2, 0)
        for key, inner in (
            ("bidirectional", "attention.filter_fn.implicit_filter_rev."),
            ("residual_long_conv", "attention.filter_fn2."),
            ("hyena_training_additions", "attention.layernorm."),
        ):
            there = any(re.match(rf"{re.escape(LAYER)}\d+\.{re.escape(inner)}", name) for name in self.shapes)
            self.put(key, there, f"{LAYER}*.{inner}*")

    def any_layer(self, inner: str) -> str:
        """Return the first layer's tensor `inner`, or that of the first layer which has it."""
        names = (f"{LAYER}{number}.{inner}" for number in range(self.values["num_hidden_layers"]))
        return next((name for name in names if name in self.shapes), f"{LAYER}0.{inner}")

    def state_mixing(self) -> range:
        """Read what the MLP tells; returns the intermediate sizes that it may have."""
        gated, wo = self.any_layer("mlp.gated_layers.weight"), self.any_layer("mlp.wo.weight")
        rows, columns = self.shape(gated, 2, 3)[-2], self.shape(wo, 2, 3)[-1]
        monarch = len(self.shapes[gated]) == 3
        self.put("use_monarch_mlp", monarch, gated)
        # A block of the gated form has twice as many rows, less one where the last row is padding.
        self.put("use_glu_mlp", rows > columns, gated)
        if not monarch:
            self.put("intermediate_size", columns, wo)
            return range(columns, columns + 1)
        self.put("monarch_mlp_nblocks", self.shapes[gated][0], gated)
        known = ModelConfig.model_construct(
            monarch_mlp_nblocks=self.shapes[gated][0], use_glu_mlp=self.values["use_glu_mlp"]
        )
        sizes = intermediate_sizes(known, rows, columns)
        if not sizes:
            raise CheckpointError(
                f"is no M2-BERT: no intermediate size has {rows} rows a block in {gated} and {columns} columns in {wo}"
            )
        if _INNER in self.shapes:
            self.put("intermediate_size", self.shape(_INNER, 2)[0], _INNER)
        elif len(sizes) == 1:
            self.put("intermediate_size", sizes[0], wo)
        return sizes
