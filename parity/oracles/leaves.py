"""Leaf operations at 50 digits. Arguments are float64 arrays as stored; results are `Carried`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np

from parity.oracles.carried import Carried, Floats, constant, dot, fifty_digits, integer, stored

Layer = tuple[Floats, Floats | None]
"""Weight (q, p) and bias (q,) or None of a linear layer."""


@fifty_digits
def unary(x: Floats, name: str) -> Carried:
    """sin, exp, erf or tanh of x."""
    function, derivative = {
        "sin": (mpmath.sin, mpmath.cos),
        "exp": (mpmath.exp, mpmath.exp),
        "erf": (mpmath.erf, _erf_slope),
        "tanh": (mpmath.tanh, _tanh_slope),
    }[name]
    return stored(x).apply(function, derivative)


def _erf_slope(v: Any) -> Any:
    return 2 * mpmath.exp(-v * v) / mpmath.sqrt(mpmath.pi)


def _tanh_slope(v: Any) -> Any:
    return 1 / mpmath.cosh(v) ** 2


@fifty_digits
def gelu(x: Floats, mode: str) -> Carried:
    """x (1 + erf(x / sqrt 2)) / 2, or x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2."""
    v, one = stored(x), integer(1)
    if mode == "erf":
        inner = (v * constant(1 / mpmath.sqrt(2))).apply(mpmath.erf, _erf_slope)
    else:
        cubic = constant(mpmath.mpf("0.044715")) * v * v * v
        inner = (constant(mpmath.sqrt(2 / mpmath.pi)) * (v + cubic)).apply(mpmath.tanh, _tanh_slope)
    half = (one + inner).exactly(lambda a: a / 2)
    return v * half


@fifty_digits
def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Carried:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis of x (..., d), var the biased variance."""
    v, count = stored(x), integer(x.shape[-1])
    centred = v - v.sum(-1) / count
    variance = (centred * centred).sum(-1) / count
    scale = (variance + stored(eps)).apply(lambda a: 1 / mpmath.sqrt(a), lambda a: -1 / (2 * a ** mpmath.mpf(1.5)))
    return centred * scale * stored(weight) + stored(bias)


@fifty_digits
def sine_network(z: Floats, layers: Sequence[Layer], freq: Floats, w_mod: float) -> Carried:
    """Linear, sin(w_mod freq x), Linear, ..., Linear on the stored rows z (l, e): no sine after the last layer."""
    h = stored(z)
    frequency = stored(w_mod) * stored(freq)
    for place, (weight, bias) in enumerate(layers):
        h = dot(h, stored(weight))
        if bias is not None:
            h = h + stored(bias)
        if place < len(layers) - 1:
            h = (frequency * h).apply(mpmath.sin, mpmath.cos)
    return h


@fifty_digits
def modulation(t: Floats, deltas: Floats, shift: float, h: Floats) -> Carried:
    """h (exp(-t |deltas|) + shift) of t (l, 1), deltas (d,), h (l, d)."""
    decay = (stored(-t) * stored(np.abs(deltas))).apply(mpmath.exp, mpmath.exp)
    return stored(h) * (decay + stored(shift))


@fifty_digits
def convolution(u: Floats, k: Floats, D: Floats, k_rev: Floats | None, space: str, factor: float) -> Carried:
    """y[t] = factor (sum_s k[t-s] u[s] + sum_s k_rev[s-t-1] u[s]) + D u[t] on u (b, d, l); in `freq` k_rev[s-t].

    `factor` multiplies the kernel where there is a reverse one. The reach is |u| |k| + |D u|: a transform spreads its
    roundings over all positions, so the sum of the terms of one position is no bound for it.
    """
    length = u.shape[-1]
    exact_u, taps, weight = stored(u).value, _taps(k, k_rev, space, factor), stored(D).value
    value = np.empty(u.shape, dtype=object)
    for b, d, t in np.ndindex(u.shape):
        terms = [taps[d][t - s] * exact_u[b, d, s] for s in range(length) if t - s in taps[d]]
        value[b, d, t] = mpmath.fsum([*terms, weight[d] * exact_u[b, d, t]])
    norms = np.array([float(mpmath.norm(list(tap.values()))) for tap in taps])
    reach = np.linalg.norm(u, axis=-1, keepdims=True) * norms[:, None] + np.abs(u * D[:, None])
    return Carried(value, reach)


def _taps(k: Floats, k_rev: Floats | None, space: str, factor: float) -> list[dict[int, Any]]:
    """Kernel of each channel by lag."""
    first = 1 if space == "time" else 0
    scale = mpmath.mpf(1 if k_rev is None else factor)
    taps: list[dict[int, Any]] = []
    for d, row in enumerate(k):
        by_lag = {j: scale * mpmath.mpf(float(w)) for j, w in enumerate(row)}
        for j, w in enumerate(() if k_rev is None else k_rev[d]):
            by_lag[-j - first] = by_lag.get(-j - first, mpmath.mpf(0)) + scale * mpmath.mpf(float(w))
        taps.append(by_lag)
    return taps


@fifty_digits
def block_product(x: Floats, weight: Floats) -> Carried:
    """Blocks x (b, k p) times weight (k, q, p), concatenated: (b, k q)."""
    k, _, p = weight.shape
    y = dot(stored(x.reshape(-1, k, p)), stored(weight))
    return y.exactly(lambda a: a.reshape(len(x), -1))


@fifty_digits
def monarch(x: Floats, w1: Floats, w2: Floats) -> Carried:
    """Block product, flat (k q) read as (r l), transposed to (l, r), block product, flat (s l)."""
    l, _, r = w2.shape
    k, _, p = w1.shape
    o1 = dot(stored(x.reshape(-1, k, p)), stored(w1))
    o1 = o1.exactly(lambda a: a.reshape(len(x), r, l).swapaxes(1, 2))
    return dot(o1, stored(w2)).exactly(lambda a: a.swapaxes(1, 2).reshape(len(x), -1))


@fifty_digits
def short_convolution(x: Floats, weight: Floats, bias: Floats) -> Carried:
    """y[t] = w0 x[t-2] + w1 x[t-1] + w2 x[t] + bias on x (b, c, l), weight (c, 3)."""
    padded = np.concatenate([np.zeros((*x.shape[:-1], 2)), x], axis=-1)
    windows = np.stack([padded[..., i : i + x.shape[-1]] for i in range(3)], axis=-1)
    y = dot(stored(windows), stored(weight[:, None, None, :]))
    return y.exactly(lambda a: a[..., 0]) + stored(bias[:, None])


@fifty_digits
def softmax(x: Floats, axis: int) -> Carried:
    """exp(x - max) / sum(exp(x - max)) along `axis`."""
    weights = _shifted(x, axis).apply(mpmath.exp, mpmath.exp)
    return weights / weights.sum(axis)


@fifty_digits
def cross_entropy(logits: Floats, labels: np.ndarray[Any, np.dtype[np.int64]]) -> Carried:
    """Mean over the positions with a label above 0 of log sum exp(logits) - logits[label]: shape ()."""
    kept = labels > 0
    rows, own = logits[kept], labels[kept]
    shifted = _shifted(rows, -1)
    log_sum = shifted.apply(mpmath.exp, mpmath.exp).sum(-1).apply(mpmath.log, lambda v: 1 / v)
    losses = log_sum - shifted.exactly(lambda a: np.take_along_axis(a, own[:, None], -1))
    return (losses.sum(0) / integer(len(own))).exactly(lambda a: a[0, 0, ...])


def _shifted(x: Floats, axis: int) -> Carried:
    """x - max(x): the largest is selected exactly, the difference rounds once."""
    return stored(x) - stored(x.max(axis, keepdims=True))
