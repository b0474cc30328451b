"""The engine measures large tensors, NumPy small ones and those of no format, and no verdict differs in a bit."""

from __future__ import annotations

import functools
import importlib.util
import sys
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from parity import verdict
from parity.metrics import error_of, large, measure
from parity.metrics.large import LARGE, Choice
from parity.spec.precision import RUNGS, Rung
from parity.tolerance import Allowance
from parity.trace import TracedTensor
from parity.verdict import Judgement, judge

Array = npt.NDArray[np.float64]

SHAPE = (2, LARGE // 64 + 1, 32)
WITH_NUMBA = importlib.util.find_spec("numba") is not None
KERNELS = [
    "auto",
    "numpy",
    pytest.param("compiled", marks=pytest.mark.skipif(not WITH_NUMBA, reason="numba is not installed")),
]
DTYPES: dict[str, Any] = {"f64": np.float64, "f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}


def in_format(values: Array, rung: Rung) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[rung.name]).astype(np.float64)


def tensors(rung: Rung, special: bool, misplaced: bool = False) -> tuple[Array, Array, Array]:
    """Truth, reference and port; with special values in the same places of all three, but for one."""
    generator = np.random.Generator(np.random.Philox(2))
    truth = generator.standard_normal(SHAPE) * np.exp2(generator.integers(-9, 9, SHAPE))
    reference, port = (in_format(truth * (1 + 4 * rung.u * generator.uniform(-1, 1, SHAPE)), rung) for _ in range(2))
    if special:
        values = [np.nan, np.inf, -np.inf, 0.0, -0.0, rung.tiny / 4, -rung.tiny / 8, rung.maximum]
        for tensor in (truth, reference, port):
            tensor.reshape(-1)[7 : 7 + 997 * len(values) : 997] = values
    if misplaced:
        port.reshape(-1)[-1] = np.nan
    return truth, reference, port


def judged(rung: Rung, truth: Array, reference: Array, port: Array) -> Judgement:
    held = [TracedTensor(values, rung.dtype) for values in (reference, port)]
    return judge(TracedTensor(truth, "float64"), *held, rung, Allowance(8 * rung.u, 1.0), rung.u, None)


def plainly(monkeypatch: pytest.MonkeyPatch, *question: Any) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(verdict, "error_of", measure)
        return repr(judged(*question))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(("special", "misplaced"), [(False, False), (True, False), (True, True)])
def test_a_verdict_has_the_same_bits_whatever_measures(
    name: str, kernels: Choice, special: bool, misplaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = RUNGS[name]
    question = (rung, *tensors(rung, special, misplaced))
    expected = plainly(monkeypatch, *question)
    monkeypatch.setattr(verdict, "error_of", functools.partial(error_of, kernels=kernels))
    assert repr(judged(*question)) == expected


@pytest.mark.skipif(not WITH_NUMBA, reason="numba is not installed")
@pytest.mark.parametrize(("elements", "engine"), [(LARGE - 1, False), (LARGE, True)])
def test_only_large_tensors_go_to_the_engine_and_what_it_says_counts(
    elements: int, engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = RUNGS["f32"]
    question = (rung, *(values.reshape(-1)[:elements] for values in tensors(rung, special=False)))
    expected, asked = plainly(monkeypatch, *question), large.measure_error

    def off(*pair: Any, **how: Any) -> Any:
        found = asked(*pair, **how)
        return replace(found, max_abs=2 * found.max_abs)

    monkeypatch.setattr(large, "measure_error", off)
    assert (repr(judged(*question)) != expected) == engine


def test_without_a_compiler_large_tensors_are_measured_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    rung = RUNGS["f32"]
    truth, _, port = tensors(rung, special=False)
    expected = measure(port, truth, rung)
    monkeypatch.setattr(large, "measure_error", None)
    large._has_compiler.cache_clear()
    with monkeypatch.context() as broken:
        broken.setitem(
            sys.modules, "numba", None
        )  # an import of it raises, as where it is not there or NumPy is too new
        assert error_of(port, truth, rung) == expected
    large._has_compiler.cache_clear()


@pytest.mark.parametrize("name", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("value", [1.0 + 2.0**-40, 1e300, 2.0**-300])
def test_a_tensor_with_a_number_of_no_format_keeps_it(name: str, value: float) -> None:
    rung = RUNGS[name]
    truth, _, port = tensors(rung, special=True)
    port.reshape(-1)[-3] = value
    assert error_of(port, truth, rung, kernels="numpy") == measure(port, truth, rung)


def test_rounding_it_to_the_format_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rung = RUNGS["f32"]
    truth, _, port = tensors(rung, special=False)
    port.reshape(-1)[-3] = 1e6 + 2.0**-20
    monkeypatch.setattr(large, "_in_format", lambda values, _rung: values.astype(np.float32))
    assert error_of(port, truth, rung, kernels="numpy") != measure(port, truth, rung)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"metrics never broadcast"):
        error_of(np.zeros((2, 3)), np.zeros(3), RUNGS["f32"])
