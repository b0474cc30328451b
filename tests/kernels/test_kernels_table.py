"""The table of kernels: its bounds, and that it fails where one is exceeded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import kernels_table
from kernels_table import LENGTHS, REPORT, VARIANTS, Measured, allowed_constant, largest_prime, main

from mlx_impl.kernels import monarch_fft
from mlx_impl.kernels.roots import table


def measured(**changes: Any) -> Measured:
    given = {"variant": "monarch", "l": 64, "rung": "f32", "relative": 1e-16, "constant": 0.5, "price": 1.0, "peak": 1}
    return Measured(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Timings of one run."""
    monkeypatch.setattr(kernels_table, "REPEATS", 1)
    monkeypatch.setattr(kernels_table, "SHORTEST", 0.0)
    caches = [value for value in vars(monarch_fft).values() if hasattr(value, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def run(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    out = tmp_path / "kernels.md"
    status = main(["--out", str(out), "--only-convolutions", *arguments])
    return status, out.read_text(encoding="utf-8")


def test_bounds_are_those_that_were_set() -> None:
    assert [round(allowed_constant(l), 3) for l in (1, 64, 1000, 32768)] == [3.585, 1.694, 0.967, 0.827]
    assert allowed_constant(127) == pytest.approx(2.3 * 0.80 * np.exp(6 / np.sqrt(127)), rel=1e-12)
    assert [largest_prime(n) for n in (1, 2, 14, 254, 2000)] == [1, 2, 7, 127, 5]


@pytest.mark.parametrize(
    "changes",
    [
        {"constant": 1.7},
        {"rung": "f64", "relative": 4.1e-15},
        {"rung": "bf16", "relative": 2.0**-7.9},
        {"variant": "ep", "bits": -44.9},
        {"constant": float("nan")},
        {"rung": "f64", "relative": float("inf")},
    ],
    ids=["float32", "float64", "sixteen bits", "double-float32", "not a number", "infinite"],
)
def test_a_row_beyond_its_bound_says_so(changes: dict[str, Any]) -> None:
    assert measured().exceeded == ""
    assert "L=64" in measured(**changes).exceeded


@pytest.mark.usefixtures("_short")
def test_a_right_run_ends_with_0(tmp_path: Path) -> None:
    status, text = run(tmp_path, "--length", "3", "64")
    assert status == 0
    assert "Every bound holds." in text
    rows = [line for line in text.splitlines() if line.startswith(("| 3 |", "| 64 |"))]
    assert len(rows) == 2 * (4 * len(VARIANTS) + 1)


@pytest.mark.usefixtures("_short")
def test_a_planted_fault_ends_with_1_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def coarse(values: list[float], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return table([round(value * 2**16) / 2**16 for value in values], shape, dtype)

    monkeypatch.setattr(monarch_fft, "table", coarse)
    status, text = run(tmp_path, "--length", "64")
    assert status == 1
    assert "EXCEEDED: monarch L=64 f64" in text
    assert "monarch L=64 f32" in text
    assert "native L=64" not in text


def test_the_published_report_has_every_length_and_holds_every_bound() -> None:
    text = REPORT.read_text(encoding="utf-8")
    assert "Every bound holds." in text
    for l in LENGTHS:
        for variant in VARIANTS:
            for rung in ("f64", "f32", "bf16", "f16"):
                assert f"| {l} | {variant} | {rung} |" in text
        assert f"| {l} | ep | f32 |" in text
