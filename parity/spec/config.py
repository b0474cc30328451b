"""Configuration of an M2-BERT model: which sizes and switches the components are built with.

The names are those of the published configurations. Keys that only training reads are accepted and listed in
`TRAINING_ONLY`; keys whose behaviour neither implementation has are accepted at their neutral value alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from parity.errors import ConfigError

TRAINING_ONLY: Final = frozenset(
    {
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        "hyena_filter_dropout",
        "hyena_lr_pos_emb",
        "hyena_wd",
        "long_conv_kernel_learning_rate",
        "num_attention_heads",
    }
)

OUTPUT_ONLY: Final = frozenset({"gather_sentence_embeddings"})
"""Keys by which the original chooses what to return; both implementations return all of it, under its names."""


class ModelConfig(BaseModel):
    """Sizes and switches of one model; frozen, and an unknown key raises.

    Switches: `bidirectional` adds the reverse filter, `residual_long_conv` the second long convolution,
    `hyena_training_additions` a LayerNorm before the mixer, `use_glu_mlp` the gated MLP, `use_monarch_mlp` its
    block-diagonal linears, `use_positional_encodings` the position table, `pool_all` mean pooling,
    `attention_pooling` the attention pooler, `use_cls_token` classification from the first token's hidden state,
    `use_normalized_embeddings` sentence embeddings of unit length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    vocab_size: int = Field(default=30528, ge=1)
    type_vocab_size: int = Field(default=2, ge=1)
    pad_token_id: int = 0
    max_position_embeddings: int = Field(default=128, ge=1)
    hidden_size: int = Field(default=768, ge=1)
    intermediate_size: int = Field(default=3072, ge=1)
    num_hidden_layers: int = Field(default=12, ge=0)
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: float = Field(default=1e-12, gt=0.0, lt=1.0)
    num_labels: int = Field(default=3, ge=1)

    monarch_mixer_sequence_mixing: Literal[True] = True
    long_conv_l_max: int = Field(default=128, ge=1)
    hyena_w: float = 10
    hyena_w_mod: float = 1
    hyena_emb_dim: int = Field(default=5, ge=3)
    hyena_filter_order: int = Field(default=128, ge=1)
    bidirectional: bool = True
    residual_long_conv: bool = True
    hyena_training_additions: bool = False

    use_glu_mlp: bool = True
    use_monarch_mlp: bool = True
    monarch_mlp_nblocks: int = Field(default=4, ge=1)
    use_positional_encodings: bool = True

    pool_all: bool = False
    attention_pooling: bool = False
    use_cls_token: bool = False
    use_normalized_embeddings: bool = False
    gather_sentence_embeddings: bool = False

    sequence_token_planting: Literal[False] = False
    expand_positional_embeddings: Literal[False] = False

    num_attention_heads: int = 12
    attention_probs_dropout_prob: float = 0.0
    hidden_dropout_prob: float = 0.1
    hyena_filter_dropout: float = 0.2
    hyena_lr_pos_emb: float = 1e-5
    hyena_wd: float = 0.1
    long_conv_kernel_learning_rate: float | None = None

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.hyena_emb_dim % 2 == 0:
            raise ValueError(f"hyena_emb_dim must be odd (time, cosines, sines); got {self.hyena_emb_dim}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id must lie in [0, {self.vocab_size}); got {self.pad_token_id}")
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any], source: str = "configuration") -> ModelConfig:
        """Validate `data`.

        Raises:
            ConfigError: A key is unknown, or a value is not allowed.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            problems = "; ".join(_explain(problem) for problem in error.errors())
            raise ConfigError(f"{source}: {problems}") from None


def _explain(problem: Any) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; allowed: {', '.join(ModelConfig.model_fields)}"
    if not key:
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"{key} = {problem['input']!r} is not allowed: {problem['msg'].lower()}"
