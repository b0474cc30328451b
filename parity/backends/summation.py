"""Rounding of sums, from their partial sums.

A sum computed one term after the other has fl(S_k) = (S_{k-1} + t_k)(1 + delta_k), |delta_k| <= u, so its error is
sum_k delta_k S_k. Independent roundings make that 0.43 u ||S||_2 in the root mean square, whatever the data: with terms
of random sign ||S||_2 grows as the number of terms n, with terms of one sign as n sqrt(n), and so do the errors of both
frameworks. No function of the shape alone can know this. Blocked and vectorised sums have shorter partial sums and do
better; the sequential one, which MLX uses on a CPU, is what is predicted.

In a regular progression roundings are not independent: they align, and err by up to 0.5 u ||S||_1. That too is
measured, on the very terms, by adding them up one after the other in float32; of a matrix product, on a sample of those
rows and columns that are smooth, since a product of anything else is no progression.

`parity.backends.sum_models` says which sums an operation is made of.

Source: Higham, Accuracy and Stability of Numerical Algorithms, section 4.2; 0.43 is the root mean square of a relative
rounding error in units of u, sqrt(1/8 ln 2); sampled on both frameworks by tests/backends/test_summation.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from parity.spec.precision import RUNGS

CHUNKS: Final = 8
"""Points along a matrix product's long axis at which its partial sums are computed; between them they are modelled."""

ALIGN_FROM: Final = 32
"""Terms of a product sum from which alignment is looked for."""

SMOOTH: Final = 0.1
"""Norm of the second differences over the norm, below which a row is smooth: linear 0, white noise sqrt(6).

A sine is smooth from 20 samples a period on; a mean ten times the spread is not, 0.24.
"""

SAMPLES: Final = 8
"""Smooth rows, and columns, of a product whose terms are added up in float32."""


def sequential(terms: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Return the error of summing `terms` over `axes`, in units of u: ||S||_2 and, in quadrature, what aligns.

    Args:
        terms: Any shape; of a complex sum both parts in quadrature.
        axes: Summed in the order of memory; they are kept with length 1.
    """
    if terms.is_complex():
        return torch.hypot(sequential(terms.real, axes), sequential(terms.imag, axes))
    kept = [axis for axis in range(terms.ndim) if axis not in axes]
    rows = [terms.shape[axis] for axis in kept]
    flat = terms.permute([*kept, *axes]).reshape(*rows, math.prod(terms.shape[axis] for axis in axes))
    norm = torch.cumsum(flat, -1).square().sum(-1).sqrt()
    shape = [1 if axis in axes else size for axis, size in enumerate(terms.shape)]
    return torch.hypot(norm, _aligned(flat)).reshape(shape)


def running_loss(terms: torch.Tensor) -> torch.Tensor:
    """Return what float32 loses by adding up along the last axis, after each term, in units of float32's u."""
    narrow = terms.detach().numpy().astype(np.float32)
    return _lost(_float32_totals(narrow), np.add.accumulate(narrow, axis=-1, dtype=np.float64))


def _aligned(terms: torch.Tensor) -> torch.Tensor:
    """Return the error of adding float32 terms along the last axis one after the other, in units of float32's u."""
    narrow = terms.detach().numpy().astype(np.float32)
    if narrow.shape[-1] == 0:
        return torch.zeros(terms.shape[:-1], dtype=torch.float64)
    return _lost(_float32_totals(narrow)[..., -1], narrow.astype(np.float64).sum(-1))


def _float32_totals(terms: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.add.accumulate(terms, axis=-1, dtype=np.float32)


def _lost(totals: npt.NDArray[np.float32], exact: npt.NDArray[np.float64]) -> torch.Tensor:
    """Distance in units of float32's u; none where float32 overflows."""
    with np.errstate(invalid="ignore"):
        error = np.abs(totals.astype(np.float64) - exact) / RUNGS["f32"].u
    return torch.from_numpy(np.asarray(np.nan_to_num(error, nan=0.0, posinf=0.0)))


def bridged(parts: Iterable[tuple[torch.Tensor, int]], steps: torch.Tensor) -> torch.Tensor:
    """Return ||S||_2 of sums that are known at a few points only.

    From S_a to S_b across c terms the partial sums are a straight line and a bridge of random steps:
    c (S_a^2 + S_a S_b + S_b^2) / 3 + c/6 sum t^2.

    Args:
        parts: What the sum grows by to its next point, and by how many terms; the shape of the sums.
        steps: Sum of the squares of all terms, of the same shape.
    """
    squares, start, longest = torch.zeros_like(steps), torch.zeros_like(steps), 1
    for growth, count in parts:
        end = start + growth
        if count == 1:
            squares.addcmul_(end, end)
        else:  # a^2 + ab + b^2 = (a + b) b + a^2
            squares.addcmul_(growth.add_(start).add_(start), end, value=count / 3)
            squares.addcmul_(start, start, value=count / 3)
        start, longest = end, max(longest, count)
    return squares.add_(steps, alpha=longest / 6 if longest > 1 else 0.0).sqrt_()


def product_sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the error of x (..., m, k) times y (..., k, n) in units of u, element by element, shape (..., m, n).

    That is ||S||_2, and in quadrature what aligns. The partial sums are exact at up to 8 points, `bridged` between. A
    complex product has 2 k real ones in either part; both parts are in quadrature, as in `sequential`.
    """
    if x.is_complex() or y.is_complex():
        left, right = (torch.view_as_real(factor.to(torch.complex128).resolve_conj()) for factor in (x, y))
        real = product_sums((left * torch.tensor([1.0, -1.0])).flatten(-2), right.movedim(-1, -2).flatten(-3, -2))
        imaginary = product_sums(left.flatten(-2), right.flip(-1).movedim(-1, -2).flatten(-3, -2))
        return torch.hypot(real, imaginary)
    size = x.shape[-1]
    steps = torch.matmul(x.square(), y.square())
    if size == 0:
        return steps
    return _with_alignment(bridged(_chunks(x, y), steps), x, y)


def _chunks(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
    size = x.shape[-1]
    chunk = math.ceil(size / CHUNKS)
    for first in range(0, size, chunk):
        part = slice(first, min(first + chunk, size))
        yield torch.matmul(x[..., :, part], y[..., part, :]), part.stop - part.start


def _with_alignment(norm: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Raise ||S||_2 by what float32 is seen to lose, where both the row and the column are smooth."""
    if x.shape[-1] < ALIGN_FROM or norm.numel() == 0:
        return norm
    rows, columns = smooth(x), smooth(y.mT)
    if not (bool(rows.any()) and bool(columns.any())):
        return norm
    batch = norm.shape[:-2]
    left, right, norms, rows, columns = (
        values.expand(*batch, *values.shape[-kept:]).reshape(-1, *values.shape[-kept:])
        for values, kept in ((x, 2), (y, 2), (norm, 2), (rows, 1), (columns, 1))
    )
    squares = []
    for index in spread(torch.nonzero(rows.any(-1) & columns.any(-1)).flatten(), SAMPLES // 2):
        i, j = (spread(torch.nonzero(mask[index]).flatten(), SAMPLES) for mask in (rows, columns))
        lost = _aligned(left[index][i][:, None] * right[index][:, j].mT[None])
        squares.append((lost / norms[index][i][:, j]).nan_to_num(0.0, 0.0, 0.0).square().mean())
    if not squares:
        return norm
    factor = math.sqrt(1 + float(torch.stack(squares).mean()))
    return torch.where((rows[:, :, None] & columns[:, None]).reshape(norm.shape), norm * factor, norm)


def smooth(rows: torch.Tensor) -> torch.Tensor:
    """Return which rows (..., k) are smooth along their last axis."""
    bends = torch.diff(rows, n=2).square_().sum(-1)
    return bends <= SMOOTH**2 * torch.linalg.vecdot(rows, rows)


def spread(indices: torch.Tensor, count: int) -> torch.Tensor:
    """Return at most `count` of `indices`, evenly spread over them, the first and the last included."""
    if len(indices) <= count:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, count).round().long()]


def segment_sums(terms: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return ||S||_2 of sums of the rows of `terms` (n, c), each into the row of the result (count, c) that it names.

    Args:
        terms: What is added up, in order.
        rows: Row of the result for each, shape (n,).
        count: Rows of the result.
    """
    result = torch.zeros(count, terms.shape[-1], dtype=terms.dtype)
    if rows.numel() == 0:
        return result
    ordered, order = torch.sort(rows, stable=True)
    partial = torch.cumsum(terms[order], 0)
    _, lengths = torch.unique_consecutive(ordered, return_counts=True)
    ends = torch.cumsum(lengths, 0)
    before = torch.cat([torch.zeros_like(partial[:1]), partial[ends[:-1] - 1]])
    partial -= torch.repeat_interleave(before, lengths, 0)
    return result.index_add_(0, ordered, partial.square()).sqrt_()


def positive(terms: int) -> float:
    """||S||_2 over the sum itself, of n equal terms: sqrt(n/3)."""
    return math.sqrt(terms / 3)
