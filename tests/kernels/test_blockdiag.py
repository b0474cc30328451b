"""Block-diagonal products by name: the same bits here, and everywhere a bound that all of them keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from convolution_truth import normal

from mlx_impl.kernels import blockdiag
from mlx_impl.kernels.blockdiag import BLOCKDIAG_KERNELS, FEWEST, POSITIONS, fast
from mlx_impl.ops import Ops
from parity.environment import collect
from parity.spec.profile import CANONICAL
from parity.tolerance import constant

ROWS = (1, FEWEST - 1, FEWEST, 17, POSITIONS, POSITIONS + 1, 2 * POSITIONS + 5)
SHAPES = ((4, 48, 96), (4, 96, 48), (1, 7, 5), (3, 1, 1), (2, 16, 300))
Kernel = Callable[[mx.array, mx.array], mx.array]


def worst(kernel: Kernel, rows: int, k: int, q: int, p: int) -> float:
    """Largest error over sqrt(p) u (|X||W|)."""
    x, weight = normal(1, rows, k, p), normal(2, k, q, p)
    y = np.array(kernel(mx.array(x), mx.array(weight)))
    exact, size = (
        np.einsum("...kp,kqp->...kq", a.astype(np.float64), w.astype(np.float64))
        for a, w in ((x, weight), (np.abs(x), np.abs(weight)))
    )
    return float((np.abs(y - exact) / size).max()) / 2.0**-24 / math.sqrt(p)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", BLOCKDIAG_KERNELS)
def test_every_product_keeps_the_bound(name: str, rows: int, shape: tuple[int, int, int]) -> None:
    assert worst(BLOCKDIAG_KERNELS[name], rows, *shape) <= constant("matmul_max")


@pytest.mark.skipif("x86_64" not in str(collect()), reason="said of the reference BLAS of MLX's wheel for x86-64")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_they_have_the_same_bits_with_the_reference_blas(rows: int, shape: tuple[int, int, int]) -> None:
    k, q, p = shape
    x, weight = mx.array(normal(1, rows, k, p)), mx.array(normal(2, k, q, p))
    assert len({np.array(kernel(x, weight)).tobytes() for kernel in BLOCKDIAG_KERNELS.values()}) == 1


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_the_fast_one_takes_any_leading_axes_and_keeps_the_dtype(dtype: mx.Dtype) -> None:
    x, weight = mx.array(normal(1, 3, 5, 2, 4)).astype(dtype), mx.array(normal(2, 2, 6, 4)).astype(dtype)
    y = fast(x, weight)
    assert (y.shape, y.dtype) == ((3, 5, 2, 6), dtype)
    assert float(mx.abs(y - blockdiag.einsum(x, weight)).max()) <= 0.05


def test_float64_stays_float64() -> None:
    with mx.stream(mx.cpu):
        x, weight = (
            mx.array(normal(s, *d).astype(np.float64), dtype=mx.float64) for s, d in ((1, (20, 2, 9)), (2, (2, 3, 9)))
        )
        y = fast(x, weight)
        assert y.dtype == mx.float64
        assert np.abs(np.array(y) - np.einsum("rkp,kqp->rkq", np.array(x), np.array(weight))).max() <= 1e-14


def test_its_gradients_are_einsum_s() -> None:
    x, weight = mx.array(normal(1, 40, 2, 5)), mx.array(normal(2, 2, 3, 5))
    both = [
        mx.grad(lambda x, w, kernel=kernel: mx.sum(mx.sin(kernel(x, w))), argnums=(0, 1))(x, weight)
        for kernel in (fast, blockdiag.einsum)
    ]
    for found, expected in zip(*both, strict=True):
        assert float(mx.abs(found - expected).max()) <= 1e-4


def test_a_profile_chooses_it() -> None:
    assert Ops(CANONICAL.replace(blockdiag_impl="fast"))._blockdiag is fast


def rounded(x: mx.array, weight: mx.array) -> mx.array:
    """Planted: operands rounded to 16 bits."""
    return fast(x.astype(mx.bfloat16).astype(x.dtype), weight)


def without_last_group(x: mx.array, weight: mx.array) -> mx.array:
    """Planted: the positions beyond whole groups are zero."""
    y = fast(x, weight)
    whole = x.shape[0] // POSITIONS * POSITIONS
    return mx.concatenate([y[:whole], mx.zeros_like(y[whole:])])


@pytest.mark.parametrize("planted", [rounded, without_last_group], ids=lambda f: f.__name__)
def test_the_bound_sees_a_fault(planted: Any) -> None:
    assert worst(planted, 2 * POSITIONS + 5, 4, 48, 96) > constant("matmul_max")
