"""The error model of sums against both frameworks' float32 sums, whatever the data, and apart from any model."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings

from parity.backends.summation import bridged, product_sums, running_loss, segment_sums, sequential, smooth, spread
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


@pytest.mark.parametrize("parts", ["both", "left", "right"])
def test_the_parts_of_a_complex_product_are_two_real_ones_of_twice_the_length(parts: str) -> None:
    rng = np.random.Generator(np.random.Philox(0))
    x, y = (
        rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if parts in ("both", side) else 0j)
        for shape, side in (((5, 7), "left"), ((7, 3), "right"))
    )
    real = np.stack([x.real[:, :, None] * y.real, -x.imag[:, :, None] * y.imag], 2).reshape(5, 14, 3)
    imaginary = np.stack([x.real[:, :, None] * y.imag, x.imag[:, :, None] * y.real], 2).reshape(5, 14, 3)
    exact = np.sqrt(sum(np.square(np.cumsum(terms, 1)).sum(1) for terms in (real, imaginary)))
    modelled = product_sums(torch.from_numpy(x), torch.from_numpy(y))
    assert not modelled.is_complex()
    assert 0.8 <= rms(modelled.numpy()) / rms(exact) <= 1.25


@pytest.mark.parametrize("columns", [64, 4096])
def test_a_complex_product_stays_within_the_model(columns: int) -> None:
    x, y = (
        torch.complex(*(torch.from_numpy(draw("normal", shape, seed + part)) for part in range(2)))
        for shape, seed in (((6, columns), 0), ((columns, 5), 2))
    )
    error = torch.matmul(x.to(torch.complex64), y.to(torch.complex64)).to(torch.complex128) - x @ y
    assert rms(torch.view_as_real(error).numpy()) <= 1.3 * RMS * rms(U * product_sums(x, y).numpy())
    assert torch.equal(product_sums(x.conj(), y), product_sums(x.conj().resolve_conj(), y))


# Alignment in products ------------------------------------------------------------------------------------------


def regular(kind: str, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors whose products are regular progressions."""
    size = rows * columns
    x, y = {
        "constant": lambda: (np.full(size, 0.1), np.full(size, 0.3)),
        "arange": lambda: (np.arange(size) * 0.001, np.arange(size) * 0.001),
        "linspace": lambda: (np.linspace(-1, 1, size), np.linspace(-1, 1, size)),
        "ramp": lambda: (np.tile(np.linspace(0, 1, columns), rows), np.repeat(np.linspace(0, 1, columns), rows)),
    }[kind]()
    left, right = (torch.from_numpy(values.astype(np.float32)) for values in (x, y))
    return left.reshape(rows, columns), right.reshape(columns, rows)


def products(x: torch.Tensor, y: torch.Tensor) -> list[Array]:
    """Errors of both frameworks' float32 products."""
    exact = x.double() @ y.double()
    mlx = np.array(mx.array(x.numpy()) @ mx.array(y.numpy())).astype(np.float64)
    return [mlx - exact.numpy(), ((x @ y).double() - exact).numpy()]


@pytest.mark.parametrize("kind", ["constant", "arange", "linspace", "ramp"])
@pytest.mark.parametrize("columns", [32, 64, 256, 1024, 8192, 32768])
def test_products_of_progressions_stay_within_the_model(kind: str, columns: int) -> None:
    x, y = regular(kind, 8, columns)
    predicted = U * product_sums(x.double(), y.double()).numpy()
    assert max(rms(error) for error in products(x, y)) <= 1.2 * rms(predicted)


def test_in_a_product_of_constants_independent_roundings_do_not_account_for_it() -> None:
    x, y = regular("constant", 8, 8192)
    partial = np.cumsum(x.double().numpy()[:, :, None] * y.double().numpy()[None], axis=1)
    assert rms(products(x, y)[0]) > 8 * RMS * rms(U * np.linalg.norm(partial, axis=1))


def test_only_where_row_and_column_are_smooth_is_alignment_added() -> None:
    x, y = (draw("normal", (9, 512), 0), draw("normal", (512, 7), 1))
    plain = product_sums(torch.from_numpy(x), torch.from_numpy(y))
    x[2], y[:, 4] = 0.1, 0.3
    aligned = product_sums(torch.from_numpy(x), torch.from_numpy(y))
    apart = torch.ones(9, 7, dtype=torch.bool)
    apart[2], apart[:, 4] = False, False
    assert torch.equal(aligned[apart], plain[apart])
    sums = np.cumsum(x[2] * y[:, 4])
    assert aligned[2, 4] > 3 * np.linalg.norm(sums)
    assert aligned[2, 0] < 2 * np.linalg.norm(np.cumsum(x[2] * y[:, 0]))


def test_alignment_is_found_in_every_batch_and_with_a_factor_that_all_share() -> None:
    x, y = regular("constant", 4, 1024)
    one = product_sums(x.double(), y.double())
    many = product_sums(x.double().expand(3, 2, 4, 1024), y.double())
    torch.testing.assert_close(many, one.expand(3, 2, 4, 4), rtol=1e-12, atol=0)


def test_what_is_smooth() -> None:
    ramp, noise = torch.linspace(-1, 1, 200, dtype=torch.float64), torch.from_numpy(draw("normal", (200,), 0))
    rows = torch.stack([ramp, torch.ones(200), ramp.square(), torch.zeros(200), noise, noise + 10, noise * 0.001 + 1])
    assert smooth(rows).tolist() == [True, True, True, True, False, False, True]


def test_a_sample_is_spread_evenly_and_holds_both_ends() -> None:
    assert spread(torch.arange(5), 8).tolist() == [0, 1, 2, 3, 4]
    assert spread(torch.arange(0, 100, 10), 4).tolist() == [0, 30, 60, 90]


# Sums known at points, sums into rows, running sums -------------------------------------------------------------


def test_sums_known_after_every_term_are_not_bridged() -> None:
    terms = torch.from_numpy(draw("normal", (9, 4), 0))
    parts = [(term, 1) for term in terms]
    torch.testing.assert_close(bridged(parts, torch.zeros(4, dtype=torch.float64)), terms.cumsum(0).norm(dim=0))


def test_sums_into_rows_are_those_of_each_row_alone() -> None:
    terms = torch.from_numpy(draw("normal", (40, 3), 0))
    rows = torch.from_numpy(np.random.Generator(np.random.Philox(1)).integers(0, 5, 40))
    found = segment_sums(terms, rows, 6)
    for row in range(6):
        torch.testing.assert_close(found[row], terms[rows == row].cumsum(0).square().sum(0).sqrt())
    assert segment_sums(terms[:0], rows[:0], 2).tolist() == [[0.0] * 3] * 2


def test_what_a_running_sum_loses_is_that_of_each_beginning() -> None:
    terms = torch.from_numpy(draw("progression", (3, 50), 0))
    lost = running_loss(terms)
    total = np.zeros(3, np.float32)
    for index in range(50):
        total += terms[:, index].numpy().astype(np.float32)
        exact = terms[:, : index + 1].sum(1).numpy()
        np.testing.assert_allclose(lost[:, index].numpy(), np.abs(total - exact) / U, rtol=1e-6, atol=1e-6)
