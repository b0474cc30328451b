"""Rounding of sums, from their partial sums.

A sum computed one term after the other has fl(S_k) = (S_{k-1} + t_k)(1 + delta_k), |delta_k| <= u, so its error is
sum_k delta_k S_k. Independent roundings make that 0.43 u ||S||_2 in the root mean square, whatever the data: with terms
of random sign ||S||_2 grows as the number of terms n, with terms of one sign as n sqrt(n), and so do the errors of both
frameworks. No function of the shape alone can know this. Blocked and vectorised sums have shorter partial sums and do
better; the sequential one, which MLX uses on a CPU, is what is predicted.

In a regular progression roundings are not independent: they align, and err by up to 0.5 u ||S||_1. That too is
measured, on the very terms, by adding them up one after the other in float32.

Source: Higham, Accuracy and Stability of Numerical Algorithms, section 4.2; 0.43 is the root mean square of a relative
rounding error in units of u, sqrt(1/8 ln 2); sampled on both frameworks by tests/backends/test_summation.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from parity.spec.precision import RUNGS

CHUNKS: Final = 8
"""Points along a matrix product's long axis at which its partial sums are computed; between them they are modelled."""


@dataclass(frozen=True)
class SumError:
    """Error of one result of an operation in units of u: `scale` times a number in [-1, 1].

    Args:
        output: Which of the operation's results.
        scale: Broadcastable to it; its sign tells elements that err together from those that err against each other.
        shape: Shape of the random numbers: where an axis is 1, the error is common to all elements along it.
    """

    output: int
    scale: torch.Tensor
    shape: tuple[int, ...]


Model = Callable[[tuple[Any, ...], Any], list[SumError]]


def sequential(terms: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Return the error of summing `terms` over `axes`, in units of u: ||S||_2 and, in quadrature, what aligns.

    Args:
        terms: Any shape.
        axes: Summed in the order of memory; they are kept with length 1.
    """
    if terms.is_complex():
        return torch.hypot(sequential(terms.real, axes), sequential(terms.imag, axes))
    kept = [axis for axis in range(terms.ndim) if axis not in axes]
    flat = terms.permute(*kept, *axes).reshape(*(terms.shape[axis] for axis in kept), -1)
    norm = torch.cumsum(flat, -1).square().sum(-1).sqrt()
    shape = [1 if axis in axes else size for axis, size in enumerate(terms.shape)]
    return torch.hypot(norm, _aligned(flat)).reshape(shape)


def _aligned(terms: torch.Tensor) -> torch.Tensor:
    """Return the error of adding float32 terms along the last axis one after the other, in units of float32's u."""
    narrow = terms.detach().numpy().astype(np.float32)
    if narrow.shape[-1] == 0:
        return torch.zeros(terms.shape[:-1], dtype=torch.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.accumulate(narrow, axis=-1, dtype=np.float32)[..., -1].astype(np.float64)
        error = np.abs(total - narrow.astype(np.float64).sum(-1)) / RUNGS["f32"].u
    return torch.from_numpy(np.asarray(np.nan_to_num(error, nan=0.0, posinf=0.0)))


def product_sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return ||S||_2 of the sums of x (..., m, k) times y (..., k, n), element by element, shape (..., m, n).

    The partial sums are exact at up to 8 points, S_a to S_b across a chunk of c terms. Between two of them they are a
    straight line and a bridge of random steps: c (S_a^2 + S_a S_b + S_b^2) / 3 + c/6 sum t^2.
    """
    size = x.shape[-1]
    steps = torch.matmul(x.square(), y.square())
    if size == 0:
        return steps
    squares, start = torch.zeros_like(steps), torch.zeros_like(steps)
    chunk = math.ceil(size / CHUNKS)
    for first in range(0, size, chunk):
        part = slice(first, min(first + chunk, size))
        end = start + torch.matmul(x[..., :, part], y[..., part, :])
        count = part.stop - part.start
        line = end.square() if count == 1 else count * (start.square() + start * end + end.square()) / 3
        squares += line
        start = end
    return (squares + (chunk / 6 if chunk > 1 else 0.0) * steps).sqrt()


def _positive(terms: int) -> float:
    """||S||_2 over the sum itself, of n equal terms: sqrt(n/3)."""
    return math.sqrt(terms / 3)


def _product(args: tuple[Any, ...], result: Any) -> list[SumError]:
    return [SumError(0, product_sums(args[0], args[1]), tuple(result.shape))]


def _biased_product(args: tuple[Any, ...], result: Any) -> list[SumError]:
    """The bias is added last."""
    return [SumError(0, torch.hypot(product_sums(args[1], args[2]), result), tuple(result.shape))]


def _axes(args: tuple[Any, ...], position: int) -> tuple[int, ...]:
    """The reduced axes of an operation; all, where it names none."""
    axes = args[position] if len(args) > position else None
    named = range(args[0].ndim) if not axes else [axes] if isinstance(axes, int) else axes
    return tuple(axis % args[0].ndim for axis in named) if args[0].ndim else ()


def _sum(args: tuple[Any, ...], result: Any) -> list[SumError]:
    return [SumError(0, sequential(args[0], _axes(args, 1)).reshape(result.shape), tuple(result.shape))]


def _mean(args: tuple[Any, ...], result: Any) -> list[SumError]:
    (error,) = _sum(args, result)
    count = args[0].numel() / max(result.numel(), 1)
    return [SumError(0, error.scale / max(count, 1), error.shape)]


def _vector_norm(args: tuple[Any, ...], result: Any) -> list[SumError]:
    """A sum of squares, whose root halves the relative error."""
    count = args[0].numel() / max(result.numel(), 1)
    return [SumError(0, _positive(math.ceil(count)) / 2 * result, tuple(result.shape))]


def _row_shape(values: torch.Tensor, axis: int) -> tuple[int, ...]:
    return tuple(1 if index == axis % values.ndim else size for index, size in enumerate(values.shape))


def _softmax(args: tuple[Any, ...], result: Any) -> list[SumError]:
    return [SumError(0, _positive(args[0].shape[args[1]]) * result, _row_shape(result, args[1]))]


def _log_softmax(args: tuple[Any, ...], result: Any) -> list[SumError]:
    shape = _row_shape(result, args[1])
    return [SumError(0, torch.full(shape, _positive(args[0].shape[args[1]]), dtype=result.dtype), shape)]


def _layer_norm(args: tuple[Any, ...], result: Any) -> list[SumError]:
    """Mean and variance are off by one number per row each: a shift, and a factor on what is normalised."""
    x, _, weight, bias, _ = args
    out, mean, inverse_sigma = result
    size = x.shape[-1]
    shift = weight * (sequential(x, (x.ndim - 1,)) / size * inverse_sigma)
    factor = _positive(size) / 2 * (out - bias)
    return [SumError(0, shift, tuple(mean.shape)), SumError(0, factor, tuple(mean.shape))]


def _layer_norm_backward(args: tuple[Any, ...], result: Any) -> list[SumError]:
    """dx = (g - mean(g) - x_hat mean(g x_hat)) / sigma with g = dy * weight; dweight, dbias are sums over the rows."""
    dy, x, _, mean, inverse_sigma, weight = args[:6]
    normalised = (x - mean) * inverse_sigma
    last, rows = (x.ndim - 1,), tuple(range(x.ndim - 1))
    g = dy * weight
    shift = sequential(g, last) / x.shape[-1] * inverse_sigma
    slope = sequential(g * normalised, last) / x.shape[-1] * inverse_sigma * normalised
    errors = [SumError(0, scale, tuple(mean.shape)) for scale in (shift, slope)]
    for output, terms in ((1, dy * normalised), (2, dy)):
        if result[output] is not None:
            shape = tuple(result[output].shape)
            errors.append(SumError(output, sequential(terms, rows).reshape(shape), shape))
    return errors


def _convolution_backward(args: tuple[Any, ...], result: Any) -> list[SumError]:
    """dweight and dbias of a one-dimensional convolution are sums over batch and positions."""
    dy, x, weight, _, stride, padding, dilation, _, _, groups = args[:10]
    errors = []
    if result[1] is not None:
        padded = functional.pad(x, (padding[0], padding[0]))
        taps = [
            padded[..., start : start + (dy.shape[-1] - 1) * stride[0] + 1 : stride[0]]
            for start in range(0, weight.shape[-1] * dilation[0], dilation[0])
        ]
        left = _grouped(dy, groups)
        scale = torch.stack([product_sums(left, _grouped(tap, groups).mT) for tap in taps], -1)
        errors.append(SumError(1, scale.reshape(weight.shape), tuple(weight.shape)))
    if result[2] is not None:
        shape = tuple(result[2].shape)
        errors.append(SumError(2, sequential(dy, (0, 2)).reshape(shape), shape))
    return errors


def _grouped(values: torch.Tensor, groups: int) -> torch.Tensor:
    """(b, c, l) to (groups, c / groups, b l)."""
    batch, channels, length = values.shape
    return values.transpose(0, 1).reshape(groups, channels // groups, batch * length)


def _embedding_backward(args: tuple[Any, ...], result: Any) -> list[SumError]:
    """Row r of the result is the sum of the rows of dy whose index is r, in order."""
    dy, indices = args[0].reshape(-1, args[0].shape[-1]), args[1].reshape(-1)
    squares = torch.zeros_like(result)
    for row in indices.unique().tolist():
        squares[row] = torch.cumsum(dy[indices == row], 0).square().sum(0)
    return [SumError(0, squares.sqrt(), tuple(result.shape))]


def _negative_log_likelihood(args: tuple[Any, ...], _result: Any) -> list[SumError]:
    """The loss is a sum, or with reduction 1 a mean, over the labels that are not ignored."""
    log_probabilities, labels, _, reduction, ignored = args[:5]
    rows = torch.nonzero(labels != ignored).reshape(-1)
    if reduction == 0 or rows.numel() == 0:
        return []
    scale = sequential(log_probabilities[rows, labels[rows]], (0,)).reshape(())
    return [SumError(0, scale / rows.numel() if reduction == 1 else scale, ())]


MODELS: Final[Mapping[str, Model]] = {
    "addmm": _biased_product,
    "baddbmm": _biased_product,
    "mm": _product,
    "bmm": _product,
    "sum": _sum,
    "mean": _mean,
    "linalg_vector_norm": _vector_norm,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "convolution_backward": _convolution_backward,
    "embedding_dense_backward": _embedding_backward,
    "nll_loss_forward": _negative_log_likelihood,
}
"""Operations that sum, by their name without namespace: from operands and results to the errors of the results."""


def sum_errors(operation: str, args: tuple[Any, ...], result: Any) -> list[SumError]:
    """Return what the rounding of an operation's sums does to its results, in units of u; nothing if it has none."""
    model = MODELS.get(operation)
    return [] if model is None else model(args, result)
