"""The components of M2-BERT at the sizes of its published 80m model, for any length: what `parity bench` times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from parity.pairs import Structure
from parity.suites.m2_bert import PUBLISHED

Sizes = Mapping[str, int]
"""hidden_size, intermediate_size, vocab_size, hyena_filter_order: what does not depend on the length."""

PUBLISHED_SIZES: Final[Sizes] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "vocab_size": 30528,
    "hyena_filter_order": 128,
}
"""Source: the published `m2-bert-80m` (`parity/checkpoint/public.json`)."""

BLOCKS: Final = 4
EMBEDDING: Final = 5


@dataclass(frozen=True)
class Timed:
    """A component as it is timed.

    Args:
        structure: Its structure from sizes and length; one sequence.
        theory: How its steps grow with the length, keys of `parity.bench.growth.STEPS`.
        longest: The length beyond which it is timed on request alone.
        why: Why, where that is not the longest of all.
    """

    structure: Callable[[Sizes, int], Structure]
    theory: tuple[str, ...]
    longest: int = 32768
    why: str = ""


def _model(layers: int = 1, **more: Any) -> Callable[[Sizes, int], Structure]:
    """Structures of a model configuration; a filter as long as the input, as the published long models have."""

    def structure(sizes: Sizes, length: int) -> Structure:
        return {
            "batch": 1,
            "L": length,
            "num_hidden_layers": layers,
            "max_position_embeddings": length,
            "long_conv_l_max": length,
            "hyena_emb_dim": EMBEDDING,
            "monarch_mlp_nblocks": BLOCKS,
            **sizes,
            **PUBLISHED,
            **more,
        }

    return structure


def _blockdiag(sizes: Sizes, length: int) -> Structure:
    features = {"in_features": sizes["hidden_size"], "out_features": sizes["intermediate_size"]}
    return {"batch": 1, "L": length, **features, "nblocks": BLOCKS, "bias": True, "shuffle": False}


def _monarch(sizes: Sizes, length: int) -> Structure:
    """Positions are its rows; q k = l r, all blocks square."""
    block = sizes["hidden_size"] // BLOCKS
    return {"batch": length, "k": BLOCKS, "q": block, "p": block, "l": BLOCKS, "s": block, "r": block}


def _fftconv(sizes: Sizes, length: int) -> Structure:
    return {"batch": 1, "L": length, "d_model": sizes["hidden_size"], "bidirectional": True, "gelu": False}


def _hyena(sizes: Sizes, length: int) -> Structure:
    order = sizes["hyena_filter_order"]
    filters = {"seq_len": length, "order": order, "emb_dim": EMBEDDING, "w": 10, "bidirectional": True}
    return {"batch": 1, "L": length, "d_model": sizes["hidden_size"], **filters}


def _mixer(sizes: Sizes, length: int) -> Structure:
    filters = {"hyena_filter_order": sizes["hyena_filter_order"], "hyena_emb_dim": EMBEDDING, "hyena_w": 10}
    both = {"bidirectional": True, "residual_long_conv": True}
    return {"batch": 1, "L": length, "l_max": length, "d_model": sizes["hidden_size"], **filters, **both}


_LAYERS: Final = "a layer and what stands around it, which are timed alone to 32,768"
_WORDS: Final = "the logits of 30,528 words take 4 GB at 32,768, their gradients several times that"

_BOTH: Final = "a layer and a head with its words, which are timed alone to 32,768 and 4,096"

_LINEAR: Final = ("L",)
_MIXED: Final = ("L", "L log L")
"""Transforms of the whole length, and products position by position."""

TIMED: Final[Mapping[str, Timed]] = {
    "blockdiag_linear": Timed(_blockdiag, _LINEAR),
    "monarch_multiply": Timed(_monarch, _LINEAR),
    "fftconv": Timed(_fftconv, ("L log L",)),
    "hyena_filter": Timed(_hyena, _MIXED),
    "monarch_mixer": Timed(_mixer, _MIXED),
    "mlp": Timed(_model(cls="glu"), _LINEAR),
    "embeddings": Timed(_model(), _LINEAR),
    "layer": Timed(_model(), _MIXED),
    "encoder": Timed(_model(layers=2), _MIXED, 2048, "two layers, and one is timed alone to 32,768"),
    "mlm_head": Timed(_model(), _LINEAR, 4096, _WORDS),
    "pooler": Timed(_model(pool_all=True), _LINEAR),
    "attention_pooler": Timed(_model(), ("L", "L^2"), 4096, "attention takes L^2 steps and L^2 numbers a round"),
    "sequence_classification": Timed(_model(pool_all=True), _MIXED, 2048, _LAYERS),
    "masked_lm": Timed(_model(), _MIXED, 2048, _BOTH),
}
"""By component; whole models have one layer, the encoder two."""

NOT_TIMED: Final[Mapping[str, str]] = {
    "hyena_buffers": "its call returns what was built with the module: nothing is computed",
}
"""The components that are left out, and why."""
