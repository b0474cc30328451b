"""How much a device errs in each operation that a port is made of, in units of what the table of tolerances predicts.

Of an operation whose error is predicted (`parity.backends.noise`): rms error on the device over the predicted one. Of a
bound in closed form: error over what is allowed. 1 is what the table says, so on a CPU the figures show how good the
table is, and on another device what it has to be multiplied by. Where a prediction is meant to be an upper one figures
lie below 1; a tensor may err 6 times the predicted error, which calibration leaves as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from torch import nn

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.noise import perturbed, with_rounding
from parity.backends.port import on_device
from parity.backends.shifts import noise_of
from parity.backends.true_transforms import TrueTransforms
from parity.device_constants import Entry
from parity.spec.arrays import Array
from parity.spec.devices import Devices
from parity.spec.precision import RUNGS
from parity.tolerance import CONSTANTS, NOISE_DRAWS, Scale, constant, fftconv_scale, matmul_scale

F32: Final = RUNGS["f32"]
SCATTER: Final = 1.25
"""Error over predicted error up to which the table stands: the prediction is one of 16 draws, and allows 6 times it."""

_SEED: Final = 20_261_124
_LENGTHS: Final = (64, 127, 1000, 1024, 4096, 8192)
_TERMS: Final = (16, 192, 768, 3072)
_ROWS: Final = 24


@dataclass(frozen=True)
class Question:
    """One operation on given numbers.

    Args:
        name: The error model, one of `parity.tolerance.CALIBRATED`.
        where: Sizes and kind of the numbers.
        arrays: Float32 numbers.
        reference: The operation in torch, or, with a scale, None.
        port: The same in MLX.
        scale: The bound in closed form, where the model is one; its `exact` result comes with it.
    """

    name: str
    where: str
    arrays: Sequence[Array]
    reference: Callable[..., torch.Tensor]
    port: Callable[..., mx.array]
    scale: Scale | None = None


def measure_device(devices: Devices, check: Callable[[], object] = bool) -> list[Entry]:
    """Measure every error model on the port's device, at float32; the largest figure of each counts.

    Args:
        devices: Where the port runs.
        check: Called before every question; may raise to stop.
    """
    found: dict[str, tuple[float, str]] = {}
    for question in questions():
        check()
        for name, figure in _figures(question, devices):
            if name not in found or figure > found[name][0]:
                found[name] = figure, question.where
    return [_entry(name, figure, where) for name, (figure, where) in found.items()]


def _entry(name: str, figure: float, where: str) -> Entry:
    """The figure, and what the table's number is multiplied by: the figure up to a hundredth, where it is too large."""
    is_bound = name in CONSTANTS
    factor = float(np.ceil(100 * figure)) / 100 if figure > (1.0 if is_bound else SCATTER) else 1.0
    return Entry(name, figure, where, factor, seen=constant(name) * figure if is_bound else None)


def _figures(question: Question, devices: Devices) -> Iterator[tuple[str, float]]:
    truth = _exact(question)
    error = np.abs(_on_device(question, devices) - truth)
    if question.scale is None:
        yield question.name, float(np.sqrt(np.mean(np.square(error)))) / _predicted(question, truth)
        return
    scale, rounding = question.scale, F32.quantum
    spread = np.sqrt(np.mean(np.square(error / (F32.u * scale.rms + rounding))))
    if scale.axes:
        per_row = np.sqrt(np.mean(np.square(error), axis=scale.axes, keepdims=True))
        spread = np.max(per_row / (F32.u * scale.rms + rounding))
    yield scale.constants[0], float(spread)
    yield scale.constants[1], float(np.max(error / (F32.u * scale.maximum + rounding)))


def _exact(question: Question) -> Array:
    with torch.no_grad(), TrueTransforms():
        return _numpy(question.reference(*map(torch.from_numpy, question.arrays)))


def _predicted(question: Question, truth: Array) -> float:
    generator = torch.Generator().manual_seed(_SEED)
    runs = []
    for _ in range(NOISE_DRAWS):
        with torch.no_grad(), perturbed(nn.Identity(), F32, generator):
            runs.append(_numpy(question.reference(*map(torch.from_numpy, question.arrays))))
    return with_rounding(noise_of(runs, truth, F32), truth, F32).rms


def _on_device(question: Question, devices: Devices) -> Array:
    with on_device(devices, F32):
        made = question.port(*(mlx_from_numpy(array, F32.dtype) for array in question.arrays))
        if made.dtype == mx.complex64:
            return np.asarray(np.array(made).astype(np.complex128).view(np.float64))
        return numpy_from_mlx(made)[0]


def _numpy(tensor: torch.Tensor) -> Array:
    plain = torch.view_as_real(tensor.resolve_conj()).flatten(-2) if tensor.is_complex() else tensor
    return np.array(plain.detach().numpy(), dtype=np.float64)


# --- what is asked ------------------------------------------------------------------------------------------------


def questions() -> Iterator[Question]:
    """Yield every operation on its numbers; they are float32's, from a fixed stream."""
    generator = np.random.Generator(np.random.Philox(_SEED))

    def normal(*shape: int) -> Array:
        return generator.standard_normal(shape).astype(np.float32).astype(np.float64)

    yield from _elementwise(normal)
    yield from _transforms(normal)
    yield from _sums(normal)
    yield from _bounds(normal)


Normal = Callable[..., Array]


def _elementwise(normal: Normal) -> Iterator[Question]:
    functions: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
        ("exp", torch.exp, mx.exp),
        ("sin", torch.sin, mx.sin),
        ("tanh", torch.tanh, mx.tanh),
        ("gelu", nn.functional.gelu, lambda x: x * (1 + mx.erf(x / np.sqrt(2).item())) / 2),
    )
    for name, reference, port in functions:
        for size in (0.1, 1.0, 8.0):
            x = size * normal(_ROWS, 512)
            yield Question(name, f"{_ROWS * 512} arguments of size {size:g}", (_single(x),), reference, port)


def _transforms(normal: Normal) -> Iterator[Question]:
    for n in _LENGTHS:
        x = normal(_ROWS, n)
        yield Question("transform", f"rfft of {n}", (x,), lambda x: torch.fft.rfft(x, norm="backward"), mx.fft.rfft)
        there_and_back = (
            lambda x, n=n: torch.fft.irfft(torch.fft.rfft(x), n=n),
            lambda x, n=n: mx.fft.irfft(mx.fft.rfft(x), n=n),
        )
        yield Question("transform", f"irfft of rfft of {n}", (x,), *there_and_back)


def _sums(normal: Normal) -> Iterator[Question]:
    for k in _TERMS:
        for kind, shift in (("normal", 0.0), ("offset", 4.0)):
            x, w = _single(normal(_ROWS, k) + shift), normal(_ROWS, k)
            told = f"{kind}, {k} terms"
            yield Question("product", told, (x, w), lambda x, w: x @ w.T, lambda x, w: x @ w.T)
            yield Question("sum", told, (x,), lambda x: x.sum(-1), lambda x: mx.sum(x, axis=-1))
            yield Question("softmax", told, (x,), lambda x: torch.softmax(x, -1), lambda x: mx.softmax(x, axis=-1))
            scale, bias = normal(k), normal(k)
            yield Question(
                "layer_norm",
                told,
                (x, scale, bias),
                lambda x, scale, bias: nn.functional.layer_norm(x, scale.shape, scale, bias, 1e-12),
                lambda x, scale, bias: mx.fast.layer_norm(x, scale, bias, 1e-12),
            )
    for taps in (3, 7):
        x, w = normal(2, 32, 256), normal(32, 1, taps)
        yield Question(
            "depthwise",
            f"{taps} taps",
            (x, w),
            lambda x, w: nn.functional.conv1d(x, w, padding=w.shape[-1] // 2, groups=w.shape[0]),
            lambda x, w: mx.conv1d(
                x.swapaxes(1, 2), w.swapaxes(1, 2), padding=w.shape[-1] // 2, groups=w.shape[0]
            ).swapaxes(1, 2),
        )


def _bounds(normal: Normal) -> Iterator[Question]:
    for k in _TERMS:
        x, w = normal(_ROWS, 2, k), normal(2, _ROWS, k)
        yield Question(
            "matmul_rms",
            f"two blocks of {k} terms",
            (x, w),
            lambda x, w: torch.einsum("nkp,kqp->nkq", x, w),
            lambda x, w: mx.einsum("nkp,kqp->nkq", x, w),
            matmul_scale(x, w),
        )
    for l in _LENGTHS:
        u, kernel = normal(2, 8, l), normal(8, l)
        yield Question(
            "fftconv_rms",
            f"length {l}",
            (u, kernel),
            lambda u, k: torch.fft.irfft(torch.fft.rfft(u, 2 * u.shape[-1]) * torch.fft.rfft(k, 2 * u.shape[-1]))[
                ..., : u.shape[-1]
            ],
            lambda u, k: mx.fft.irfft(
                mx.fft.rfft(u, n=2 * u.shape[-1]) * mx.fft.rfft(k, n=2 * u.shape[-1]), n=2 * u.shape[-1]
            )[..., : u.shape[-1]],
            fftconv_scale(u, kernel),
        )


def _single(x: Array) -> Array:
    return np.asarray(x.astype(np.float32).astype(np.float64))
