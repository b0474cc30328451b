"""The laws of M2-BERT's components: which holds where, and where each component keeps what a law speaks of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from parity.laws import Application, Claim, Law, Subject
from parity.laws.algebra import direct_sum, linear, skip_alone, zero_gives_bias, zero_gives_zero
from parity.laws.invariance import ChannelAxis, Channels, apart, causal, moved, permutation, prefix, unmoved
from parity.laws.law import Check
from parity.laws.subject import total
from parity.laws.ties import tied
from parity.pairs import Pair, Structure
from parity.spec.arrays import AnyArray, Array
from parity.suites.m2_bert import (
    ATTENTION_POOLER,
    BLOCKDIAG_LINEAR,
    EMBEDDINGS,
    ENCODER,
    FFTCONV,
    HYENA_FILTER,
    LAYER,
    MASKED_LM,
    MLM_HEAD,
    MLP,
    MONARCH_MIXER,
    MONARCH_MULTIPLY,
    PAIRS,
    POOLER,
    SEQUENCE_CLASSIFICATION,
)

DIRECT_LENGTHS: Final = (1, 2, 3, 5, 8, 32, 33)
"""The shortest lengths, an odd one, and a power of two with its successor."""

ADDITIVE: Final = r"^bias$|(linear|dense\d?|wo|Wqkv|short_filter|decoder|[Ll]ayer[Nn]orm)\.bias$"
"""Biases that are added. A filter's `bias` is its skip weight, which multiplies; its network's shape the kernel."""


def _where(pair: Pair, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Pair:
    """Return `pair` with every structure, drawn or of the corpus, changed so that a law applies to it."""
    corpus = tuple(dict(items) for items in dict.fromkeys(tuple(change(dict(s)).items()) for s in pair.corpus))

    def narrow(structure: dict[str, Any]) -> dict[str, Any]:
        return change(pair.narrow(structure))

    return dataclasses.replace(pair, structures=pair.structures.map(change), corpus=corpus, narrow=narrow)


def _with(pair: Pair, **fixed: Any) -> Pair:
    return _where(pair, lambda structure: {**structure, **fixed})


def _two_rows(structure: dict[str, Any]) -> dict[str, Any]:
    return {**structure, "batch": max(2, structure["batch"])}


def _two_positions(structure: dict[str, Any]) -> dict[str, Any]:
    """At least two positions, in a module that is built for no fewer."""
    length = max(2, structure["L"])
    limits: dict[str, Any] = {
        name: max(length, structure[name])
        for name in ("seq_len", "l_max", "long_conv_l_max", "max_position_embeddings")
        if name in structure
    }
    return {**structure, "L": length, **limits}


def _causal(structure: dict[str, Any]) -> dict[str, Any]:
    gelu = {"gelu": False} if "gelu" in structure else {}
    return {**_two_positions(structure), "bidirectional": False, **gelu}


def _full_length(structure: dict[str, Any]) -> dict[str, Any]:
    """As long as the filter that was built, so that every shorter length is shorter than the filter's."""
    structure = _two_positions(structure)
    return {**structure, "L": structure["seq_len"]}


def _at_direct_lengths(pair: Pair, **fixed: Any) -> Pair:
    """Every length of the direct sum, both directions and one, and whatever else the pair draws."""
    base = pair.corpus[0]
    limit = {"seq_len": 40} if "seq_len" in base else {}
    corpus = tuple(
        {**base, **fixed, **limit, "L": length, "bidirectional": both}
        for length in DIRECT_LENGTHS
        for both in (True, False)
    )
    return dataclasses.replace(_with(pair, **fixed), corpus=corpus)


# What the components are made of -------------------------------------------------------------------------------


def _fftconv_taps(subject: Subject) -> tuple[Array, Array]:
    return _combined(subject, subject.state["k"], subject.state.get("k_rev")), np.asarray(subject.state["D"], float)


def _hyena_taps(subject: Subject) -> tuple[Array, Array]:
    """The kernel that the side itself makes, judged elsewhere, and the skip weight."""
    made = subject.outputs()
    k, k_rev = made["filter"][0].T, made["filter_rev"][0].T if "filter_rev" in made else None
    return _combined(subject, k, k_rev), _hyena_skip(subject)


def _combined(subject: Subject, k: AnyArray, k_rev: AnyArray | None) -> Array:
    """Kernel (d, 2l) by lag: k[j] at j; k_rev[j] at -j - 1 in `time`, at -j in `freq`; `avg` halves both."""
    length = k.shape[-1]
    kernel = np.zeros((k.shape[0], 2 * length))
    kernel[:, :length] = k
    if k_rev is None:
        return kernel
    first = 1 if subject.profile.bidir_space == "time" else 0
    for j in range(length):
        kernel[:, -(j + first) % (2 * length)] += k_rev[:, j]
    return kernel * (0.5 if subject.profile.bidir_combine == "avg" else 1.0)


def _hyena_skip(subject: Subject) -> Array:
    return np.asarray(subject.state["bias"], float) * (1.0 if subject.structure.get("bias", True) else 0.0)


def _last_layers(structure: Structure, prefix: str, inner: int) -> list[str]:
    """State-dict names of the layers that give a filter its channels."""
    forward = 0 if structure.get("linear_mixer", False) else 2 * inner + 2
    names = [f"{prefix}implicit_filter.{forward}.weight"]
    if structure.get("bidirectional", False):
        names.append(f"{prefix}implicit_filter_rev.{2 * inner + 2}.weight")
    return names


def _filter_channels(structure: Structure, prefix: str, inner: int) -> tuple[tuple[str, ChannelAxis], ...]:
    return (
        *((name, ChannelAxis(0)) for name in _last_layers(structure, prefix, inner)),
        (f"{prefix}bias", ChannelAxis(0)),
        (f"{prefix}modulation.deltas", ChannelAxis(2)),
    )


def _fftconv_channels(subject: Subject) -> Channels:
    names = [name for name in ("k", "k_rev", "D") if name in subject.state]
    return Channels(
        subject.structure["d_model"],
        {"u": ChannelAxis(1)},
        tuple((name, ChannelAxis(0)) for name in names),
        {"y": ChannelAxis(1)},
    )


def _hyena_channels(subject: Subject) -> Channels:
    structure = subject.structure
    filters = ("filter", "filter_rev") if structure["bidirectional"] else ("filter",)
    return Channels(
        structure["d_model"],
        {"x": ChannelAxis(1)},
        _filter_channels(structure, "", structure.get("num_inner_mlps", 2)),
        {**{name: ChannelAxis(2) for name in filters}, "y": ChannelAxis(1)},
    )


def _mixer_channels(subject: Subject) -> Channels:
    """In the mixer the channels of x1, x2 and v follow each other, each third with its own copy of all of them."""
    structure, thirds = subject.structure, ChannelAxis(0, repeat=3)
    filters = ("filter_fn.", "filter_fn2.") if structure.get("residual_long_conv", False) else ("filter_fn.",)
    norm = ("layernorm.weight", "layernorm.bias") if structure.get("hyena_training_additions", False) else ()
    return Channels(
        structure["d_model"],
        {"x": ChannelAxis(2)},
        (
            *((name, ChannelAxis(0)) for name in norm),
            ("in_linear.weight", thirds),
            ("in_linear.weight", ChannelAxis(1)),
            ("in_linear.bias", thirds),
            ("short_filter.weight", thirds),
            ("short_filter.bias", thirds),
            *(pair for prefix in filters for pair in _filter_channels(structure, prefix, 2)),
            ("out_linear.weight", ChannelAxis(0)),
            ("out_linear.weight", ChannelAxis(1)),
            ("out_linear.bias", ChannelAxis(0)),
        ),
        {"y": ChannelAxis(2)},
    )


def _block_channels(subject: Subject) -> Channels:
    """Whole blocks change places, each with its p features and its q results."""
    k, q, p = subject.state["weight"].shape
    bias = (("bias", ChannelAxis(0, group=q)),) if "bias" in subject.state else ()
    return Channels(
        k, {"x": ChannelAxis(2, group=p)}, (("weight", ChannelAxis(0)), *bias), {"y": ChannelAxis(2, group=q)}
    )


def _full_blocks(structure: dict[str, Any]) -> dict[str, Any]:
    k = structure["nblocks"]
    widths = {name: -(-structure[name] // k) * k for name in ("in_features", "out_features")}
    return {**structure, **widths, "shuffle": False}


def _embedding_channels(subject: Subject) -> Channels:
    tables = [name for name in subject.state if name.endswith("_embeddings.weight")]
    norm = (("LayerNorm.weight", ChannelAxis(0)), ("LayerNorm.bias", ChannelAxis(0)))
    count = subject.state["LayerNorm.weight"].size
    return Channels(count, {}, (*((name, ChannelAxis(1)) for name in tables), *norm), {"y": ChannelAxis(2)})


def _mlp_channels(subject: Subject) -> Channels:
    """The hidden state's channels of a dense MLP."""
    hidden = (("wo.weight", "wo.bias", "layernorm.weight", "layernorm.bias"), ("gated_layers.weight",))
    axes = tuple((name, ChannelAxis(axis)) for axis, names in enumerate(hidden) for name in names)
    return Channels(subject.state["wo.bias"].size, {"x": ChannelAxis(2)}, axes, {"y": ChannelAxis(2)})


# What padding may hold -----------------------------------------------------------------------------------------


def _other_padding(subject: Subject) -> Mapping[str, AnyArray]:
    """Other hidden states where the mask is 0."""
    x, mask = np.asarray(subject.inputs["x"], float), subject.inputs["mask"]
    return {**subject.inputs, "x": np.where(mask[..., None] == 0, subject.normal("padding", x.shape), x)}


def _other_states_but_the_first(subject: Subject) -> Mapping[str, AnyArray]:
    """Other hidden states everywhere but at the first token, and the opposite mask."""
    x = np.asarray(subject.inputs["x"], float)
    other = subject.normal("padding", x.shape)
    other[:, 0] = x[:, 0]
    return {"x": other, "mask": 1 - np.asarray(subject.inputs["mask"], float)}


def _other_mask(subject: Subject) -> Mapping[str, AnyArray]:
    mask = subject.inputs["mask"]
    return {**subject.inputs, "mask": np.asarray(1 - np.asarray(mask, np.int64)).astype(mask.dtype)}


def _other_ignored_labels(subject: Subject) -> Mapping[str, AnyArray]:
    """0 for -100 and -100 for 0: neither enters the loss."""
    labels = np.asarray(subject.inputs["lab"])
    return {**subject.inputs, "lab": np.where(labels == 0, -100, np.where(labels == -100, 0, labels))}


def _first_label_alone(subject: Subject) -> Mapping[str, AnyArray]:
    """All labels ignored but the first, which the harness always draws as one that counts, and that one moved on."""
    labels = np.full_like(np.asarray(subject.inputs["lab"]), -100)
    own = int(np.asarray(subject.inputs["lab"]).flat[0])
    labels.flat[0] = own - 1 if own > 1 else own + 1
    return {**subject.inputs, "lab": labels}


def _three_words(structure: dict[str, Any]) -> dict[str, Any]:
    return {**structure, "vocab_size": 24}


def _without_mask(subject: Subject) -> Mapping[str, AnyArray]:
    return {name: x for name, x in subject.inputs.items() if name != "mask"}


def _ones_are_no_mask(subject: Subject) -> Iterable[Claim]:
    """Claim y(x, ones) = y(x) without a mask: keeping everything is masking nothing."""
    inputs = {**subject.inputs, "mask": np.ones_like(subject.inputs["mask"])}
    bare = _without_mask(subject)
    allowed = total(subject.allowance(inputs)["y"], subject.allowance(bare)["y"])
    yield Claim("y under a mask of ones", subject.outputs(inputs)["y"], subject.outputs(bare)["y"], allowed)


def _mean_of_equals(subject: Subject) -> Iterable[Claim]:
    """Claim that where all positions hold the same state, their mean is that state whatever the mask keeps."""
    x = np.asarray(subject.inputs["x"], float)
    kept = {**subject.inputs, "x": np.broadcast_to(x[:, :1], x.shape).copy()}
    whole = {**kept, "mask": np.ones_like(subject.inputs["mask"])}
    allowed = total(subject.allowance(kept)["y"], subject.allowance(whole)["y"])
    yield Claim("y of equal states, some masked", subject.outputs(kept)["y"], subject.outputs(whole)["y"], allowed)


# The laws ------------------------------------------------------------------------------------------------------


def _apply(check: Callable[..., Any], *pairs: Pair, **facts: Any) -> tuple[Application, ...]:
    bound: Check = partial(check, **facts)
    return tuple(Application(pair, bound) for pair in pairs)


PLAIN_FFTCONV: Final = _with(FFTCONV, gelu=False)
SAFE_HYENA: Final = _with(HYENA_FILTER, normalized=False)
"""Without the division by a sum of absolute values, which is 0 where the kernel is made to be."""

WITH_STATES: Final = (MONARCH_MIXER, MLP, LAYER, ENCODER, MLM_HEAD, POOLER, ATTENTION_POOLER)
LOOKING_BACK: Final = tuple(_where(pair, _causal) for pair in (MONARCH_MIXER, LAYER, ENCODER))
POOL_MEAN: Final = _where(_with(POOLER, pool_all=True), _two_positions)
POOL_FIRST: Final = _where(_with(POOLER, pool_all=False), _two_positions)
FIRST_TOKEN: Final = _where(_with(SEQUENCE_CLASSIFICATION, pool_all=False, attention_pooling=False), _two_positions)
FREQUENCIES: Final = r"^(.*?)implicit_filter(?:_rev)?\.\d+\.freq$"
WORD_TABLE: Final = r"^(?:bert\.embeddings\.word_embeddings|cls\.predictions\.decoder)\.weight$"

ZERO: Final = Law(
    "zero",
    "Silence in, silence out: y(0) = 0 with every additive bias 0, and y(0) = bias for a linear layer, exactly.",
    (
        *_apply(zero_gives_zero, FFTCONV, signal="u", output="y", additive=None),
        *_apply(zero_gives_zero, HYENA_FILTER, MONARCH_MULTIPLY, signal="x", output="y", additive=None),
        *_apply(zero_gives_zero, *WITH_STATES, signal="x", output="y", additive=ADDITIVE),
        *_apply(zero_gives_bias, BLOCKDIAG_LINEAR, signal="x", output="y", bias="bias"),
    ),
)
LINEARITY: Final = Law(
    "linearity",
    "y(a u + b v) = a y(u) + b y(v): convolutions and block products are linear in their input, a bias apart.",
    (
        *_apply(linear, PLAIN_FFTCONV, signal="u", output="y"),
        *_apply(linear, HYENA_FILTER, MONARCH_MULTIPLY, signal="x", output="y"),
        *_apply(linear, BLOCKDIAG_LINEAR, signal="x", output="y", affine=True),
    ),
)
SKIP: Final = Law(
    "skip",
    "Without a kernel y = u * D, rounded once: the skip weight multiplies the input, one number for each channel.",
    (
        *_apply(
            skip_alone,
            PLAIN_FFTCONV,
            signal="u",
            output="y",
            kernels=r"^k(_rev)?$",
            skip=lambda subject: np.asarray(subject.state["D"], float),
        ),
        *_apply(
            skip_alone,
            SAFE_HYENA,
            signal="x",
            output="y",
            kernels=r"implicit_filter(_rev)?\.\d+\.weight$",
            skip=_hyena_skip,
        ),
    ),
)
IMPULSE: Final = Law(
    "impulse",
    "The response to a unit impulse at t0 = 0, in the middle and at the end is y[t] = k[t - t0] + D [t = t0].",
    (
        *_apply(
            direct_sum,
            _at_direct_lengths(FFTCONV, gelu=False),
            signal="u",
            output="y",
            taps=_fftconv_taps,
            impulses=True,
        ),
        *_apply(direct_sum, _at_direct_lengths(HYENA_FILTER), signal="x", output="y", taps=_hyena_taps, impulses=True),
    ),
)
DIRECT_SUM: Final = Law(
    "direct_sum",
    "y[t] = sum_s k[t - s] u[s] + D u[t], a sum of l products: no transform, no wrap-around, k_rev[0] at its own lag.",
    (
        *_apply(
            direct_sum,
            _at_direct_lengths(FFTCONV, gelu=False),
            signal="u",
            output="y",
            taps=_fftconv_taps,
            impulses=False,
        ),
        *_apply(direct_sum, _at_direct_lengths(HYENA_FILTER), signal="x", output="y", taps=_hyena_taps, impulses=False),
    ),
)
CHANNELS: Final = Law(
    "channels",
    "y(P x; P theta) = P y(x; theta): channels, or blocks, have no order but that of their parameters.",
    (
        *_apply(
            permutation, _where(FFTCONV, lambda s: {**s, "d_model": max(2, s["d_model"])}), channels=_fftconv_channels
        ),
        *_apply(permutation, HYENA_FILTER, channels=_hyena_channels),
        *_apply(permutation, MONARCH_MIXER, channels=_mixer_channels),
        *_apply(
            permutation,
            _where(BLOCKDIAG_LINEAR, lambda s: _full_blocks({**s, "nblocks": max(2, s["nblocks"])})),
            channels=_block_channels,
        ),
        *_apply(permutation, EMBEDDINGS, channels=_embedding_channels),
        *_apply(permutation, _with(MLP, use_monarch_mlp=False), channels=_mlp_channels),
    ),
)
BATCH: Final = Law(
    "batch",
    "y(x)[i] = y(x[i]): a row of a batch has the same answer alone.",
    _apply(apart, *(_where(pair, _two_rows) for pair in PAIRS if not pair.fresh), axis=0),
)
POSITIONS: Final = Law(
    "positions",
    "y(x)[:, t] = y(x[:, t]): what mixes channels mixes no positions.",
    _apply(apart, *(_where(pair, _two_positions) for pair in (BLOCKDIAG_LINEAR, MLP, MLM_HEAD)), axis=1),
)
CAUSALITY: Final = Law(
    "causality",
    "y[t] for t < t0 is the same whatever u[t] is for t >= t0, where nothing is bidirectional.",
    (
        *_apply(causal, _where(FFTCONV, _causal), signal="u", output="y", axis=2),
        *_apply(causal, _where(HYENA_FILTER, _causal), signal="x", output="y", axis=2),
        *_apply(causal, *LOOKING_BACK, signal="x", output="y", axis=1),
    ),
)
LENGTH: Final = Law(
    "length",
    "y(x[:l]) = y(x)[:l]: the filter is made for the longest input and a shorter one takes its beginning.",
    (
        *_apply(
            prefix,
            _where(_with(HYENA_FILTER, bidirectional=False), _full_length),
            inputs={"x": 2},
            outputs={"filter": 1, "y": 2},
            silence=True,
        ),
        *_apply(
            prefix,
            _where(_with(HYENA_FILTER, bidirectional=True), _full_length),
            inputs={"x": 2},
            outputs={"filter": 1, "filter_rev": 1, "y": 2},
            silence=True,
        ),
        *_apply(prefix, *LOOKING_BACK, inputs={"x": 1}, outputs={"y": 1}),
        *_apply(prefix, _where(EMBEDDINGS, _two_positions), inputs={"ids": 1, "tt": 1}, outputs={"y": 1}),
    ),
)
PADDING: Final = Law(
    "padding",
    "y(x') = y(x), x' differing from x only where the mask is 0 or nothing is read; a mask of ones is no mask.",
    (
        *_apply(unmoved, POOL_MEAN, outputs=("y",), change=_other_padding, exact=True),
        *_apply(_mean_of_equals, POOL_MEAN),
        *_apply(unmoved, POOL_FIRST, outputs=("y",), change=_other_states_but_the_first, exact=True),
        *_apply(unmoved, FIRST_TOKEN, outputs=("pooled", "y"), change=_other_mask, exact=True),
        *_apply(unmoved, MASKED_LM, outputs=("loss", "y"), change=_other_ignored_labels, exact=True),
        *_apply(moved, _where(MASKED_LM, _three_words), outputs=("loss",), change=_first_label_alone),
        *_apply(_ones_are_no_mask, POOLER, ATTENTION_POOLER, SEQUENCE_CLASSIFICATION),
    ),
)
TIES: Final = Law(
    "ties",
    "Doubling a shared parameter at one of its places doubles it at all of them: decoder and word table, each filter's "
    "frequencies.",
    (
        *_apply(tied, _with(HYENA_FILTER, linear_mixer=False), pattern=FREQUENCIES),
        *_apply(tied, MONARCH_MIXER, LAYER, pattern=FREQUENCIES),
        *_apply(tied, MASKED_LM, pattern=WORD_TABLE),
    ),
)

LAWS: Final[tuple[Law, ...]] = (
    ZERO,
    LINEARITY,
    SKIP,
    IMPULSE,
    DIRECT_SUM,
    CHANNELS,
    BATCH,
    POSITIONS,
    CAUSALITY,
    LENGTH,
    PADDING,
    TIES,
)
"""Every law of the model."""
