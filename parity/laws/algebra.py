"""Laws of the map itself: silence, linearity, the skip alone, and the direct sum that a transform stands for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np

from parity.laws.law import Claim
from parity.laws.subject import Subject, scaled, total
from parity.metrics import round_to
from parity.spec.arrays import AnyArray, Array
from parity.tolerance import Allowance, constant, fftconv_scale

FACTORS: Final = (2.0, -0.5)
"""Powers of two: the products with them are exact, and so is each combination up to the rounding of one sum."""


def without(state: Mapping[str, AnyArray], pattern: str) -> dict[str, AnyArray]:
    """Return the state dict with the tensors whose names match `pattern` set to 0."""
    return {name: np.zeros_like(array) if re.search(pattern, name) else array for name, array in state.items()}


def zero_gives_zero(subject: Subject, signal: str, output: str, additive: str | None) -> Iterable[Claim]:
    """Claim y(0) = 0, exactly, once every additive bias is 0.

    Args:
        subject: The side under test.
        signal: The input that is set to 0.
        output: The output.
        additive: Pattern of the parameters that are added to something on the way; None if there is none.
    """
    state = subject.state if additive is None else without(subject.state, additive)
    y = subject.outputs(_silent(subject, signal), state)[output]
    yield Claim("y(0) = 0", y, np.zeros_like(y))


def zero_gives_bias(subject: Subject, signal: str, output: str, bias: str) -> Iterable[Claim]:
    """Claim y(0) = bias, exactly: a linear layer adds its bias to nothing.

    A component without that parameter must answer 0.
    """
    y = subject.outputs(_silent(subject, signal))[output]
    expected = np.zeros_like(y) + np.asarray(subject.state.get(bias, 0.0), dtype=np.float64)
    yield Claim(f"y(0) = {bias}", y, expected)


def linear(subject: Subject, signal: str, output: str, affine: bool = False) -> Iterable[Claim]:
    """Claim y(a u + b v) = a y(u) + b y(v), within the predicted noise of the three.

    Args:
        subject: The side under test.
        signal: The input u; v is drawn.
        output: The output y.
        affine: The component adds a bias, so (a + b - 1) y(0) is taken off the right side.
    """
    a, b = FACTORS
    shift = a + b - 1 if affine else 0.0
    u = np.asarray(subject.inputs[signal], dtype=np.float64)
    v = subject.normal("v", u.shape)
    mixed = np.asarray(round_to(a * u + b * v, subject.rung))
    questions = [{**subject.inputs, signal: x} for x in (mixed, u, v, np.zeros_like(u))]
    y, y_u, y_v, y_0 = (subject.outputs(question)[output] for question in questions)
    weights = (1.0, a, b, shift)
    allowed = total(
        *(
            scaled(subject.allowance(question)[output], weight)
            for question, weight in zip(questions, weights, strict=True)
        )
    )
    yield Claim("y(2u - v/2) = 2 y(u) - y(v)/2", y, a * y_u + b * y_v - shift * y_0, allowed)


def skip_alone(
    subject: Subject, signal: str, output: str, kernels: str, skip: Callable[[Subject], Array]
) -> Iterable[Claim]:
    """Claim y = u * D, rounded once, where every kernel is 0: D multiplies the input, one weight a channel.

    Args:
        subject: The side under test.
        signal: The input u (b, d, l).
        output: The output y.
        kernels: Pattern of the parameters without which every kernel is 0.
        skip: The skip weight D (d,).
    """
    u = np.asarray(subject.inputs[signal], dtype=np.float64)
    y = subject.outputs(state=without(subject.state, kernels))[output]
    yield Claim("k = 0 gives y = u * D", y, np.asarray(round_to(u * skip(subject)[:, None], subject.rung)))


Taps = Callable[[Subject], tuple[Array, Array]]
"""The kernel (d, 2l) by lag, the future in its second half (lag -1 is the last), and the skip weight (d,)."""


def direct_sum(subject: Subject, signal: str, output: str, taps: Taps, impulses: bool) -> Iterable[Claim]:
    """Claim y[t] = sum_s k[t - s] u[s] + D u[t], a sum of l products for each of l positions, no transform in it.

    Args:
        subject: The side under test.
        signal: The input u (b, d, l).
        output: The output y.
        taps: The kernel and the skip weight.
        impulses: Ask with unit impulses at the first, middle and last position, instead of with the case's input.
    """
    u = np.asarray(subject.inputs[signal], dtype=np.float64)
    kernel, skip = taps(subject)
    length = u.shape[-1]
    questions = {"the direct sum": u}
    if impulses:
        questions = {
            f"the response to an impulse at t = {t}": _impulse(u.shape, t) for t in sorted({0, length // 2, length - 1})
        }
    for what, question in questions.items():
        y = subject.outputs({**subject.inputs, signal: question})[output]
        expected = convolve(question, kernel, skip)
        for place in np.ndindex(u.shape[:2]):
            allowed = _row_allowance(question[place], kernel[place[1]], float(skip[place[1]]), subject)
            yield Claim(f"y of batch, channel {place} is {what}", y[place], expected[place], allowed)


def convolve(u: Array, kernel: Array, skip: Array) -> Array:
    """Return y[b, d, t] = sum_s kernel[d, (t - s) mod 2l] u[b, d, s] + skip[d] u[b, d, t], each sum rounded once."""
    length = u.shape[-1]
    lags = (np.arange(length)[:, None] - np.arange(length)) % (2 * length)
    products = kernel[None, :, lags] * u[:, :, None, :]
    own = skip[:, None] * u
    y = np.empty_like(u)
    for place in np.ndindex(u.shape):
        y[place] = math.fsum([*products[place].tolist(), float(own[place])])
    return y


def _row_allowance(u: Array, kernel: Array, skip: float, subject: Subject) -> Allowance:
    """Allowance of one channel: the classical bound of a convolution by transforms, and the skip's two roundings."""
    scale = fftconv_scale(u[None, None], kernel[None])
    unit = subject.rung.u * (constant("float64") if subject.rung.name == "f64" else 1.0)
    own = 2 * np.abs(u * skip)
    return Allowance(
        unit * float(scale.rms.item() + np.sqrt(np.mean(own**2))) + subject.rung.quantum,
        unit * float(scale.maximum.item() + own.max()) + subject.rung.quantum,
    )


def _impulse(shape: tuple[int, ...], t: int) -> Array:
    u = np.zeros(shape)
    u[..., t] = 1.0
    return u


def _silent(subject: Subject, signal: str) -> dict[str, AnyArray]:
    return {**subject.inputs, signal: np.zeros_like(subject.inputs[signal])}
