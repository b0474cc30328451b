"""The error model of sums against both frameworks' float32 sums, whatever the data, and apart from any model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings

from parity.backends.summation import MODELS, product_sums, sequential, sum_errors
from parity.spec.precision import RUNGS

Array = npt.NDArray[np.float64]
U = RUNGS["f32"].u
RMS = math.sqrt(1 / (8 * math.log(2)))
"""Root mean square of a relative rounding error in units of u, for magnitudes log-uniform within a binade."""

FAMILIES = ("normal", "positive", "mean ten times the spread", "progression")

seeds = st.integers(0, 2**32 - 1)


def draw(family: str, shape: tuple[int, ...], seed: int) -> Array:
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = {
        "normal": lambda: rng.standard_normal(shape),
        "positive": lambda: rng.random(shape),
        "mean ten times the spread": lambda: rng.standard_normal(shape) + 10,
        "progression": lambda: np.linspace(-1, 1, math.prod(shape)).reshape(shape),
    }[family]()
    return drawn.astype(np.float32).astype(np.float64)


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def mlx_sum(x: Array, axes: tuple[int, ...]) -> Array:
    return np.array(mx.sum(mx.array(x.astype(np.float32)), axis=axes, keepdims=True)).astype(np.float64)


def torch_sum(x: Array, axes: tuple[int, ...]) -> Array:
    return torch.from_numpy(x.astype(np.float32)).sum(axes, keepdim=True).double().numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
@given(lengths=st.lists(st.sampled_from([1, 2, 3, 7, 16, 31, 64, 128]), min_size=3, max_size=3), seed=seeds)
@settings(max_examples=15)
def test_both_frameworks_sums_stay_within_the_model(
    family: str, axes: tuple[int, ...], lengths: list[int], seed: int
) -> None:
    x = draw(family, tuple(lengths), seed)
    exact = np.asarray(x.sum(axes, keepdims=True))
    predicted = U * sequential(torch.from_numpy(x), axes).numpy()
    for computed in (mlx_sum(x, axes), torch_sum(x, axes)):
        assert np.abs(computed - exact).max() <= 4 * RMS * predicted.max()
        assert rms(computed - exact) <= 2 * rms(predicted)


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_the_model_is_as_large_as_the_error_of_a_sequential_sum(family: str) -> None:
    x = draw(family, (16, 64, 64), 0)
    error = mlx_sum(x, (0, 1)) - x.sum((0, 1), keepdims=True)
    predicted = U * sequential(torch.from_numpy(x), (0, 1)).numpy()
    assert 0.7 * RMS <= rms(error / predicted) <= 1.3 * RMS


@pytest.mark.parametrize("shape", [(2, 16, 8), (4, 32, 16), (2, 64, 32)])
def test_in_a_progression_roundings_align_and_independent_ones_do_not_account_for_it(shape: tuple[int, ...]) -> None:
    x = draw("progression", shape, 0)
    error = mlx_sum(x, (0, 1)) - x.sum((0, 1), keepdims=True)
    partial = np.cumsum(x.reshape(-1, shape[-1]), axis=0)
    assert rms(error) > 2.5 * RMS * rms(U * np.linalg.norm(partial, axis=0))
    assert rms(error) <= rms(U * sequential(torch.from_numpy(x), (0, 1)).numpy())


@pytest.mark.parametrize("family", FAMILIES[:3])
@pytest.mark.parametrize("columns", [1, 2, 7, 8, 9, 16, 64, 100, 768, 3072])
def test_both_frameworks_products_stay_within_the_model(family: str, columns: int) -> None:
    x, w = draw(family, (24, columns), 0), draw(family, (columns, 32), 1)
    predicted = U * product_sums(torch.from_numpy(x), torch.from_numpy(w)).numpy()
    computed = [
        np.array(mx.array(x.astype(np.float32)) @ mx.array(w.astype(np.float32))),
        (torch.from_numpy(x.astype(np.float32)) @ torch.from_numpy(w.astype(np.float32))).numpy(),
    ]
    products = U * np.sqrt(np.square(x) @ np.square(w))  # their roundings, where a framework has no fused operation
    predicted = np.hypot(predicted, products)
    ratios = [rms(c.astype(np.float64) - x @ w) / rms(predicted) for c in computed]
    assert max(ratios) <= 1.3 * RMS
    assert ratios[0] >= 0.6 * RMS


@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 4)),
    family=st.sampled_from(FAMILIES),
    seed=seeds,
)
def test_partial_sums_of_a_product_are_modelled_between_their_points(
    sizes: tuple[int, int, int], family: str, seed: int
) -> None:
    rows, columns, width = sizes
    x, w = draw(family, (rows, columns), seed), draw(family, (columns, width), seed + 1)
    exact = np.sqrt(np.sum(np.cumsum(x[:, :, None] * w[None], axis=1) ** 2, axis=1))
    modelled = product_sums(torch.from_numpy(x), torch.from_numpy(w)).numpy()
    if columns <= 8:
        np.testing.assert_array_max_ulp(exact, modelled, 64)
    assert 0.5 <= rms(modelled) / rms(exact) <= 2


def test_a_sum_of_nothing_has_no_error() -> None:
    assert sequential(torch.zeros(2, 0, dtype=torch.float64), (1,)).tolist() == [[0.0], [0.0]]
    assert product_sums(torch.zeros(2, 0), torch.zeros(0, 3)).tolist() == [[0.0] * 3] * 2


def test_a_complex_sum_errs_in_both_parts() -> None:
    real, imaginary = (torch.from_numpy(draw("normal", (5, 7), seed)) for seed in (0, 1))
    both = sequential(torch.complex(real, imaginary), (1,))
    assert torch.equal(both, torch.hypot(sequential(real, (1,)), sequential(imaginary, (1,))))


# The operations -------------------------------------------------------------------------------------------------

ATEN: Any = torch.ops.aten


def double(family: str, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(draw(family, shape, seed))


def norm_arguments(family: str) -> tuple[Any, ...]:
    return double(family, 40, 96), [96], double("normal", 96, seed=1), double("normal", 96, seed=2), 1e-5


def norm_backward_arguments(family: str) -> tuple[Any, ...]:
    x, shape, weight, bias, eps = norm_arguments(family)
    _, mean, inverse = ATEN.native_layer_norm(x, shape, weight, bias, eps)
    dy = double("progression", 40, 96)
    return dy, x, shape, mean, inverse, weight, bias, [True, True, True]


def convolution_arguments(family: str) -> tuple[Any, ...]:
    x, weight, dy = double(family, 4, 6, 64), double("normal", 6, 1, 3, seed=1), double("progression", 4, 6, 66)
    return dy, x, weight, [6], [1], [2], [1], False, [0], 6, [False, True, True]


OPERATIONS: dict[str, tuple[Any, Callable[[str], tuple[Any, ...]]]] = {
    "mm": (ATEN.mm, lambda family: (double(family, 9, 96), double(family, 96, 11, seed=1))),
    "bmm": (ATEN.bmm, lambda family: (double(family, 3, 9, 96), double(family, 3, 96, 11, seed=1))),
    "addmm": (
        ATEN.addmm,
        lambda family: (double(family, 11, seed=2) * 50, double(family, 9, 96), double(family, 96, 11, seed=1)),
    ),
    "baddbmm": (
        ATEN.baddbmm,
        lambda family: (double(family, 3, 9, 11), double(family, 3, 9, 96), double(family, 3, 96, 11, seed=1)),
    ),
    "sum": (ATEN.sum.dim_IntList, lambda family: (double(family, 6, 32, 8), [0, 1], False)),
    "mean": (ATEN.mean.dim, lambda family: (double(family, 6, 32, 8), [1], True)),
    "linalg_vector_norm": (ATEN.linalg_vector_norm, lambda family: (double(family, 8, 96), 2.0, [-1], True)),
    "_softmax": (ATEN._softmax, lambda family: (double(family, 8, 96), -1, False)),
    "_log_softmax": (ATEN._log_softmax, lambda family: (double(family, 8, 96), -1, False)),
    "native_layer_norm": (ATEN.native_layer_norm, norm_arguments),
    "native_layer_norm_backward": (ATEN.native_layer_norm_backward, norm_backward_arguments),
    "convolution_backward": (ATEN.convolution_backward, convolution_arguments),
    "embedding_dense_backward": (
        ATEN.embedding_dense_backward,
        lambda family: (double(family, 8, 32, 4), torch.arange(256).reshape(8, 32) % 3, 5, -1, False),
    ),
    "nll_loss_forward": (
        ATEN.nll_loss_forward,
        lambda family: (double(family, 512, 4), torch.arange(512) % 4, None, 1, -100),
    ),
}


BLIND_TO_A_MEAN = {"linalg_vector_norm", "_softmax", "_log_softmax", "native_layer_norm_backward"}
"""Operations whose terms are positive, or normalised, whatever the data."""


def narrow(argument: Any) -> Any:
    return argument.float() if isinstance(argument, torch.Tensor) and argument.is_floating_point() else argument


def parts(result: Any) -> list[torch.Tensor | None]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("family", FAMILIES[:3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_torchs_float32_operations_stay_within_their_models(operation: str, family: str) -> None:
    function, arguments = OPERATIONS[operation]
    wide = arguments(family)
    exact, computed = parts(function(*wide)), parts(function(*map(narrow, wide)))
    errors = sum_errors(operation, wide, exact if len(exact) > 1 else exact[0])
    for output in {error.output for error in errors}:
        truth, found = exact[output], computed[output]
        assert truth is not None
        assert found is not None
        predicted = torch.zeros_like(truth)
        for error in errors:
            if error.output == output:
                predicted = torch.hypot(predicted, error.scale.expand_as(truth))
        own = 4 * truth.abs() + (4 if operation == "_log_softmax" else 0)  # the roundings that are no sum's
        assert rms((found.double() - truth).numpy()) <= U * rms(torch.hypot(predicted, own).numpy())


@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - BLIND_TO_A_MEAN))
def test_a_mean_ten_times_the_spread_costs_more_than_its_size(operation: str) -> None:
    """What no function of the shape can know: per unit of the result's size, or of the terms', the error grows."""
    function, arguments = OPERATIONS[operation]

    def size(family: str) -> float:
        wide = arguments(family)
        return max(float(error.scale.norm()) for error in sum_errors(operation, wide, function(*wide)))

    assert size("mean ten times the spread") > 2 * size("normal")


def test_every_model_is_shown_against_its_operation() -> None:
    assert set(OPERATIONS) == set(MODELS)


def test_a_loss_of_ignored_labels_has_no_error() -> None:
    arguments = (double("normal", 4, 3), torch.full((4,), -100), None, 1, -100)
    assert sum_errors("nll_loss_forward", arguments, ATEN.nll_loss_forward(*arguments)) == []


def test_an_operation_that_sums_nothing_has_no_error() -> None:
    assert sum_errors("mul", (torch.ones(2), torch.ones(2)), torch.ones(2)) == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_fits_the_result_that_it_belongs_to(operation: str) -> None:
    function, arguments = OPERATIONS[operation]
    wide = arguments("normal")
    result = function(*wide)
    errors = sum_errors(operation, wide, result)
    assert errors
    for error in errors:
        part = parts(result)[error.output]
        assert part is not None
        torch.broadcast_to(error.scale * torch.zeros(error.shape, dtype=torch.float64), part.shape)
        assert bool(error.scale.isfinite().all())
        assert bool((error.scale != 0).any())
