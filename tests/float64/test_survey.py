"""The survey tells what keeps a dtype from what loses it, and is itself shown both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
import numpy as np
import pytest
from float64_arrays import stream

from parity.float64 import FORMS
from parity.float64.problems import OPERATIONS, Operation
from parity.float64.survey import DTYPES, SurveyRow, gradient_of, survey
from parity.report.float64 import survey_table

LOST_GRADIENTS: Final = ("tan", "log2", "log10")


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, str], SurveyRow]:
    """Everything in float64; the activations apart, which MLX compiles for every dtype."""
    chosen = [operation for operation in OPERATIONS if operation.family != "activation"]
    return {(row.operation, row.dtype, row.arithmetic): row for row in survey(chosen)}


def test_what_has_a_form_loses_without_it_and_keeps_float64_with_it(rows: dict[Any, SurveyRow]) -> None:
    measured = [name for name in FORMS if (name, "float64", "MLX") in rows and name not in LOST_GRADIENTS]
    assert len(measured) >= 25
    for name in measured:
        assert not rows[name, "float64", "MLX"].keeps, name
        assert rows[name, "float64", "context"].keeps, rows[name, "float64", "context"]


@pytest.mark.parametrize("name", LOST_GRADIENTS)
def test_three_functions_lose_their_gradient_alone(rows: dict[Any, SurveyRow], name: str) -> None:
    assert rows[name, "float64", "MLX"].keeps
    assert not rows[f"{name}, gradient", "float64", "MLX"].keeps
    assert rows[f"{name}, gradient", "float64", "context"].keeps


def test_whatever_loses_float64_is_lifted_or_known_to_be_a_leak(rows: dict[Any, SurveyRow]) -> None:
    """Once this fails, MLX has an operation that needs a form, or a line in FORMLESS."""
    lost = {
        name for (name, dtype, place), row in rows.items() if (dtype, place) == ("float64", "context") and not row.keeps
    }
    assert lost == {"linalg.eigvals"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_kept_or_refused_or_answered_more_finely_but_for_two_gradients(
    rows: dict[Any, SurveyRow], dtype: str
) -> None:
    found = [row for row in rows.values() if row.dtype == dtype]
    assert sum(row.keeps for row in found) > 80
    wrong = {row.operation for row in found if not row.keeps and row.result_dtype == dtype}
    assert wrong <= {"softmax, gradient"}


def test_a_refusal_is_a_row_with_mlx_words(rows: dict[Any, SurveyRow]) -> None:
    row = rows["linalg.inv", "bfloat16", "MLX"]
    assert (row.error, row.bits, row.result_dtype, row.keeps) == (None, None, None, False)
    assert "float32 or float64" in row.note


def test_activations_are_measured_too() -> None:
    chosen = [operation for operation in OPERATIONS if operation.name in ("nn.gelu", "nn.softplus")]
    found = {(row.operation, row.dtype, row.arithmetic): row for row in survey(chosen)}
    for name in ("nn.gelu", "nn.gelu, gradient", "nn.softplus", "nn.softplus, gradient"):
        assert not found[name, "float64", "MLX"].keeps
        assert found[name, "float64", "context"].keeps
        assert found[name, "bfloat16", "MLX"].keeps


def planted(run: Callable[[mx.array], mx.array]) -> Operation:
    return Operation("planted", "planted", run, lambda x: x * 3, lambda g: (g.standard_normal((4, 4)),), gradient=True)


PLANTED: Final = {
    "right": (lambda x: x * 3, dict.fromkeys(DTYPES, True)),
    "through float32": (lambda x: (x * 3).astype(mx.float32).astype(x.dtype), {"float64": False, "float16": True}),
    "through bfloat16": (lambda x: (x * 3).astype(mx.bfloat16).astype(x.dtype), {"float64": False, "float16": False}),
    "another meaning": (lambda x: x * 3.5, dict.fromkeys(DTYPES, False)),
    "another dtype": (lambda x: (x * 3).astype(mx.float32), {"float64": False, "bfloat16": False}),
}


@pytest.mark.parametrize(("run", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_planted_operation_is_judged(run: Callable[[mx.array], mx.array], expected: dict[str, bool]) -> None:
    found = {(row.operation, row.dtype): row.keeps for row in survey([planted(run)]) if row.arithmetic == "MLX"}
    assert {dtype: found["planted", dtype] for dtype in expected} == expected


def test_a_planted_wrong_gradient_is_judged() -> None:
    operation = planted(lambda x: mx.stop_gradient(x) * 2 + x)
    found = {
        row.operation: row.keeps for row in survey([operation]) if (row.dtype, row.arithmetic) == ("float64", "MLX")
    }
    assert found == {"planted": True, "planted, gradient": False}


def test_bits_count_from_the_dtype_down() -> None:
    def bits(error: float) -> float | None:
        return SurveyRow("x", "x", "float64", "MLX", "float64", error).bits

    assert (bits(0.0), bits(1.0), bits(2.0**29), bits(2.0**60)) == (53.0, 53.0, 24.0, 0.0)


def test_the_complex_step_is_the_derivative() -> None:
    x = stream(1).standard_normal((2, 3))
    gradient = gradient_of(lambda v: np.sin(v) * v, [x], np.ones((2, 3)))
    np.testing.assert_allclose(gradient.astype(np.float64), (np.cos(x) * x + np.sin(x)).ravel(), rtol=1e-15)


def test_names_are_distinct() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))


def test_the_table_names_what_loses() -> None:
    table = survey_table(survey([planted(lambda x: (x * 3).astype(mx.float32))]))
    cells = [str(cell) for cell in next(iter(table.columns[1:])).cells]
    assert "as float32 LOSES" in cells[0]
    assert table.row_count == 2
