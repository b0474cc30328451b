"""The table of tolerances: derived, growing with the shape, wide enough for float32 and too narrow for a bug."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.fft
from harness_pieces import F32, F64, Array, float32
from hypothesis import given, settings

from parity.spec.precision import RUNGS
from parity.tolerance import (
    CONSTANTS,
    GROWTH,
    HALF_GROWTH,
    Scale,
    fftconv_scale,
    grid_scale,
    growth_of,
    matmul_scale,
    positions_scale,
    propagated,
    rounding_of,
)

PACKAGES = ("reference_torch", "mlx_impl", "parity")
ROOT = Path(__file__).parents[2]
FORBIDDEN_KEYWORDS = {"rtol", "atol", "rel_tol", "abs_tol", "tol", "tolerance"}
FORBIDDEN_CALLS = {"allclose", "isclose", "assert_close", "assert_allclose", "assert_almost_equal", "approx"}

seeds = st.integers(0, 2**32 - 1)


def worst(error: Array, scale: Scale, u: float = F32.u) -> tuple[float, float]:
    """Largest and rms error over what the explicit scale allows."""
    largest = float(np.max(np.abs(error) / (u * scale.maximum)))
    if scale.axes:
        spread = np.sqrt(np.mean(error**2, axis=scale.axes, keepdims=True)) / (u * scale.rms)
        return largest, float(np.max(spread))
    return largest, float(np.sqrt(np.mean((error / (u * scale.rms)) ** 2)))


# The table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_constant_has_a_value_a_reason_and_a_source(name: str) -> None:
    entry = CONSTANTS[name]
    assert 0 < entry.value < math.inf
    assert len(entry.why.split()) >= 5, entry.why
    assert entry.source.strip()


SHAPES_AND_LARGER: dict[str, tuple[Any, Any]] = {
    name: ([(2, 4)], [(2, 64)]) for name in ("_fft_r2c", "_fft_c2r", "_fft_c2c")
}


@pytest.mark.parametrize("operation", SHAPES_AND_LARGER)
def test_growth_grows_with_the_length_of_the_transform(operation: str) -> None:
    small, large = SHAPES_AND_LARGER[operation]
    assert 1 <= growth_of(operation, small, half=False) < growth_of(operation, large, half=False)


def test_every_growth_model_but_the_pointwise_one_is_shown_growing() -> None:
    assert set(SHAPES_AND_LARGER) == set(GROWTH) - {"exp"}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("operation", ["add", "mul", "gelu", "no_such_operation"])
def test_an_operation_that_is_not_listed_has_one_rounding(operation: str, half: bool) -> None:
    assert growth_of(operation, [(2, 512)], half) == 1.0


def test_in_sixteen_bits_the_length_of_a_sum_does_not_count() -> None:
    assert growth_of("mm", [(2, 4096), (4096, 2)], half=True) == 1.0
    assert {growth_of(name, [(2, 4096)], half=True) for name in HALF_GROWTH} == set(HALF_GROWTH.values())


@given(noise=st.integers(-20, 20), rung=st.sampled_from(("f32", "bf16", "f16")), factor=st.integers(1, 12))
def test_allowances_are_linear_in_the_predicted_noise(noise: int, rung: str, factor: int) -> None:
    held = RUNGS[rung]  # type: ignore[index]
    once, more = (propagated(2.0**n, 2.0**n, held, held) for n in (noise, noise + factor))
    assert more.rms - held.quantum == (once.rms - held.quantum) * 2.0**factor
    assert more.maximum - held.quantum == (once.maximum - held.quantum) * 2.0**factor


@pytest.mark.parametrize("rung", RUNGS)
def test_the_predicted_rounding_of_a_tensor_is_u_times_its_size(rung: str) -> None:
    held = RUNGS[rung]  # type: ignore[index]
    rms, largest = rounding_of(1.0, 3.0, held)
    assert largest == 3.0 * held.u
    assert rms * math.sqrt(3) == held.u


@pytest.mark.parametrize("rung", ["bf16", "f16", "f64"])
def test_an_allowance_stands_to_float32s_as_the_roundoffs_do(rung: str) -> None:
    here, there = RUNGS[rung], RUNGS["f32"]  # type: ignore[index]
    allowed = [propagated(*rounding_of(1.0, 1.0, held), held, held) for held in (here, there)]
    substitutes = CONSTANTS["float64"].value if rung == "f64" else 1.0
    ratio = (allowed[0].maximum - here.quantum) / (allowed[1].maximum - there.quantum)
    assert abs(ratio / (substitutes * here.u / there.u) - 1) < F64.u * 2**10


# Explicit scales against measured float32 errors ------------------------------------------------------------------


def draw_product(columns: int, seed: int) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(seed)
    x, weight = float32(rng.standard_normal((3, 2, columns))), float32(rng.standard_normal((2, 5, columns)))
    truth = np.einsum("bkp,kqp->bkq", x, weight)
    computed = np.stack([x[:, k].astype(np.float32) @ weight[k].astype(np.float32).T for k in range(2)], axis=1)
    return x, weight, truth, computed.astype(np.float64)


@settings(max_examples=60)
@given(columns=st.integers(1, 512), seed=seeds)
def test_the_matmul_scale_bounds_float32_products(columns: int, seed: int) -> None:
    x, weight, truth, computed = draw_product(columns, seed)
    assert max(worst(computed - truth, matmul_scale(x, weight))) <= 1


@settings(max_examples=30)
@given(columns=st.integers(1, 512), seed=seeds, place=st.integers(0, 29))
def test_one_wrong_element_of_a_product_exceeds_the_matmul_scale(columns: int, seed: int, place: int) -> None:
    x, weight, truth, computed = draw_product(columns, seed)
    size = np.einsum("bkp,kqp->bkq", np.abs(x), np.abs(weight))
    computed.flat[place] += 1e-4 * size.flat[place]
    assert worst(computed - truth, matmul_scale(x, weight))[0] > 1


@settings(max_examples=30)
@given(columns=st.integers(2, 512), seed=seeds)
def test_a_column_that_is_left_out_exceeds_the_matmul_scale(columns: int, seed: int) -> None:
    x, weight, truth, _ = draw_product(columns, seed)
    shorter = np.einsum("bkp,kqp->bkq", x[..., 1:], weight[..., 1:])
    assert min(worst(shorter - truth, matmul_scale(x, weight))) > 1


def draw_convolution(length: int, seed: int) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(seed)
    u, k = float32(rng.standard_normal((2, 3, length))), float32(rng.standard_normal((3, length)))
    truth = np.stack([[np.convolve(u[b, d], k[d])[:length] for d in range(3)] for b in range(2)])
    n = 2 * length
    spectrum = scipy.fft.rfft(u.astype(np.float32), n) * scipy.fft.rfft(k.astype(np.float32), n)
    computed = scipy.fft.irfft(spectrum, n)[..., :length]
    assert computed.dtype == np.float32
    return u, np.pad(k, [(0, 0), (0, length)]), truth, computed.astype(np.float64)


@settings(max_examples=60)
@given(length=st.integers(1, 256), seed=seeds)
def test_the_convolution_scale_bounds_float32_transforms(length: int, seed: int) -> None:
    u, kernel, truth, computed = draw_convolution(length, seed)
    assert max(worst(computed - truth, fftconv_scale(u, kernel))) <= 1


@settings(max_examples=30)
@given(length=st.integers(1, 256), seed=seeds)
def test_one_wrong_sample_exceeds_the_convolution_scale(length: int, seed: int) -> None:
    u, kernel, truth, computed = draw_convolution(length, seed)
    computed[0, 0, -1] += 1e-4 * float(np.linalg.norm(u[0, 0]) * np.linalg.norm(kernel[0]))
    assert worst(computed - truth, fftconv_scale(u, kernel))[0] > 1


@settings(max_examples=30)
@given(length=st.integers(2, 256), seed=seeds)
def test_a_shift_by_one_sample_exceeds_the_convolution_scale(length: int, seed: int) -> None:
    u, kernel, truth, computed = draw_convolution(length, seed)
    assert min(worst(np.roll(computed, 1, axis=-1) - truth, fftconv_scale(u, kernel))) > 1


@settings(max_examples=30)
@given(length=st.integers(2, 256), seed=seeds)
def test_a_circular_convolution_exceeds_the_convolution_scale(length: int, seed: int) -> None:
    u, kernel, truth, _ = draw_convolution(length, seed)
    circular = np.fft.irfft(np.fft.rfft(u, length) * np.fft.rfft(kernel[:, :length], length), length)
    assert max(worst(circular - truth, fftconv_scale(u, kernel))) > 1


def positions(length: int, bands: int, dtype: Any) -> Array:
    time: Any = np.arange(length, dtype=dtype)[:, None]
    w = dtype(2 * math.pi) * time / dtype(length)
    f: Any = np.linspace(1e-4, bands - 1, bands, dtype=dtype)
    return np.concatenate([np.cos(f * w), np.sin(f * w)], axis=-1).astype(np.float64)


@settings(max_examples=40)
@given(length=st.integers(1, 1024), bands=st.integers(1, 4))
def test_the_positions_scale_bounds_float32_cosines_and_sines(length: int, bands: int) -> None:
    error = positions(length, bands, np.float32) - positions(length, bands, np.float64)
    assert max(worst(error, positions_scale(bands))) <= 1


@settings(max_examples=40)
@given(length=st.integers(3, 1024), bands=st.integers(2, 4))
def test_a_period_that_is_one_longer_exceeds_the_positions_scale(length: int, bands: int) -> None:
    error = positions(length + 1, bands, np.float32)[:length] - positions(length, bands, np.float64)
    assert min(worst(error, positions_scale(bands))) > 1


@settings(max_examples=40)
@given(length=st.integers(1, 1024))
def test_the_grid_scale_bounds_float32_linspaces(length: int) -> None:
    truth = np.linspace(0, 1, length)
    step = np.float32(1) / np.float32(max(length - 1, 1))
    sequential = (np.arange(length, dtype=np.float32) * step).astype(np.float64)
    assert worst(sequential - truth, grid_scale(np.array([1.0])))[0] <= 1


@settings(max_examples=40)
@given(length=st.integers(2, 1024))
def test_a_grid_without_its_end_exceeds_the_grid_scale(length: int) -> None:
    truth = np.linspace(0, 1, length)
    assert worst(np.linspace(0, 1, length, endpoint=False) - truth, grid_scale(truth))[0] > 1


# One place for tolerances -----------------------------------------------------------------------------------------


def tolerances_in(source: str) -> Iterator[str]:
    """Every keyword or call in `source` that holds or hides a tolerance."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword | ast.arg) and node.arg in FORBIDDEN_KEYWORDS:
            yield f"line {node.lineno}: {node.arg}"
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_KEYWORDS:
            yield f"line {node.lineno}: {node.id}"
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            if name in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: {name}()"


TIMED = ROOT / "parity/bench/metrics.py"
"""It times other people's comparisons, which want tolerances, and judges nothing by them."""
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path != TIMED)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_holds_a_tolerance_of_its_own(path: Path) -> None:
    assert list(tolerances_in(path.read_text(encoding="utf-8"))) == []


def test_what_times_comparisons_holds_none_but_theirs() -> None:
    found = {line.partition(": ")[2] for line in tolerances_in(TIMED.read_text(encoding="utf-8"))}
    assert found == {"rtol", "atol", "assert_allclose()", "assert_close()"}


def test_the_scan_sees_all_three_packages() -> None:
    assert len(SOURCES) > 30
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize(
    "planted",
    [
        "np.allclose(a, b)",
        "torch.testing.assert_close(a, b)",
        "math.isclose(a, b)",
        "f(a, rtol=1e-5)",
        "f(a, atol=1e-8)",
        "def f(a, tol=1): ...",
        "rtol = 1e-3",
    ],
)
def test_the_scan_finds_a_planted_tolerance(planted: str) -> None:
    assert list(tolerances_in(planted))
