"""Float64 forms of every MLX function that keeps the dtype and not the accuracy, under MLX's names and arguments.

`FORMS` is the table that the context reads: a new form is one line there. The forms call nothing of MLX but what keeps
float64, so gradients of any order go through them in float64 too. `parity env --survey` measures which functions lose,
and the same functions again with their forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np

from parity.float64 import transforms
from parity.float64.convolution import conv, conv_general, conv_transpose, convolve
from parity.float64.elementwise import (
    cos64,
    erf64,
    erfinv64,
    exp64,
    log2_64,
    log10_64,
    logaddexp64,
    sigmoid64,
    sin64,
    tan64,
)
from parity.float64.spectrum import wide

Form = Callable[..., Any]


def _elementwise(function: Callable[[mx.array], mx.array]) -> Form:
    def call(a: Any, /) -> mx.array:
        return function(wide(a))

    return call


def logaddexp(a: Any, b: Any, /) -> mx.array:
    """`mx.logaddexp`: log(exp(a) + exp(b)), elementwise."""
    return logaddexp64(wide(a), wide(b))


def softmax(a: Any, /, axis: Any = None, *, precise: bool = False) -> mx.array:  # noqa: ARG001
    """`mx.softmax`: exp(a - max) / sum(exp(a - max)) along `axis`; float64 is as precise as it gets."""
    x = wide(a)
    weights = exp64(x - mx.stop_gradient(mx.max(x, axis=axis, keepdims=True)))
    return weights / mx.sum(weights, axis=axis, keepdims=True)


def logsumexp(a: Any, /, axis: Any = None, keepdims: bool = False) -> mx.array:
    """`mx.logsumexp`: max + log(sum(exp(a - max))) along `axis`; an infinite maximum is not subtracted."""
    x = wide(a)
    top = mx.stop_gradient(mx.max(x, axis=axis, keepdims=True))
    top = mx.where(mx.isfinite(top), top, mx.zeros_like(top))
    kept = mx.log(mx.sum(exp64(x - top), axis=axis, keepdims=True)) + top
    if keepdims:
        return kept
    return mx.squeeze(kept, axis=axis) if axis is not None else kept.reshape(())


def logcumsumexp(a: Any, /, axis: int | None = None, *, reverse: bool = False, inclusive: bool = True) -> mx.array:
    """`mx.logcumsumexp`: logarithm of the running sum of exp(a), by doubling: log2(n) rounds of `logaddexp`."""
    x = wide(a)
    x = x.reshape(-1) if axis is None else x
    x = x.swapaxes(-1 if axis is None else axis, -1)
    x = x[..., ::-1] if reverse else x
    length = x.shape[-1]
    if not inclusive:
        x = _shifted(x, 1)
    step = 1
    while step < length:
        x = logaddexp64(x, _shifted(x, step))
        step *= 2
    x = x[..., ::-1] if reverse else x
    return x.swapaxes(-1 if axis is None else axis, -1)


def _shifted(x: mx.array, step: int) -> mx.array:
    """Move the last axis on by `step`, minus infinity coming in."""
    filling = mx.full((*x.shape[:-1], step), -np.inf, dtype=mx.float64)
    return mx.concatenate([filling, x[..., : x.shape[-1] - step]], axis=-1)


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> mx.array:
    """`mx.fast.layer_norm` over the last axis in two passes: the mean, then the biased variance of the differences."""
    x = wide(x)
    centred = x - mx.mean(x, axis=-1, keepdims=True)
    variance = mx.mean(centred * centred, axis=-1, keepdims=True)
    y = centred / mx.sqrt(variance + eps)
    y = y if weight is None else y * wide(weight)
    return y if bias is None else y + wide(bias)


def rms_norm(x: Any, weight: Any, eps: float) -> mx.array:
    """`mx.fast.rms_norm`: x / sqrt(mean(x^2) + eps) times weight, over the last axis."""
    x = wide(x)
    y = x / mx.sqrt(mx.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * wide(weight)


def scaled_dot_product_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float,
    mask: Any = None,
    sinks: Any = None,
    force_fused: bool = False,  # noqa: ARG001
) -> mx.array:
    """`mx.fast.scaled_dot_product_attention`: softmax(scale q k^T + mask) v.

    Args:
        q: (b, heads, t_q, d).
        k: (b, groups, t_kv, d); `groups` divides `heads`, and each serves as many heads in turn.
        v: (b, groups, t_kv, d).
        scale: Factor on the scores.
        mask: None, 'causal' (the last query sees the last key), booleans (false is masked out) or numbers to add.
        sinks: (heads,), one more score for every query, which no value answers.
        force_fused: Of no effect: nothing is fused in float64.

    Raises:
        ValueError: The mask is an unknown word.
    """
    q, k, v = wide(q), wide(k), wide(v)
    repeats = q.shape[1] // k.shape[1]
    k, v = mx.repeat(k, repeats, axis=1), mx.repeat(v, repeats, axis=1)
    scores = _masked((q * scale) @ k.swapaxes(-1, -2), mask)
    if sinks is None:
        return softmax(scores, axis=-1) @ v
    column = mx.broadcast_to(wide(sinks)[:, None, None], (*scores.shape[:-1], 1))
    return softmax(mx.concatenate([column, scores], axis=-1), axis=-1)[..., 1:] @ v


def _masked(scores: mx.array, mask: Any) -> mx.array:
    if mask is None:
        return scores
    if isinstance(mask, str):
        if mask != "causal":
            raise ValueError(f"mask is {mask!r}; allowed: 'causal', an array, None")
        queries, keys = scores.shape[-2:]
        mask = mx.arange(keys)[None, :] <= mx.arange(queries)[:, None] + (keys - queries)
    if mask.dtype == mx.bool_:
        # The least number and not minus infinity, as in MLX: a row without any key is then their plain mean.
        return mx.where(mask, scores, mx.full(scores.shape, np.finfo(np.float64).min, dtype=mx.float64))
    return scores + wide(mask)


def rope(
    a: Any,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: Any,
    freqs: Any = None,
) -> mx.array:
    """`mx.fast.rope`: pairs of features turned by the angle scale (t + offset) base^(-2i/dims), or .../freqs[i].

    Args:
        a: (b, ..., t, d).
        dims: How many features are turned; the others pass.
        traditional: Whether a pair is (2i, 2i + 1), else (i, i + dims/2).
        base: Base of the frequencies; None if `freqs` are given.
        scale: Factor on the positions.
        offset: Position of the first element: a number, or one for every batch.
        freqs: (dims/2,), wavelengths in radians.
    """
    x, half = wide(a), dims // 2
    wavelengths = mx.array(np.power(float(base or 1.0), np.arange(half) / half), dtype=mx.float64)
    wavelengths = wide(freqs) if freqs is not None else wavelengths
    start = wide(offset).reshape(-1, *[1] * (x.ndim - 2)) if isinstance(offset, mx.array) else wide(float(offset))
    positions = mx.arange(x.shape[-2], dtype=mx.float64) + start
    angle = (positions * scale)[..., None] / wavelengths
    cos, sin = cos64(angle), sin64(angle)
    turned, rest = x[..., :dims], x[..., dims:]
    if traditional:
        first, second = turned[..., 0::2], turned[..., 1::2]
        pairs = [first * cos - second * sin, first * sin + second * cos]
        turned = mx.stack(pairs, axis=-1).reshape(turned.shape)
    else:
        first, second = turned[..., :half], turned[..., half:]
        turned = mx.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return mx.concatenate([turned, rest], axis=-1)


def cross_entropy(logits: Any, targets: mx.array) -> mx.array:
    """`mx.fast.cross_entropy`: logsumexp(logits) - logits[target] over the last axis, in float64."""
    x = wide(logits)
    return logsumexp(x, axis=-1) - mx.take_along_axis(x, targets[..., None], axis=-1).squeeze(-1)


def det(a: Any, /) -> mx.array:
    """`mx.linalg.det`: sign times the exponential of the logarithm, both of which MLX keeps in float64."""
    sign, logarithm = mx.linalg.slogdet(wide(a))
    return sign * exp64(logarithm)


def gather_mm(
    a: Any,
    b: Any,
    /,
    lhs_indices: mx.array | None = None,
    rhs_indices: mx.array | None = None,
    *,
    sorted_indices: bool = False,  # noqa: ARG001
) -> mx.array:
    """`mx.gather_mm`: products of the matrices that are named, which MLX refuses in float64.

    Args:
        a: (*batch, m, k).
        b: (*batch, k, n).
        lhs_indices: Which of a's matrices, counted along its flattened batch axes; None takes them as they lie.
        rhs_indices: Which of b's; both broadcast.
        sorted_indices: Of no effect: a promise that MLX may use.
    """
    return _matrices(wide(a), lhs_indices) @ _matrices(wide(b), rhs_indices)


def _matrices(x: mx.array, indices: mx.array | None) -> mx.array:
    return x if indices is None else x.reshape(-1, *x.shape[-2:])[indices]


def _transforms() -> dict[str, Form]:
    names: Sequence[str] = [
        f"{real}{inverse}fft{suffix}" for real in ("", "r") for inverse in ("", "i") for suffix in ("", "2", "n")
    ]
    spelled = [name.replace("rifft", "irfft") for name in names]
    return {f"fft.{name}": getattr(transforms, name) for name in spelled}


FORMS: Final[Mapping[str, Form]] = {
    "sin": _elementwise(sin64),
    "cos": _elementwise(cos64),
    "tan": _elementwise(tan64),
    "exp": _elementwise(exp64),
    "log2": _elementwise(log2_64),
    "log10": _elementwise(log10_64),
    "sigmoid": _elementwise(sigmoid64),
    "erf": _elementwise(erf64),
    "erfinv": _elementwise(erfinv64),
    "logaddexp": logaddexp,
    "softmax": softmax,
    "logsumexp": logsumexp,
    "logcumsumexp": logcumsumexp,
    "conv1d": conv,
    "conv2d": conv,
    "conv3d": conv,
    "conv_general": conv_general,
    "conv_transpose1d": conv_transpose,
    "conv_transpose2d": conv_transpose,
    "conv_transpose3d": conv_transpose,
    "convolve": convolve,
    "fast.layer_norm": layer_norm,
    "fast.rms_norm": rms_norm,
    "fast.scaled_dot_product_attention": scaled_dot_product_attention,
    "fast.rope": rope,
    "fast.cross_entropy": cross_entropy,
    "linalg.det": det,
    "gather_mm": gather_mm,
    **_transforms(),
}
"""MLX's functions, by their place under `mlx.core`, and what computes the same in float64."""

METHOD_FORMS: Final[Mapping[str, Form]] = {
    name: FORMS[name] for name in ("sin", "cos", "exp", "log2", "log10", "logsumexp", "logcumsumexp")
}
"""Methods of `mx.array` that lose as their functions do."""

FORMLESS: Final[Mapping[str, str]] = {
    "linalg.eig": "complex eigenvalues and vectors are complex64",
    "linalg.eigvals": "complex eigenvalues are complex64",
    "fft.stft": "a transform of windows, complex64",
    "fft.istft": "a transform of windows, complex64",
}
"""Functions that lose and have no form: what the context reports as a precision leak when they meet float64."""
