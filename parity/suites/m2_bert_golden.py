"""How a golden file of the original code maps onto a pair: its configuration, its inputs, its names of outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from parity.errors import GoldenError
from parity.pairs import Pair, Structure
from parity.spec.arrays import Arrays
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile
from parity.suites import m2_bert as suite

Config = Mapping[str, Any]

FILTER_TRAINING: Final = frozenset({"lr", "lr_pos_emb", "dropout", "wd", "modulation_lr"})
MIXER_TRAINING: Final = frozenset(
    {"dropout", "hyena_kernel_lr", "hyena_lr_pos_emb", "hyena_wd", "hyena_filter_dropout"}
)


@dataclass(frozen=True)
class GoldenComponent:
    """One component of the golden files.

    Args:
        pair: The pair that computes it.
        structure: Builds the pair's structure from the file's configuration and parameters.
        allowed: Keys that the configuration may have; any other is an error.
        profile: The meaning under which the original was run.
        outputs: (pattern, replacement) from the file's name of an output to a name of the trace.
    """

    pair: Pair
    structure: Callable[[Config, Arrays], Structure]
    allowed: frozenset[str]
    profile: HyperProfile = CANONICAL
    outputs: tuple[tuple[str, str], ...] = field(default=())

    def trace_name(self, output: str) -> str:
        """Return the name in the trace of the output that the file calls `output`."""
        for pattern, replacement in self.outputs:
            if re.fullmatch(pattern, output):
                return re.sub(pattern, replacement, output)
        return output

    def build_structure(self, config: Config, parameters: Arrays) -> Structure:
        """Return the structure of a file.

        Raises:
            GoldenError: The configuration has a key that nothing reads.
            ConfigError: A value is not allowed.
        """
        unknown = sorted(config.keys() - self.allowed)
        if unknown:
            raise GoldenError(
                f"unknown key {', '.join(map(repr, unknown))} in config; allowed: {', '.join(sorted(self.allowed))}"
            )
        return self.structure(config, parameters)


def _as_is(config: Config, parameters: Arrays) -> Structure:  # noqa: ARG001
    return dict(config)


def _fftconv(config: Config, parameters: Arrays) -> Structure:
    d_model, taps = parameters["k"].shape
    return {"d_model": d_model, "L": taps, "bidirectional": config["k_rev"], "gelu": config["gelu"]}


def _buffers(config: Config, parameters: Arrays) -> Structure:  # noqa: ARG001
    return {**config, "order": 1}


MODEL_KEYS: Final = frozenset(ModelConfig.model_fields)
FILTER_KEYS: Final = frozenset(suite.HYENA_OPTIONS) | FILTER_TRAINING

GOLDEN_COMPONENTS: Final[Mapping[str, GoldenComponent]] = {
    "blockdiag_linear": GoldenComponent(
        suite.BLOCKDIAG_LINEAR,
        _as_is,
        frozenset({"in_features", "out_features", "nblocks", "bias", "shuffle"}),
    ),
    "monarch_multiply": GoldenComponent(suite.MONARCH_MULTIPLY, _as_is, frozenset("kqplsr")),
    "fftconv": GoldenComponent(
        suite.FFTCONV,
        _fftconv,
        frozenset({"gelu", "k_rev", "seqlen"}),
        profile=CANONICAL.replace(name="canonical-freq", bidir_space="freq"),
    ),
    "hyena_buffers": GoldenComponent(suite.HYENA_BUFFERS, _buffers, FILTER_KEYS),
    "hyena_filter": GoldenComponent(suite.HYENA_FILTER, _as_is, FILTER_KEYS | {"L"}),
    "monarch_mixer": GoldenComponent(
        suite.MONARCH_MIXER, _as_is, frozenset(suite.MIXER_OPTIONS) | MIXER_TRAINING | {"L"}
    ),
    "mlp": GoldenComponent(suite.MLP, _as_is, MODEL_KEYS | {"cls"}),
    "layer": GoldenComponent(suite.LAYER, _as_is, MODEL_KEYS),
    "masked_lm": GoldenComponent(
        suite.MASKED_LM,
        _as_is,
        MODEL_KEYS,
        outputs=((r"embeddings", r"bert.embeddings"), (r"hidden\.(\d+)", r"bert.encoder.layer.\1")),
    ),
    "sequence_classification": GoldenComponent(suite.SEQUENCE_CLASSIFICATION, _as_is, MODEL_KEYS),
    "attention_pooler": GoldenComponent(suite.ATTENTION_POOLER, _as_is, MODEL_KEYS),
}
"""Every component that a golden file may name."""


def golden_component(name: str) -> GoldenComponent:
    """Return the component called `name`.

    Raises:
        GoldenError: No component has that name.
    """
    if name not in GOLDEN_COMPONENTS:
        raise GoldenError(f"unknown component {name!r}; allowed: {', '.join(GOLDEN_COMPONENTS)}")
    return GOLDEN_COMPONENTS[name]
