"""Length classes of M2-BERT's accuracy test, by component.

Sizes are such that the main output has some hundred elements: over a few elements the ratio of two equally good errors
is a lottery.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parity.pairs import LengthClass

MODEL: Final[Mapping[str, Any]] = {
    "batch": 2,
    "hidden_size": 24,
    "intermediate_size": 48,
    "hyena_emb_dim": 5,
    "hyena_filter_order": 16,
    "bidirectional": True,
    "residual_long_conv": True,
    "use_glu_mlp": True,
    "use_monarch_mlp": True,
    "monarch_mlp_nblocks": 4,
}
"""The published model's switches at a small size."""

FILTER: Final[Mapping[str, Any]] = {
    "batch": 2,
    "d_model": 8,
    "seq_len": 32,
    "emb_dim": 5,
    "order": 16,
    "w": 10,
    "bidirectional": True,
}
MIXER: Final[Mapping[str, Any]] = {
    "batch": 2,
    "d_model": 16,
    "l_max": 32,
    "bidirectional": True,
    "residual_long_conv": True,
    "hyena_emb_dim": 5,
    "hyena_filter_order": 16,
}
CONVOLUTION: Final[Mapping[str, Any]] = {"batch": 2, "bidirectional": True, "gelu": False}
HEAD: Final[Mapping[str, Any]] = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 40}
SATURATED: Final[Mapping[str, str]] = {"f32/offset": "margin_saturated"}


def _model(length: int, layers: int, longest: int = 16, **more: Any) -> dict[str, Any]:
    return {
        **MODEL,
        "L": length,
        "num_hidden_layers": layers,
        "max_position_embeddings": longest,
        "long_conv_l_max": longest,
        **more,
    }


STRATA: Final[Mapping[str, tuple[LengthClass, ...]]] = {
    "blockdiag_linear": (
        LengthClass(
            "short sums",
            {
                "batch": 4,
                "L": 8,
                "in_features": 32,
                "out_features": 32,
                "nblocks": 4,
                "bias": True,
                "shuffle": False,
            },
        ),
        LengthClass(
            "long sums",
            {
                "batch": 2,
                "L": 4,
                "in_features": 768,
                "out_features": 96,
                "nblocks": 4,
                "bias": True,
                "shuffle": False,
            },
            margins={"f32": "margin_sequential"},
        ),
    ),
    "monarch_multiply": (LengthClass("square", {"batch": 8, "k": 6, "q": 6, "p": 6, "l": 6, "s": 6, "r": 6}),),
    "fftconv": (
        LengthClass("short", {**CONVOLUTION, "d_model": 8, "L": 16}),
        LengthClass("odd", {**CONVOLUTION, "d_model": 6, "L": 33}),
        LengthClass("long", {**CONVOLUTION, "d_model": 4, "L": 256}),
    ),
    "hyena_filter": (
        LengthClass("full", {**FILTER, "L": 32}),
        LengthClass("sliced", {**FILTER, "L": 19}, families=("normal",)),
    ),
    "monarch_mixer": (
        LengthClass("full", {**MIXER, "L": 32}),
        LengthClass("sliced", {**MIXER, "L": 19}, families=("normal",)),
    ),
    "mlp": tuple(
        LengthClass(
            name,
            {
                "batch": 2,
                "L": 8,
                "cls": name,
                "hidden_size": 32,
                "intermediate_size": 64,
                "monarch_mlp_nblocks": 4,
            },
        )
        for name in ("glu", "mlp")
    ),
    "embeddings": (LengthClass("any", {"batch": 2, "L": 16, "vocab_size": 40, "hidden_size": 32}),),
    "layer": (LengthClass("full", _model(16, 1)), LengthClass("sliced", _model(11, 1), families=("normal",))),
    "encoder": (LengthClass("full", _model(16, 2), families=("normal", "offset")),),
    "mlm_head": (LengthClass("any", {**HEAD, "batch": 2, "L": 8}),),
    "pooler": (LengthClass("any", {"batch": 8, "L": 9, "hidden_size": 32, "pool_all": True}, margins=SATURATED),),
    "attention_pooler": (LengthClass("any", {**HEAD, "batch": 8, "L": 9}, margins=SATURATED),),
    "sequence_classification": (LengthClass("full", _model(16, 1, batch=32, vocab_size=40, pool_all=True)),),
    "masked_lm": (LengthClass("full", _model(16, 1, vocab_size=40)),),
}
