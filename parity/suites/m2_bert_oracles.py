"""M2-BERT's leaf operations: the reference in float64 beside the same formula at 50 digits, on small drawn cases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
from torch.nn import functional

import reference_torch
from parity.cases.arrays import generator
from parity.oracles import Agreement, Carried, agreement, leaves
from parity.oracles.agreement import NO_CONDITION, NO_LOSS, WELL_CONDITIONED, together
from parity.spec.arrays import Array
from parity.spec.profile import CANONICAL, HyperProfile

Question = tuple[Array, Carried]
"""The reference's float64 answer and the exact one."""


@dataclass(frozen=True)
class Leaf:
    """One leaf operation: its name, its formula, and its questions from a generator.

    `well_conditioned` bounds the results of which 4 ulp of their own are demanded, besides 4 ulp of their scale.
    """

    name: str
    formula: str
    questions: Callable[[np.random.Generator], Iterator[Question]]
    well_conditioned: float = WELL_CONDITIONED


def _torch(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _numpy(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().numpy(), dtype=np.float64)


def _fill(module: torch.nn.Module, values: dict[str, Array]) -> torch.nn.Module:
    module.double().eval()
    module.load_state_dict({name: _torch(array) for name, array in values.items()}, strict=False)
    return module


def _ranges(rng: np.random.Generator) -> Iterator[Array]:
    """Arguments of elementwise functions: around 1, tiny, large, and those where erf and tanh saturate."""
    yield rng.standard_normal(96)
    yield rng.standard_normal(32) * 2.0**-20
    yield rng.uniform(-8, 8, 96)
    yield np.array([0.0, 0.5, -0.5, 1.0, -1.0, 2.7, -2.7, 5.0, -5.0, 1e-300])


def _unary(name: str) -> Leaf:
    function = getattr(torch, name)

    def questions(rng: np.random.Generator) -> Iterator[Question]:
        for x in _ranges(rng):
            yield _numpy(function(_torch(x))), leaves.unary(x, name)

    return Leaf(name, f"{name}(x)", questions)


def _gelu(mode: str) -> Leaf:
    profile = CANONICAL.replace(gelu_mode=mode)

    def questions(rng: np.random.Generator) -> Iterator[Question]:
        module = reference_torch.Gelu(profile)
        for x in _ranges(rng):
            yield _numpy(module(_torch(x))), leaves.gelu(x, mode)

    formula = "x (1 + erf(x / sqrt 2)) / 2" if mode == "erf" else "x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2"
    return Leaf(f"gelu_{mode}", formula, questions)


def _layer_norm(rng: np.random.Generator) -> Iterator[Question]:
    for (d, eps), (mean, spread) in itertools.product(
        ((3, 1e-12), (16, 1e-12), (33, 1e-5)), ((0.0, 1.0), (10.0, 1.0), (0.0, 1e-3), (100.0, 1.0))
    ):
        x = mean + spread * rng.standard_normal((3, d))
        weight, bias = 1 + 0.2 * rng.standard_normal(d), 0.3 * rng.standard_normal(d)
        module = _fill(reference_torch.LayerNorm(d, eps), {"weight": weight, "bias": bias})
        yield _numpy(module(_torch(x))), leaves.layer_norm(x, weight, bias, eps)


SINE_NETWORKS: Final = ((3, 4, 3, 2, 1, 1), (5, 6, 4, 2, 10, 1), (7, 3, 2, 1, 10, 2), (5, 4, 3, 0, 1, 1))
"""Columns of z, width, channels, inner layers, w, w_mod."""


def _sine_network(rng: np.random.Generator) -> Iterator[Question]:
    for emb, order, d, inner, w, w_mod in (
        (3, 4, 3, 2, 1, 1),
        (5, 6, 4, 2, 10, 1),
        (7, 3, 2, 1, 10, 2),
        (5, 4, 3, 0, 1, 1),
    ):
        length, sizes = 6, [emb, *[order] * (inner + 1), d]
        module = reference_torch.HyenaFilter(
            d, emb, order, length, w=w, w_mod=w_mod, num_inner_mlps=inner, modulate=False
        )
        z = np.asarray(module.pos_emb.z.detach().double().numpy()) + 0.05 * rng.standard_normal((1, length, emb))
        freq = w * (1 + 0.1 * rng.standard_normal((1, order)))
        layers: list[leaves.Layer] = []
        state = {"pos_emb.z": z}
        for place, (p, q) in enumerate(itertools.pairwise(sizes)):
            weight = rng.standard_normal((q, p)) / np.sqrt(p)
            bias = 0.3 * rng.standard_normal(q) if place <= inner else None
            layers.append((weight, bias))
            state[f"implicit_filter.{2 * place}.weight"] = weight
            if bias is not None:
                state[f"implicit_filter.{2 * place}.bias"] = bias
                state[f"implicit_filter.{2 * place + 1}.freq"] = freq
        filled = cast(Any, _fill(module, state))
        yield _numpy(filled.filter(length)[0]), leaves.sine_network(z[0], layers, freq[0], float(w_mod))


def _modulation(rng: np.random.Generator) -> Iterator[Question]:
    for d, length, shift in ((3, 5, 0.0), (8, 16, 0.0), (4, 9, 0.25)):
        module = reference_torch.ExponentialModulation(d, shift=shift)
        deltas = np.asarray(module.deltas.double().numpy()) * (1 + 0.1 * rng.standard_normal((1, 1, d)))
        _fill(module, {"deltas": deltas})
        t, h = np.linspace(0, 1, length)[:, None], rng.standard_normal((length, d))
        yield (
            _numpy(module(_torch(t[None]), _torch(h[None]))[0]),
            leaves.modulation(t, deltas[0, 0], shift, h),
        )


def _convolution(rng: np.random.Generator) -> Iterator[Question]:
    for length, bidirectional in itertools.product((1, 2, 3, 5, 8, 16, 33), (False, True)):
        shape = (2, 2, length)
        for profile in _meanings() if bidirectional else (CANONICAL,):
            u, k, D = rng.standard_normal(shape), rng.standard_normal(shape[1:]), rng.standard_normal(2)
            k_rev = rng.standard_normal(shape[1:]) if bidirectional else None
            y = reference_torch.fftconv(
                _torch(u), _torch(k), _torch(D), None if k_rev is None else _torch(k_rev), profile
            )
            factor = 0.5 if profile.bidir_combine == "avg" else 1.0
            yield _numpy(y), leaves.convolution(u, k, D, k_rev, profile.bidir_space, factor)


def _meanings() -> Iterator[HyperProfile]:
    for space, combine in itertools.product(("time", "freq"), ("sum", "avg")):
        yield CANONICAL.replace(bidir_space=space, bidir_combine=combine)


def _block_product(rng: np.random.Generator) -> Iterator[Question]:
    for k, q, p in ((1, 1, 1), (4, 3, 5), (2, 5, 12), (3, 4, 16)):
        drawn = rng.standard_normal((3, k * p)), rng.standard_normal((k, q, p))
        for x, weight in (drawn, (np.abs(drawn[0]), np.abs(drawn[1]))):
            yield _numpy(reference_torch.blockdiag_multiply(_torch(x), _torch(weight))), leaves.block_product(x, weight)


def _monarch(rng: np.random.Generator) -> Iterator[Question]:
    for k, q, p, l, s, r in ((4, 4, 4, 4, 4, 4), (4, 3, 6, 6, 5, 2), (2, 6, 5, 3, 5, 4)):
        x, w1, w2 = (rng.standard_normal(shape) for shape in ((2, k * p), (k, q, p), (l, s, r)))
        y = reference_torch.monarch_multiply(_torch(x), _torch(w1), _torch(w2))
        yield _numpy(y), leaves.monarch(x, w1, w2)


def _short_convolution(rng: np.random.Generator) -> Iterator[Question]:
    for channels, length in ((1, 1), (3, 2), (4, 9)):
        x = rng.standard_normal((2, channels, length))
        weight, bias = rng.standard_normal((channels, 1, 3)), rng.standard_normal(channels)
        module = _fill(reference_torch.ShortConvolution(channels), {"weight": weight, "bias": bias})
        yield _numpy(module(_torch(x))), leaves.short_convolution(x, weight[:, 0], bias)


def _softmax(rng: np.random.Generator) -> Iterator[Question]:
    for shape, spread in (((2, 5, 3), 1.0), ((1, 16, 4), 4.0), ((1, 3, 2), 30.0)):
        x = spread * rng.standard_normal(shape)
        yield _numpy(functional.softmax(_torch(x), dim=1)), leaves.softmax(x, 1)


def _cross_entropy(rng: np.random.Generator) -> Iterator[Question]:
    for rows, vocab, spread in ((4, 7, 1.0), (3, 24, 4.0), (1, 2, 0.1)):
        logits = spread * rng.standard_normal((rows, 3, vocab))
        labels = rng.integers(0, vocab, (rows, 3))
        labels[0, 0] = 1
        loss = reference_torch.BertForMaskedLM.loss(cast(Any, None), _torch(logits), torch.from_numpy(labels))
        yield _numpy(loss), leaves.cross_entropy(logits, labels)


LEAVES: Final = (
    _unary("sin"),
    _unary("exp"),
    _unary("erf"),
    _unary("tanh"),
    _gelu("erf"),
    _gelu("tanh"),
    Leaf("layer_norm", "(x - mean) / sqrt(var + eps) * weight + bias", _layer_norm),
    Leaf("sine_network", "Linear, sin(w_mod freq x), ..., Linear on the stored rows z", _sine_network),
    Leaf("modulation", "h (exp(-t |deltas|) + shift)", _modulation),
    Leaf("convolution", "sum_s k[t - s] u[s] + D u[t], both directions", _convolution, NO_CONDITION),
    Leaf("block_product", "x[i] weight[i].T for each block i", _block_product, NO_LOSS),
    Leaf("monarch", "two block products around a stride permutation", _monarch, NO_LOSS),
    Leaf("short_convolution", "w0 x[t-2] + w1 x[t-1] + w2 x[t] + bias", _short_convolution),
    Leaf("softmax", "exp(x - max) / sum exp(x - max)", _softmax),
    Leaf("cross_entropy", "mean of log sum exp(logits) - logits[label]", _cross_entropy),
)
"""Every leaf operation of the reference that rounds."""


def try_leaf(leaf: Leaf, seed: int, draws: int = 1) -> tuple[int, Agreement]:
    """Put the reference's leaf on trial; return the number of cases and the agreement over all of them."""
    rng = generator(seed, f"oracle:{leaf.name}")
    parts = [agreement(*question, leaf.well_conditioned) for _ in range(draws) for question in leaf.questions(rng)]
    return len(parts), together(parts)
