"""The probe measures true bits: right on this machine, and wrong as soon as a loss of digits is planted."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from parity.environment import (
    OPERATIONS,
    Framework,
    ProbeRow,
    collect,
    measure_bits,
    mlx_framework,
    pose,
    torch_framework,
)
from parity.environment.probe import effective_bits
from parity.spec.precision import BY_DTYPE

ROOT = Path(__file__).parents[2]
Rows = dict[tuple[str, str, str], ProbeRow]
ON_CPU = mx.default_device() == mx.cpu


def indexed(rows: list[ProbeRow]) -> Rows:
    return {(row.framework, row.operation, row.dtype): row for row in rows}


def bits(rows: Rows, framework: str, operation: str, dtype: str) -> float:
    measured = rows[framework, operation, dtype].bits
    assert measured is not None
    return measured


def with_fault(framework: Framework, operation: str, fault: Callable[..., Any]) -> Framework:
    return dataclasses.replace(framework, operations={**framework.operations, operation: fault})


def to_digits(x: torch.Tensor, digits: int) -> torch.Tensor:
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2.0**digits) / 2.0**digits, exponent)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return indexed(measure_bits())


def test_every_operation_is_measured_in_every_dtype(rows: Rows) -> None:
    assert len(rows) == 2 * len(OPERATIONS) * len(BY_DTYPE)
    assert set(OPERATIONS) == {"matmul", "conv", "fft", "sin", "exp", "erf"}


def test_same_machine_measures_the_same_bits(rows: Rows) -> None:
    assert indexed(measure_bits()) == rows


@pytest.mark.parametrize("operation", OPERATIONS)
def test_torch_float64_is_float64(rows: Rows, operation: str) -> None:
    assert bits(rows, "torch", operation, "float64") >= 50
    assert rows["torch", operation, "float64"].looks_like == "float64"


def test_mlx_float64_matmul_is_float64(rows: Rows) -> None:
    assert bits(rows, "mlx", "matmul", "float64") >= 49


@pytest.mark.parametrize("operation", ["sin", "exp", "erf", "conv"])
def test_mlx_float64_is_float32_in_disguise(rows: Rows, operation: str) -> None:
    row = rows["mlx", operation, "float64"]
    assert 21 <= bits(rows, "mlx", operation, "float64") <= 28
    assert row.result_dtype == "float64"
    assert row.looks_like == "float32"
    assert row.suspicious


def test_mlx_float64_fft_answers_complex64(rows: Rows) -> None:
    row = rows["mlx", "fft", "float64"]
    assert row.result_dtype == "complex64"
    assert row.looks_like == "float32"
    assert row.suspicious


@pytest.mark.skipif(not ON_CPU, reason="a GPU may run float32 products in TF32; the probe is there to say so")
@pytest.mark.parametrize("framework", ["torch", "mlx"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_float32_is_float32(rows: Rows, framework: str, operation: str) -> None:
    assert bits(rows, framework, operation, "float32") >= 20
    assert not rows[framework, operation, "float32"].suspicious


@pytest.mark.parametrize("framework", ["torch", "mlx"])
@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_halves_have_their_digits(rows: Rows, framework: str, dtype: str, digits: int) -> None:
    for operation in ("matmul", "conv", "sin", "exp", "erf"):
        assert digits - 1 <= bits(rows, framework, operation, dtype) <= digits


@pytest.mark.skipif(not ON_CPU, reason="what a framework refuses depends on the device")
def test_only_torch_transforms_of_halves_are_refused(rows: Rows) -> None:
    refused = {key: row.note for key, row in rows.items() if row.bits is None}
    assert set(refused) == {("torch", "fft", "bfloat16"), ("torch", "fft", "float16")}
    assert all(note.startswith("unsupported: Unsupported dtype") for note in refused.values())


# Faults that must be seen


@pytest.mark.parametrize(("digits", "name"), [(11, "tf32"), (8, "bfloat16")])
@pytest.mark.parametrize("operation", ["matmul", "conv"])
def test_operands_rounded_to_fewer_digits_are_flagged(operation: str, digits: int, name: str) -> None:
    exact = torch_framework().operations[operation]

    def leak(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rounded: torch.Tensor = exact(to_digits(x, digits), to_digits(w, digits))
        return rounded

    leaky = with_fault(torch_framework(), operation, leak)
    row = indexed(measure_bits([leaky]))["torch", operation, "float32"]
    assert row.bits == pytest.approx(digits, abs=1.0)
    assert row.suspicious
    assert row.looks_like == name
    assert row.result_dtype == "float32"


def test_float64_computed_in_float32_is_flagged() -> None:
    leaky = with_fault(torch_framework(), "sin", lambda x: torch.sin(x.float()).to(x.dtype))
    measured = indexed(measure_bits([leaky]))
    assert measured["torch", "sin", "float64"].looks_like == "float32"
    assert measured["torch", "sin", "float64"].suspicious
    assert not measured["torch", "sin", "float32"].suspicious


def test_mlx_product_rounded_to_bfloat16_is_flagged() -> None:
    def leak(x: mx.array, w: mx.array) -> mx.array:
        return (x.astype(mx.bfloat16).astype(x.dtype)) @ (w.astype(mx.bfloat16).astype(w.dtype))

    row = indexed(measure_bits([with_fault(mlx_framework(), "matmul", leak)]))["mlx", "matmul", "float32"]
    assert row.looks_like == "bfloat16"
    assert row.suspicious


def test_one_bad_row_among_good_ones_is_flagged() -> None:
    def one_row(x: torch.Tensor) -> torch.Tensor:
        y = torch.exp(x)
        y[-1] *= 1 + 2.0**-15
        return y

    measured = indexed(measure_bits([with_fault(torch_framework(), "exp", one_row)]))
    assert measured["torch", "exp", "float32"].bits == pytest.approx(15, abs=0.2)


def test_result_that_is_not_finite_has_no_bits() -> None:
    measured = indexed(measure_bits([with_fault(torch_framework(), "erf", lambda x: x * math.nan)]))
    row = measured["torch", "erf", "float32"]
    assert (row.bits, row.note, row.suspicious) == (0.0, "the result is not finite", True)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, NotImplementedError, TypeError])
def test_refusal_is_noted_in_one_line_without_folders(kind: type[Exception]) -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise kind("no sin in /home/ann/kernels/sin.metal:3 for a/b\nsecond line")

    row = indexed(measure_bits([with_fault(torch_framework(), "sin", refuse)]))["torch", "sin", "float32"]
    assert (row.bits, row.result_dtype, row.suspicious, row.looks_like) == (None, None, False, None)
    assert row.note == "unsupported: no sin in sin.metal:3 for a/b"


def test_an_unexpected_exception_goes_on_rising() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("planted")

    with pytest.raises(ZeroDivisionError, match="planted"):
        measure_bits([with_fault(torch_framework(), "sin", broken)])


@pytest.mark.skipif(
    platform.system() != "Linux" or not {"amx_bf16", "avx512_bf16"} & set(collect().cpu_flags),
    reason="oneDNN reduces float32 products only on a CPU with bfloat16 instructions",
)
def test_reduced_precision_that_torch_itself_allows_is_flagged() -> None:
    script = (
        "import json, torch; from parity.environment import collect, measure_bits, torch_framework\n"
        "torch.set_float32_matmul_precision('medium')\n"
        "x = torch.full((64, 64), 1 + 2.0**-12)\n"
        "print(bool(torch.equal(x @ torch.eye(64), x)))\n"
        "print(json.dumps([row.to_dict() for row in measure_bits([torch_framework()])]))"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    exact, rows = output.splitlines()
    (row,) = (row for row in json.loads(rows) if (row["operation"], row["dtype"]) == ("matmul", "float32"))
    # On AMD's processors oneDNN takes the permission and keeps float32 all the same.
    assert row["suspicious"] is (exact == "False")
    assert row["looks_like"] == ("float32" if exact == "True" else "bfloat16")


# Judgement


@pytest.mark.parametrize(
    ("dtype", "measured", "name", "suspicious"),
    [
        ("float64", 53.0, "float64", False),
        ("float64", 47.0, "float64", False),
        ("float64", 46.9, "float64", True),
        ("float64", 27.9, "float32", True),
        ("float32", 18.0, "float32", False),
        ("float32", 17.0, "tf32", True),
        ("float32", 8.4, "bfloat16", True),
        ("float16", 11.0, "float16", False),
        ("bfloat16", 8.0, "bfloat16", False),
        ("bfloat16", 1.9, "bfloat16", True),
        ("float64", None, None, False),
    ],
)
def test_judgement_of(dtype: str, measured: float | None, name: str | None, suspicious: bool) -> None:
    row = ProbeRow("torch", "sin", dtype, measured, None)
    assert (row.looks_like, row.suspicious) == (name, suspicious)


# Truth


def test_matmul_truth_is_exact() -> None:
    problem = pose("matmul", "float64")
    x, w = problem.operands
    products = [Fraction(x[3, k].item()) * Fraction(w[k, 5].item()) for k in range(x.shape[1])]
    exact = sum(products, Fraction(0))
    sign, mantissa, exponent, _ = problem.truth[3, 5]._mpf_
    truth = (-1) ** sign * Fraction(int(mantissa)) * Fraction(2) ** exponent
    assert abs(truth - exact) <= Fraction(1, 2**160) * sum(map(abs, products), Fraction(0))


@pytest.mark.parametrize(
    ("operation", "recomputed"),
    [
        ("conv", lambda x, w: [sum(np.correlate(x[0, c], k[c], "valid") for c in range(8)) for k in w]),
        ("fft", np.fft.rfft),
        ("sin", np.sin),
        ("exp", np.exp),
        ("erf", np.vectorize(math.erf)),
    ],
    ids=["conv", "fft", "sin", "exp", "erf"],
)
def test_truth_agrees_with_an_independent_computation(operation: str, recomputed: Callable[..., Any]) -> None:
    problem = pose(operation, "float64")
    expected = np.array(recomputed(*problem.operands))
    assert expected.shape == problem.truth.shape
    np.testing.assert_allclose(problem.truth.astype(expected.dtype), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operands_are_exact_in_their_dtype(operation: str, dtype: str) -> None:
    for operand in pose(operation, dtype).operands:
        kept = torch.from_numpy(operand).to(getattr(torch, dtype)).to(torch.float64).numpy()
        np.testing.assert_array_equal(kept, operand)


def test_exact_answer_reaches_the_cap_and_a_missing_row_raises() -> None:
    problem = pose("exp", "float32")
    nearest = problem.truth.astype(np.float64)
    assert effective_bits(nearest, problem, 53) == 53
    assert effective_bits(nearest, problem, 24) == 24
    assert effective_bits(-nearest, problem, 24) == 0
    with pytest.raises(ValueError, match="longer"):
        effective_bits(nearest[:-1], problem, 24)
