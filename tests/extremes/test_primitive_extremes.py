"""The measured policy for extreme values, primitive by primitive: what either side makes of them is pinned here."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mlx_impl.ops import Ops
from parity.backends.mlx_float64 import float64_ops
from parity.cli import app
from parity.metrics.classes import number_classes
from parity.spec.precision import RUNGS, Rung
from parity.suites import m2_bert_extremes
from parity.suites.m2_bert_extremes import EXTREME_RUNGS, KNOWN, QUESTIONS, Answer, Question, ask, primitives

measured_here = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="the policy was measured on the CPU of Linux x86-64; other kernels have other limits",
)
every_rung = pytest.mark.parametrize("rung", EXTREME_RUNGS)
BY_NAME = {(question.primitive, question.what): question for question in QUESTIONS}


@measured_here
@every_rung
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: f"{question.primitive} of {question.what}")
def test_both_sides_agree_in_class_or_differ_for_a_known_reason(question: Question, rung: str) -> None:
    answer = ask(question, rung)  # type: ignore[arg-type]
    assert answer.reference.size == answer.port.size > 0
    assert answer.status != "new", answer.classes


@measured_here
@pytest.mark.parametrize("key", KNOWN, ids=lambda key: " of ".join(key[:2]) + f" at {key[2]}")
def test_a_known_difference_is_still_there(key: tuple[str, str, str]) -> None:
    primitive, what, rung = key
    assert ask(BY_NAME[primitive, what], rung).status == "known"  # type: ignore[arg-type]


def test_every_primitive_is_asked_and_every_question_has_its_primitive() -> None:
    assert {question.primitive for question in QUESTIONS} == primitives(Ops()).keys()
    assert len(BY_NAME) == len(QUESTIONS)


def classes(primitive: str, what: str, rung: str = "f32") -> tuple[tuple[str, ...], tuple[str, ...]]:
    answer: Answer = ask(BY_NAME[primitive, what], rung)  # type: ignore[arg-type]
    return answer.classes


# What is pinned by name ----------------------------------------------------------------------------------------


@every_rung
@pytest.mark.parametrize("primitive", ["sin", "exp", "tanh", "erf", "gelu_erf", "gelu_tanh"])
def test_nan_stays_nan(primitive: str, rung: str) -> None:
    assert classes(primitive, "NaN", rung) == (("nan",), ("nan",))


@every_rung
def test_gelu_of_minus_infinity_is_nan_on_both_sides(rung: str) -> None:
    assert classes("gelu_erf", "-inf", rung) == (("nan",), ("nan",))


@every_rung
@pytest.mark.parametrize("what", ["one inf", "one NaN"])
def test_one_bad_sample_spoils_its_whole_row_of_a_transform_and_three_of_a_short_convolution(
    what: str, rung: str
) -> None:
    for side in classes("fftconv", what, rung):
        assert side == ("nan",) * 8
    for side in classes("depthwise_conv", what, rung):
        bad = {"one inf": "inf", "one NaN": "nan"}[what]
        assert side[:2] + side[5:7] == ("number",) * 4
        assert side[2:5] == (bad,) * 3


@every_rung
def test_a_softmax_of_nothing_but_minus_infinity_is_nan(rung: str) -> None:
    assert classes("softmax", "all -inf", rung) == (("nan",) * 3,) * 2
    assert classes("softmax", "-inf among numbers", rung) == (("0", "number", "number"),) * 2


@every_rung
@pytest.mark.parametrize("primitive", ["layer_norm", "two_pass_layer_norm"])
def test_constant_rows_of_exact_mean_are_normalised_to_0(primitive: str, rung: str) -> None:
    for what in ("constant 3", "zeros"):
        assert classes(primitive, what, rung) == (("0",) * 4,) * 2


@every_rung
@pytest.mark.parametrize("primitive", ["linear", "matmul", "blockdiag"])
def test_products_overflow_to_infinity_and_keep_subnormals(primitive: str, rung: str) -> None:
    assert classes(primitive, "product overflows", rung) == (("inf",),) * 2
    assert classes(primitive, "product overflows downwards", rung) == (("-inf",),) * 2
    assert classes(primitive, "product of subnormals", rung) == (("subnormal",),) * 2
    for what in ("inf * 0", "inf - inf", "one NaN"):
        assert classes(primitive, what, rung) == (("nan",),) * 2


# The range of exp ----------------------------------------------------------------------------------------------


def port_exp(x: float) -> float:
    with mx.stream(mx.cpu):
        return float(np.array(Ops().exp(mx.array(np.full(9, x, np.float32))))[0])


def torch_exp(x: float) -> float:
    return float(torch.exp(torch.full((9,), x))[0])


def first(low: float, high: float, beyond: Callable[[float], bool]) -> float:
    """Smallest float32 above `low` that is `beyond`, by bisection."""
    while np.nextafter(np.float32(low), np.float32(high)) < high:
        middle = float(np.float32((low + high) / 2))
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high


@measured_here
def test_mlx_flushes_exp_to_0_up_to_minus_87_68_and_overflows_above_88() -> None:
    assert first(-110.0, -80.0, lambda x: port_exp(x) > 0) == pytest.approx(-87.68312, abs=1e-5)
    assert first(80.0, 95.0, lambda x: math.isinf(port_exp(x))) == pytest.approx(88.00001, abs=1e-5)


@measured_here
def test_torch_goes_to_the_ends_of_float32() -> None:
    assert first(-110.0, -80.0, lambda x: torch_exp(x) > 0) == pytest.approx(-103.97208, abs=1e-4)
    assert first(80.0, 95.0, lambda x: math.isinf(torch_exp(x))) == pytest.approx(88.72284, abs=1e-5)


@measured_here
@pytest.mark.parametrize(
    ("x", "reference", "port"),
    [
        (-104.0, "0", "0"),
        (-103.0, "subnormal", "0"),
        (-100.0, "subnormal", "0"),
        (-88.0, "subnormal", "0"),
        (-87.6, "subnormal", "subnormal"),
        (-87.0, "number", "number"),
        (88.0, "number", "number"),
        (88.5, "number", "inf"),
        (88.72, "number", "inf"),
        (89.0, "inf", "inf"),
    ],
)
def test_exp_by_class(x: float, reference: str, port: str) -> None:
    assert number_classes([torch_exp(x), port_exp(x)], RUNGS["f32"]) == (reference, port)


@pytest.mark.parametrize("x", [-745.0, -708.0, -104.0, -88.0, 88.5, 89.0, 709.0])
def test_the_float64_substitute_of_exp_keeps_the_whole_range(x: float) -> None:
    with mx.stream(mx.cpu):
        y = float(np.array(float64_ops().exp(mx.array([x], dtype=mx.float64)))[0])
    assert y == pytest.approx(math.exp(x), rel=2.5 * (abs(x) + 1) * 2.0**-53, abs=5e-324)


@pytest.mark.parametrize("x", [1e4, 1e6, 1e7, 1e10, 1e20, 3e38])
def test_sin_of_huge_arguments_is_reduced_on_both_sides(x: float) -> None:
    x = float(np.float32(x))
    with mx.stream(mx.cpu):
        single = float(np.array(Ops().sin(mx.array(np.full(9, x, np.float32))))[0])
        double = float(np.array(float64_ops().sin(mx.array([x], dtype=mx.float64)))[0])
    assert abs(single - math.sin(x)) <= 4 * 2.0**-24
    assert abs(float(torch.sin(torch.full((9,), x))[0]) - math.sin(x)) <= 2.0**-24
    assert abs(double - math.sin(x)) <= 8 * 2.0**-53


@measured_here
@pytest.mark.parametrize("d", [4, 64, 768])
def test_a_constant_row_whose_mean_rounds_is_rounding_over_the_root_of_eps(d: int) -> None:
    """Of 0.1 in float32 the mean may be off by an ulp: the result is that over 1e-6, and says nothing."""
    row = np.full((1, d), 0.1, np.float32)
    with mx.stream(mx.cpu):
        y = np.array(Ops().layer_norm(mx.array(row), mx.ones((d,)), mx.zeros((d,)), 1e-12))
    assert np.ptp(y) == 0
    assert abs(y[0, 0]) < 1


# The classes themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", RUNGS.values(), ids=RUNGS)
def test_classes_are_those_of_ieee_754(rung: Rung) -> None:
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0, rung.quantum, -rung.tiny / 2, rung.tiny, -rung.maximum]
    expected = ("nan", "inf", "-inf", "0", "-0", "subnormal", "subnormal", "number", "number")
    assert number_classes(values, rung) == expected


# The command, and that it sees what is new -----------------------------------------------------------------------


@measured_here
def test_the_command_prints_a_line_for_each_question_and_rung() -> None:
    outcome = CliRunner().invoke(app, ["extremes"])
    lines = outcome.output.splitlines()
    assert outcome.exit_code == 0, outcome.output
    assert len(lines) == 2 * len(QUESTIONS) + 1
    assert lines[-1].endswith(f"{len(KNOWN)} differ for a known reason, 0 differ without one")


@measured_here
def test_a_flush_to_zero_in_the_port_is_new_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ops.tanh

    def flushed(self: Ops, x: mx.array) -> mx.array:
        y = original(self, x)
        return mx.where(mx.abs(y) < 1.1754943508222875e-38, mx.zeros_like(y), y)

    monkeypatch.setattr(Ops, "tanh", flushed)
    outcome = CliRunner().invoke(app, ["extremes", "--json"])
    assert outcome.exit_code == 1
    new = [row for row in json.loads(outcome.output) if row["status"] == "new"]
    assert ("tanh", "subnormals", "f32") in {(row["primitive"], row["question"], row["rung"]) for row in new}
    assert all(row["primitive"] in ("tanh", "gelu_tanh") for row in new)


def test_nothing_asked_is_status_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m2_bert_extremes, "QUESTIONS", ())
    assert CliRunner().invoke(app, ["extremes"]).exit_code == 3
