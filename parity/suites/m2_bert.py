"""The pairs of M2-BERT: every component of the specification, reference and port side by side.

To add a component: one file on either side, one `Pair` here; `CONTRIBUTING.md` walks through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import hypothesis.strategies as st
import numpy as np
from einops import rearrange

from parity.errors import ConfigError
from parity.pairs import InputSpec, Pair, ParameterRule, Structure
from parity.spec.arrays import Array, Arrays
from parity.spec.config import ModelConfig
from parity.spec.profile import HyperProfile
from parity.suites.m2_bert_strata import STRATA
from parity.tolerance import Scale, fftconv_scale, grid_scale, matmul_scale, positions_scale

SHAPE_KEYS: Final = frozenset({"batch", "L", "cls"})
"""Keys of a structure that size the inputs or choose a class; the others configure the module."""

SMALL_MODEL: Final[Mapping[str, Any]] = {
    "vocab_size": 24,
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "max_position_embeddings": 16,
    "long_conv_l_max": 16,
    "hyena_filter_order": 8,
}
"""What a structure leaves open: small enough for thousands of cases."""


def model_config(structure: Structure) -> ModelConfig:
    """Return the model configuration of a structure, `SMALL_MODEL` filling what it leaves open."""
    options = {key: value for key, value in structure.items() if key not in SHAPE_KEYS}
    return ModelConfig.parse({**SMALL_MODEL, **options}, source="structure")


def _options(structure: Structure, *names: str) -> dict[str, Any]:
    return {name: structure[name] for name in names if name in structure}


def _jitter(relative: float) -> ParameterRule:
    def rule(fresh: Array, rng: np.random.Generator) -> Array:
        return fresh * (1 + relative * rng.standard_normal(fresh.shape))

    return rule


def _normal(spread: float, mean: float = 0.0) -> ParameterRule:
    def rule(fresh: Array, rng: np.random.Generator) -> Array:
        return mean + spread * rng.standard_normal(fresh.shape)

    return rule


def _keep(fresh: Array, rng: np.random.Generator) -> Array:  # noqa: ARG001
    return fresh


def _trained_positions(fresh: Array, rng: np.random.Generator) -> Array:
    return fresh + 0.05 * rng.standard_normal(fresh.shape)


PARAMETERS: Final[tuple[tuple[str, ParameterRule], ...]] = (
    (r"(LayerNorm|layernorm)\.weight$", _normal(0.2, mean=1.0)),
    (r"\.freq$", _jitter(0.1)),
    (r"pos_emb\.t$", _keep),
    (r"pos_emb\.z$", _trained_positions),
    (r"deltas$", _jitter(0.1)),
    (r"filter_fn2?\.bias$|^bias$|^D$|^k$|^k_rev$", _normal(1.0)),
)
"""Nothing hides behind its initial value: frequencies off w, norms off 1, position tables as if trained."""

MODEL_KEYS: Final = frozenset(ModelConfig.model_fields) | {"batch", "L"}
"""Keys of the structures that are model configurations."""

NORM: Final = frozenset({"layer_norm_eps"})
ACTIVATION: Final = frozenset({"gelu_mode"})
BOTH_WAYS: Final = frozenset({"bidir_space", "bidir_combine"})
"""Knobs of the profile that a LayerNorm, a GELU, and a convolution with a reverse kernel read."""

Builder = Callable[[Structure, HyperProfile, Any, Mapping[str, Any]], Any]


def _reference() -> Any:
    """The reference's package: imported on use, since the port can be replayed where there is no torch."""
    import reference_torch

    return reference_torch


def _port() -> Any:
    """The port's package with its table of weights: imported on use, for the same reason."""
    import mlx_impl
    import mlx_impl.weights

    return mlx_impl


def _load(module: Any, state: Mapping[str, Any]) -> Any:
    return _port().weights.load(module, state)


def _to_state(module: Any, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    state: Mapping[str, Any] = _port().weights.to_state(module, arrays)
    return state


def _checkpoint_name(name: str) -> str:
    return str(_port().weights.checkpoint_name(name))


def _pair(
    name: str,
    build: Builder,
    call: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    keys: frozenset[str] = MODEL_KEYS,
    **fields: Any,
) -> Pair:
    """Complete a pair: `build(structure, profile, library, extra)` serves both sides, since they mirror each other."""
    return Pair(
        name=name,
        keys=keys,
        reference=lambda structure, profile: build(structure, profile, _reference(), {}),
        port=lambda structure, profile, ops: build(structure, profile, _port(), {"ops": ops}),
        call=call,
        transfer=_load,
        to_state=_to_state,
        tap_name=_checkpoint_name,
        parameters=PARAMETERS,
        strata=STRATA.get(name, ()),
        **fields,
    )


def _call_x(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


def _reads_nothing(_structure: Structure) -> frozenset[str]:
    return frozenset()


def _reads_if_bidirectional(structure: Structure) -> frozenset[str]:
    return BOTH_WAYS if structure.get("bidirectional") else frozenset()


def _features(structure: Structure) -> dict[str, InputSpec]:
    return {"x": InputSpec((structure["batch"], structure["L"], structure["in_features"]), positions=1)}


def _hidden_states(structure: Structure) -> dict[str, InputSpec]:
    return {"x": InputSpec((structure["batch"], structure["L"], model_config(structure).hidden_size), positions=1)}


def _channels(structure: Structure) -> dict[str, InputSpec]:
    return {"x": InputSpec((structure["batch"], structure["d_model"], structure["L"]), positions=2)}


# Hidden sizes begin at 3: a LayerNorm of two channels gives +-1 whatever its input, a sign and no measure of error.
BATCHES = st.integers(1, 3)
EPSILONS = st.sampled_from((1e-12, 1e-5))
LENGTHS = st.sampled_from((1, 2, 3, 5, 8, 11, 13, 16))


# Block-diagonal linear -----------------------------------------------------------------------------------------


BLOCKDIAG_OPTIONS: Final = ("in_features", "out_features", "nblocks", "bias", "shuffle")


def _build_blockdiag(structure: Structure, _profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
    return library.BlockdiagLinear(**_options(structure, *BLOCKDIAG_OPTIONS), **extra)


def _blockdiag_scales(structure: Structure, _profile: HyperProfile, state: Arrays, inputs: Arrays) -> dict[str, Scale]:
    x, weight = inputs["x"], state["weight"]
    k, _, p = weight.shape
    x = np.pad(x, [(0, 0), (0, 0), (0, k * p - x.shape[-1])])
    if structure["shuffle"]:
        x = rearrange(x, "... (g c) -> ... (c g)", g=k)
    blocks = rearrange(x, "... (k p) -> ... k p", k=k)
    scale, product = matmul_scale(blocks, weight), np.abs(np.einsum("...kp,kqp->...kq", blocks, weight))
    rms, largest, product = (
        rearrange(a, "... k q -> ... (k q)")[..., : structure["out_features"]]
        for a in (scale.rms, scale.maximum, product)
    )
    bias = np.abs(state["bias"]) if structure["bias"] else 0.0
    return {"y": Scale(rms + bias, largest + bias, passing=product)}


BLOCKDIAG_LINEAR = _pair(
    "blockdiag_linear",
    _build_blockdiag,
    _call_x,
    keys=frozenset({"batch", "L", *BLOCKDIAG_OPTIONS}),
    structures=st.fixed_dictionaries(
        {
            "batch": BATCHES,
            "L": st.integers(1, 5),
            "in_features": st.integers(1, 40),
            "out_features": st.integers(1, 40),
            "nblocks": st.sampled_from((1, 2, 3, 4, 5)),
            "bias": st.booleans(),
            "shuffle": st.booleans(),
        }
    ),
    corpus=(
        {
            "batch": 2,
            "L": 3,
            "in_features": 16,
            "out_features": 16,
            "nblocks": 4,
            "bias": True,
            "shuffle": False,
        },
        {
            "batch": 2,
            "L": 3,
            "in_features": 16,
            "out_features": 16,
            "nblocks": 4,
            "bias": False,
            "shuffle": True,
        },
        {
            "batch": 1,
            "L": 2,
            "in_features": 10,
            "out_features": 14,
            "nblocks": 3,
            "bias": True,
            "shuffle": True,
        },
        {
            "batch": 1,
            "L": 1,
            "in_features": 3,
            "out_features": 2,
            "nblocks": 4,
            "bias": True,
            "shuffle": False,
        },
        {
            "batch": 2,
            "L": 2,
            "in_features": 768,
            "out_features": 96,
            "nblocks": 4,
            "bias": True,
            "shuffle": False,
        },
    ),
    inputs=_features,
    scales=_blockdiag_scales,
    reads=_reads_nothing,
)

# Monarch multiply ----------------------------------------------------------------------------------------------


MONARCH_OPTIONS: Final = ("k", "q", "p", "l", "s", "r")


def _build_monarch(structure: Structure, _profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
    return library.MonarchMultiply(**_options(structure, *MONARCH_OPTIONS), **extra)


def _monarch_scales(structure: Structure, _profile: HyperProfile, state: Arrays, inputs: Arrays) -> dict[str, Scale]:
    """Errors of the first product, carried through the magnitudes of the second, beside the second's own."""
    blocks = rearrange(inputs["x"], "b (k p) -> b k p", k=structure["k"])
    first = matmul_scale(blocks, state["w1"])
    o1, rms1, largest1 = (
        rearrange(a, "b k q -> b (k q)").reshape(len(blocks), structure["r"], structure["l"]).swapaxes(1, 2)
        for a in (np.einsum("bkp,kqp->bkq", blocks, state["w1"]), first.rms, first.maximum)
    )
    second = matmul_scale(o1, state["w2"])
    rms = second.rms + np.sqrt(np.einsum("blr,lsr->bls", rms1**2, state["w2"] ** 2))
    largest = second.maximum + np.einsum("blr,lsr->bls", largest1, np.abs(state["w2"]))
    passing = np.einsum("blr,lsr->bls", np.abs(o1), np.abs(state["w2"]))
    flat = (rearrange(a, "b l s -> b (s l)") for a in (rms, largest, passing))
    return {"y": Scale(next(flat), next(flat), passing=next(flat))}


@st.composite
def _monarch_structures(draw: st.DrawFn) -> dict[str, Any]:
    l, r, k_times = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    k = next(k for k in range(k_times + 1, 0, -1) if (l * r) % k == 0)
    sizes = {
        "k": k,
        "q": l * r // k,
        "p": draw(st.integers(1, 6)),
        "l": l,
        "s": draw(st.integers(1, 6)),
        "r": r,
    }
    return {"batch": draw(st.integers(1, 4)), **sizes}


MONARCH_MULTIPLY = _pair(
    "monarch_multiply",
    _build_monarch,
    _call_x,
    keys=frozenset({"batch", *MONARCH_OPTIONS}),
    structures=_monarch_structures(),
    corpus=(
        {"batch": 3, "k": 4, "q": 4, "p": 4, "l": 4, "s": 4, "r": 4},
        {"batch": 2, "k": 4, "q": 3, "p": 6, "l": 6, "s": 5, "r": 2},
        {"batch": 1, "k": 1, "q": 1, "p": 1, "l": 1, "s": 1, "r": 1},
        {"batch": 2, "k": 2, "q": 6, "p": 5, "l": 3, "s": 5, "r": 4},
    ),
    inputs=lambda structure: {"x": InputSpec((structure["batch"], structure["k"] * structure["p"]))},
    scales=_monarch_scales,
    reads=_reads_nothing,
)

# FFT convolution -----------------------------------------------------------------------------------------------


FFTCONV_OPTIONS: Final = ("d_model", "bidirectional", "gelu")


def _build_fftconv(structure: Structure, profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
    options = _options(structure, *FFTCONV_OPTIONS)
    return library.FFTConv(seq_len=structure["L"], profile=profile, **options, **extra)


def _fftconv_reads(structure: Structure) -> frozenset[str]:
    return _reads_if_bidirectional(structure) | (ACTIVATION if structure["gelu"] else frozenset())


def _fftconv_scales(structure: Structure, profile: HyperProfile, state: Arrays, inputs: Arrays) -> dict[str, Scale]:
    """The convolution's own model, with the skip term's two roundings; none where a GELU follows."""
    if structure["gelu"]:
        return {}
    u, k = inputs["u"], state["k"]
    kernel = np.pad(k, [(0, 0), (0, k.shape[-1])])
    if structure["bidirectional"]:
        reverse = np.roll(
            np.pad(state["k_rev"], [(0, 0), (0, k.shape[-1])])[:, ::-1],
            int(profile.bidir_space == "freq"),
            -1,
        )
        kernel = (kernel + reverse) * (0.5 if profile.bidir_combine == "avg" else 1.0)
    scale = fftconv_scale(u, kernel)
    skip = 2 * np.abs(u * state["D"][:, None])
    return {"y": Scale(scale.rms + np.sqrt(np.mean(skip**2, -1, keepdims=True)), scale.maximum + skip, (-1,))}


FFTCONV = _pair(
    "fftconv",
    _build_fftconv,
    lambda module, inputs: {"y": module(inputs["u"])},
    keys=frozenset({"batch", "L", *FFTCONV_OPTIONS}),
    structures=st.fixed_dictionaries(
        {
            "batch": BATCHES,
            "d_model": st.integers(1, 4),
            "L": st.sampled_from((1, 2, 3, 5, 8, 16, 17, 32, 33, 49, 64)),
            "bidirectional": st.booleans(),
            "gelu": st.booleans(),
        }
    ),
    corpus=tuple(
        {"batch": 2, "d_model": 3, "L": length, "bidirectional": index % 2 == 0, "gelu": index % 3 == 2}
        for index, length in enumerate((32, 1, 2, 3, 127, 8, 33, 100, 256))
    ),
    inputs=lambda structure: {"u": InputSpec((structure["batch"], structure["d_model"], structure["L"]), positions=2)},
    scales=_fftconv_scales,
    reads=_fftconv_reads,
)

# Hyena filter --------------------------------------------------------------------------------------------------

HYENA_OPTIONS = [
    "d_model",
    "emb_dim",
    "order",
    "seq_len",
    "w",
    "w_mod",
    "bias",
    "num_inner_mlps",
    "linear_mixer",
    "modulate",
    "normalized",
    "bidirectional",
    "fast_decay_pct",
    "slow_decay_pct",
    "target",
    "shift",
]


def _build_hyena(structure: Structure, profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
    return library.HyenaFilter(**_options(structure, *HYENA_OPTIONS), profile=profile, **extra)


def _call_hyena(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    length = inputs["x"].shape[-1]
    reverse = {"filter_rev": module.filter_rev(length)} if module.bidirectional else {}
    return {"filter": module.filter(length), **reverse, "y": module(inputs["x"])}


@st.composite
def _hyena_structures(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(LENGTHS)
    linear = draw(st.sampled_from((False, False, False, True)))
    return {
        "batch": draw(BATCHES),
        "d_model": draw(st.integers(2, 6)),
        "L": length,
        "seq_len": length + draw(st.sampled_from((0, 0, 1, 5, 16))),
        "emb_dim": draw(st.sampled_from((3, 5, 7, 9))),
        "order": draw(st.integers(2, 12)),
        "w": draw(st.sampled_from((1, 10))),
        "w_mod": draw(st.sampled_from((1, 2))),
        "num_inner_mlps": draw(st.sampled_from((0, 1, 2, 3))),
        "linear_mixer": linear,
        "bidirectional": draw(st.booleans()),
        "modulate": draw(st.sampled_from((True, True, False))),
        "normalized": draw(st.sampled_from((False, False, True))),
        "bias": draw(st.sampled_from((True, True, False))),
        "shift": draw(st.sampled_from((0.0, 0.0, 0.25))),
    }


HYENA_FILTER = _pair(
    "hyena_filter",
    _build_hyena,
    _call_hyena,
    keys=frozenset({"batch", "L", *HYENA_OPTIONS}),
    structures=_hyena_structures(),
    corpus=(
        {
            "batch": 2,
            "d_model": 6,
            "L": 32,
            "seq_len": 32,
            "emb_dim": 5,
            "order": 12,
            "w": 10,
            "bidirectional": True,
        },
        {
            "batch": 2,
            "d_model": 6,
            "L": 19,
            "seq_len": 32,
            "emb_dim": 7,
            "order": 12,
            "w": 10,
            "bidirectional": True,
        },
        {
            "batch": 1,
            "d_model": 4,
            "L": 1,
            "seq_len": 16,
            "emb_dim": 5,
            "order": 8,
            "w": 10,
            "bidirectional": True,
        },
        {
            "batch": 1,
            "d_model": 5,
            "L": 13,
            "seq_len": 13,
            "emb_dim": 9,
            "order": 8,
            "w": 1,
            "bidirectional": False,
        },
        {
            "batch": 1,
            "d_model": 4,
            "L": 9,
            "seq_len": 16,
            "emb_dim": 5,
            "order": 8,
            "linear_mixer": True,
            "bidirectional": True,
        },
        {
            "batch": 2,
            "d_model": 5,
            "L": 7,
            "seq_len": 9,
            "emb_dim": 5,
            "order": 6,
            "w": 10,
            "w_mod": 2,
            "shift": 0.25,
            "bidirectional": False,
        },
        {
            "batch": 1,
            "d_model": 5,
            "L": 8,
            "seq_len": 8,
            "emb_dim": 7,
            "order": 6,
            "w": 1,
            "normalized": True,
            "bidirectional": True,
        },
        {
            "batch": 1,
            "d_model": 4,
            "L": 6,
            "seq_len": 6,
            "emb_dim": 5,
            "order": 4,
            "w": 10,
            "num_inner_mlps": 1,
            "bias": False,
            "bidirectional": False,
        },
        {
            "batch": 1,
            "d_model": 4,
            "L": 5,
            "seq_len": 8,
            "emb_dim": 3,
            "order": 4,
            "w": 1,
            "modulate": False,
            "bidirectional": True,
        },
    ),
    inputs=_channels,
    reads=_reads_if_bidirectional,
)


def _call_buffers(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    network = module.implicit_filter
    act = network.layers[1] if hasattr(network, "layers") else network[1]
    return {"t": module.pos_emb.t, "deltas": module.modulation.deltas, "freq": act.freq, "z": module.pos_emb.z}


def _buffer_scales(structure: Structure, _profile: HyperProfile, state: Arrays, _inputs: Arrays) -> dict[str, Scale]:
    return {
        "t": grid_scale(state["pos_emb.t"]),
        "deltas": grid_scale(state["modulation.deltas"]),
        "freq": grid_scale(state["implicit_filter.1.freq"]),
        "z": positions_scale((structure["emb_dim"] - 1) // 2),
    }


HYENA_BUFFERS = _pair(
    "hyena_buffers",
    _build_hyena,
    _call_buffers,
    keys=frozenset(HYENA_OPTIONS),
    structures=st.fixed_dictionaries(
        {
            "d_model": st.integers(1, 9),
            "emb_dim": st.sampled_from((3, 5, 7, 9)),
            "seq_len": st.sampled_from((1, 2, 3, 7, 16, 21, 127, 128)),
            "order": st.just(2),
            "w": st.sampled_from((1, 10, 14)),
            "target": st.sampled_from((0.01, 0.1)),
            "fast_decay_pct": st.sampled_from((0.3, 0.5)),
            "slow_decay_pct": st.sampled_from((1.5, 1.0)),
        }
    ),
    corpus=(
        {"d_model": 8, "emb_dim": 5, "seq_len": 16, "order": 2, "w": 14, "target": 0.1, "fast_decay_pct": 0.5},
        {"d_model": 768, "emb_dim": 5, "seq_len": 128, "order": 2},
        {"d_model": 3, "emb_dim": 3, "seq_len": 1, "order": 2},
        {"d_model": 2, "emb_dim": 9, "seq_len": 1000, "order": 2},
    ),
    inputs=lambda structure: {},
    scales=_buffer_scales,
    fresh=True,
    only_rungs=("f32",),
    only_rungs_reason="freshly built buffers are float32 in both frameworks; every other rung loads them",
    reads=_reads_nothing,
)

# Mixer ---------------------------------------------------------------------------------------------------------

MIXER_OPTIONS = [
    "d_model",
    "l_max",
    "bidirectional",
    "residual_long_conv",
    "hyena_w",
    "hyena_w_mod",
    "hyena_emb_dim",
    "hyena_filter_order",
    "hyena_training_additions",
]


def _build_mixer(structure: Structure, profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
    return library.MonarchMixer(**_options(structure, *MIXER_OPTIONS), profile=profile, **extra)


def _mixer_reads(structure: Structure) -> frozenset[str]:
    norm = NORM if structure.get("hyena_training_additions") else frozenset()
    return _reads_if_bidirectional(structure) | norm


@st.composite
def _mixer_structures(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(LENGTHS)
    return {
        "batch": draw(BATCHES),
        "d_model": draw(st.integers(3, 10)),
        "L": length,
        "l_max": length + draw(st.sampled_from((0, 0, 1, 7))),
        "bidirectional": draw(st.booleans()),
        "residual_long_conv": draw(st.booleans()),
        "hyena_emb_dim": draw(st.sampled_from((3, 5, 7))),
        "hyena_filter_order": draw(st.integers(2, 10)),
        "hyena_w": draw(st.sampled_from((10, 1))),
        "hyena_w_mod": draw(st.sampled_from((1, 2))),
        "hyena_training_additions": draw(st.sampled_from((False, False, True))),
    }


MONARCH_MIXER = _pair(
    "monarch_mixer",
    _build_mixer,
    _call_x,
    keys=frozenset({"batch", "L", *MIXER_OPTIONS}),
    structures=_mixer_structures(),
    corpus=(
        {
            "batch": 2,
            "d_model": 12,
            "L": 16,
            "l_max": 16,
            "bidirectional": True,
            "residual_long_conv": True,
            "hyena_emb_dim": 5,
        },
        {"batch": 1, "d_model": 7, "L": 9, "l_max": 11, "bidirectional": True, "hyena_w": 1, "hyena_w_mod": 2},
        {
            "batch": 2,
            "d_model": 8,
            "L": 15,
            "l_max": 24,
            "bidirectional": True,
            "residual_long_conv": False,
            "hyena_emb_dim": 5,
        },
        {"batch": 1, "d_model": 6, "L": 1, "l_max": 8, "bidirectional": True, "residual_long_conv": True},
        {"batch": 1, "d_model": 5, "L": 13, "l_max": 13, "bidirectional": False, "residual_long_conv": True},
        {
            "batch": 2,
            "d_model": 8,
            "L": 16,
            "l_max": 16,
            "bidirectional": True,
            "residual_long_conv": True,
            "hyena_training_additions": True,
            "hyena_emb_dim": 7,
        },
    ),
    inputs=lambda structure: {"x": InputSpec((structure["batch"], structure["L"], structure["d_model"]), positions=1)},
    reads=_mixer_reads,
)

# MLP -----------------------------------------------------------------------------------------------------------


MLP_CLASSES: Final = {"glu": "GatedMlp", "mlp": "Mlp"}


def _build_mlp(structure: Structure, profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
    if structure["cls"] not in MLP_CLASSES:
        raise ConfigError(f"cls = {structure['cls']!r} is not allowed; allowed: {', '.join(MLP_CLASSES)}")
    return getattr(library, MLP_CLASSES[structure["cls"]])(model_config(structure), profile=profile, **extra)


MLP = _pair(
    "mlp",
    _build_mlp,
    _call_x,
    keys=MODEL_KEYS | {"cls"},
    structures=st.fixed_dictionaries(
        {
            "batch": BATCHES,
            "L": st.integers(1, 6),
            "cls": st.sampled_from(("glu", "mlp")),
            "hidden_size": st.integers(3, 24),
            "intermediate_size": st.integers(2, 40),
            "use_monarch_mlp": st.booleans(),
            "monarch_mlp_nblocks": st.sampled_from((1, 2, 3, 4)),
            "layer_norm_eps": EPSILONS,
        }
    ),
    corpus=(
        {
            "batch": 2,
            "L": 7,
            "cls": "glu",
            "hidden_size": 24,
            "intermediate_size": 96,
            "monarch_mlp_nblocks": 4,
        },
        {
            "batch": 2,
            "L": 7,
            "cls": "mlp",
            "hidden_size": 24,
            "intermediate_size": 96,
            "monarch_mlp_nblocks": 4,
        },
        {
            "batch": 2,
            "L": 7,
            "cls": "glu",
            "hidden_size": 20,
            "intermediate_size": 50,
            "monarch_mlp_nblocks": 3,
        },
        {
            "batch": 1,
            "L": 1,
            "cls": "glu",
            "hidden_size": 24,
            "intermediate_size": 96,
            "use_monarch_mlp": False,
        },
        {
            "batch": 1,
            "L": 2,
            "cls": "glu",
            "hidden_size": 192,
            "intermediate_size": 384,
            "monarch_mlp_nblocks": 4,
        },
    ),
    inputs=_hidden_states,
    reads=lambda structure: NORM | ACTIVATION,
)

# Layer and encoder ---------------------------------------------------------------------------------------------


def _build(name: str, **fixed: Any) -> Builder:
    """Builder of the class `name` from a model configuration."""

    def build(structure: Structure, profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
        return getattr(library, name)(model_config({**structure, **fixed}), profile=profile, **extra)

    return build


def _model_reads(structure: Structure) -> frozenset[str]:
    return NORM | ACTIVATION | (BOTH_WAYS if model_config(structure).bidirectional else frozenset())


@st.composite
def _model_structures(draw: st.DrawFn, layers: int = 1, tokens: bool = False) -> dict[str, Any]:
    length = draw(LENGTHS)
    longest = length + draw(st.sampled_from((0, 0, 3)))
    structure = {
        "batch": draw(BATCHES),
        "L": length,
        "hidden_size": draw(st.integers(3, 16)),
        "intermediate_size": draw(st.integers(2, 24)),
        "num_hidden_layers": layers,
        "max_position_embeddings": longest,
        "long_conv_l_max": longest,
        "hyena_emb_dim": draw(st.sampled_from((3, 5, 7))),
        "bidirectional": draw(st.booleans()),
        "residual_long_conv": draw(st.booleans()),
        "use_glu_mlp": draw(st.booleans()),
        "use_monarch_mlp": draw(st.booleans()),
        "monarch_mlp_nblocks": draw(st.sampled_from((1, 3, 4))),
        "hyena_training_additions": draw(st.sampled_from((False, False, True))),
        "hyena_w_mod": draw(st.sampled_from((1, 2))),
        "layer_norm_eps": draw(EPSILONS),
    }
    if tokens:
        structure["use_positional_encodings"] = draw(st.booleans())
        structure["type_vocab_size"] = draw(st.sampled_from((2, 1, 3)))
    return structure


PUBLISHED: Final = {
    "bidirectional": True,
    "residual_long_conv": True,
    "use_glu_mlp": True,
    "use_monarch_mlp": True,
}
MODEL_CORPUS: Final[tuple[Structure, ...]] = (
    {"batch": 2, "L": 16, "hidden_size": 24, "intermediate_size": 96, **PUBLISHED},
    {"batch": 1, "L": 11, "hidden_size": 16, "intermediate_size": 40, "hyena_emb_dim": 7, **PUBLISHED},
    {"batch": 1, "L": 1, "hidden_size": 8, "intermediate_size": 16, **PUBLISHED},
    {
        "batch": 2,
        "L": 13,
        "hidden_size": 10,
        "intermediate_size": 14,
        "bidirectional": False,
        "residual_long_conv": False,
        "use_glu_mlp": False,
        "monarch_mlp_nblocks": 3,
    },
    {
        "batch": 2,
        "L": 16,
        "hidden_size": 12,
        "intermediate_size": 24,
        "hyena_training_additions": True,
        **PUBLISHED,
    },
    {
        "batch": 1,
        "L": 7,
        "hidden_size": 9,
        "intermediate_size": 14,
        "hyena_w_mod": 2,
        "layer_norm_eps": 1e-5,
        **PUBLISHED,
        "use_monarch_mlp": False,
    },
)

LAYER = _pair(
    "layer",
    _build("BertLayer"),
    _call_x,
    structures=_model_structures(),
    corpus=MODEL_CORPUS,
    inputs=_hidden_states,
    reads=_model_reads,
)
ENCODER = _pair(
    "encoder",
    _build("BertEncoder"),
    _call_x,
    structures=_model_structures(layers=2),
    corpus=({**MODEL_CORPUS[0], "num_hidden_layers": 3}, MODEL_CORPUS[3], MODEL_CORPUS[5]),
    inputs=_hidden_states,
    reads=_model_reads,
)

# Embeddings and heads ------------------------------------------------------------------------------------------


def _tokens(structure: Structure, **more: InputSpec) -> dict[str, InputSpec]:
    shape = (structure["batch"], structure["L"])
    return {"ids": InputSpec(shape, "ids", high=model_config(structure).vocab_size), **more}


def _tokens_and_types(structure: Structure) -> dict[str, InputSpec]:
    types = model_config(structure).type_vocab_size
    return _tokens(structure, tt=InputSpec((structure["batch"], structure["L"]), "ids", high=types))


EMBEDDINGS = _pair(
    "embeddings",
    _build("BertEmbeddings"),
    lambda module, inputs: {"y": module(inputs["ids"], inputs.get("tt"))},
    structures=st.fixed_dictionaries(
        {
            "batch": BATCHES,
            "L": LENGTHS,
            "vocab_size": st.integers(1, 30),
            "hidden_size": st.integers(3, 24),
            "use_positional_encodings": st.booleans(),
            "type_vocab_size": st.sampled_from((2, 1, 3)),
            "layer_norm_eps": EPSILONS,
        }
    ),
    corpus=(
        {"batch": 2, "L": 16, "vocab_size": 40, "hidden_size": 24},
        {"batch": 1, "L": 1, "vocab_size": 1, "hidden_size": 4, "use_positional_encodings": False},
    ),
    inputs=_tokens_and_types,
    reads=lambda structure: NORM,
)

HEAD_STRUCTURES = st.fixed_dictionaries(
    {
        "batch": BATCHES,
        "L": st.integers(1, 9),
        "hidden_size": st.integers(3, 24),
        "intermediate_size": st.integers(2, 24),
        "vocab_size": st.integers(2, 40),
        "layer_norm_eps": EPSILONS,
    }
)
HEAD_CORPUS: Final[tuple[Structure, ...]] = (
    {"batch": 2, "L": 9, "hidden_size": 24, "intermediate_size": 96, "vocab_size": 40},
    {"batch": 1, "L": 1, "hidden_size": 3, "intermediate_size": 2, "vocab_size": 2},
)

MLM_HEAD = _pair(
    "mlm_head",
    _build("MaskedLMHead"),
    _call_x,
    structures=HEAD_STRUCTURES,
    corpus=HEAD_CORPUS,
    inputs=_hidden_states,
    reads=lambda structure: NORM | ACTIVATION,
)


def _build_pooler(structure: Structure, _profile: HyperProfile, library: Any, extra: Mapping[str, Any]) -> Any:
    return library.Pooler(model_config(structure), **extra)


def _states_and_mask(structure: Structure) -> dict[str, InputSpec]:
    return {
        **_hidden_states(structure),
        "mask": InputSpec((structure["batch"], structure["L"]), "weight_mask"),
    }


def _call_masked(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"y": module(inputs["x"], inputs.get("mask"))}


POOLER = _pair(
    "pooler",
    _build_pooler,
    _call_masked,
    structures=st.fixed_dictionaries(
        {
            "batch": BATCHES,
            "L": st.integers(1, 9),
            "hidden_size": st.integers(1, 24),
            "pool_all": st.booleans(),
        }
    ),
    corpus=(
        {"batch": 3, "L": 9, "hidden_size": 24, "pool_all": True},
        {"batch": 3, "L": 9, "hidden_size": 24, "pool_all": False},
    ),
    inputs=_states_and_mask,
    reads=_reads_nothing,
)

ATTENTION_POOLER = _pair(
    "attention_pooler",
    _build("AttentionPooler"),
    _call_masked,
    structures=HEAD_STRUCTURES,
    corpus=HEAD_CORPUS,
    inputs=_states_and_mask,
    reads=lambda structure: ACTIVATION,
)

# Whole models --------------------------------------------------------------------------------------------------


def _call_masked_lm(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    logits = module(inputs["ids"], inputs.get("tt"))
    loss = {"loss": module.loss(logits, inputs["lab"])} if "lab" in inputs else {}
    return {**loss, "y": logits}


def _masked_lm_inputs(structure: Structure) -> dict[str, InputSpec]:
    shape = (structure["batch"], structure["L"])
    labels = InputSpec(shape, "labels", high=model_config(structure).vocab_size)
    return {**_tokens_and_types(structure), "lab": labels}


MASKED_LM = _pair(
    "masked_lm",
    _build("BertForMaskedLM"),
    _call_masked_lm,
    structures=_model_structures(layers=2, tokens=True),
    corpus=(*MODEL_CORPUS[:2], {**MODEL_CORPUS[5], "type_vocab_size": 3, "use_positional_encodings": False}),
    inputs=_masked_lm_inputs,
    reads=_model_reads,
)

CLASSIFIER_SWITCHES = ("pool_all", "use_cls_token", "use_normalized_embeddings", "attention_pooling")


@st.composite
def _classifier_structures(draw: st.DrawFn) -> dict[str, Any]:
    structure = draw(_model_structures(layers=1, tokens=True))
    return {**structure, **{switch: draw(st.booleans()) for switch in CLASSIFIER_SWITCHES}}


SEQUENCE_CLASSIFICATION = _pair(
    "sequence_classification",
    _build("BertForSequenceClassification"),
    lambda module, inputs: module(inputs["ids"], inputs.get("mask")),
    structures=_classifier_structures(),
    corpus=(
        MODEL_CORPUS[0],
        {**MODEL_CORPUS[1], "pool_all": True},
        {**MODEL_CORPUS[3], "use_cls_token": True, "use_normalized_embeddings": True},
        {**MODEL_CORPUS[5], "attention_pooling": True},
    ),
    inputs=lambda structure: _tokens(structure, mask=InputSpec((structure["batch"], structure["L"]), "mask")),
    reads=_model_reads,
)

PAIRS: Final[tuple[Pair, ...]] = (
    BLOCKDIAG_LINEAR,
    MONARCH_MULTIPLY,
    FFTCONV,
    HYENA_BUFFERS,
    HYENA_FILTER,
    MONARCH_MIXER,
    MLP,
    EMBEDDINGS,
    LAYER,
    ENCODER,
    MLM_HEAD,
    POOLER,
    ATTENTION_POOLER,
    SEQUENCE_CLASSIFICATION,
    MASKED_LM,
)
"""Every component of the specification, leaves first."""
