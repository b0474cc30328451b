"""Layers of mlx.nn agree with torch.nn in float64 inside the context, and do not without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as mnn
import numpy as np
import pytest
from typer.testing import CliRunner

from parity import cli
from parity.float64 import FORMS, context
from parity.float64 import survey as surveying
from parity.float64.problems import OPERATIONS
from parity.float64.rows import Errors, ModuleRow
from parity.float64.survey import survey
from parity.suites import m2_bert_float64, third_party
from parity.suites.third_party import MODULES, Twins, examine_module, fill

BOUND: Final = 1e-12
KEPT: Final = ("Linear", "Embedding + Linear", "GELU, tanh", "RNN")
"""Layers in which MLX 0.32.4 computes nothing in float32."""

WANTED: Final = (
    "Linear", "Conv1d", "LayerNorm", "RMSNorm", "GELU", "SiLU", "MultiHeadAttention",
    "TransformerEncoderLayer, relu, norm last", "TransformerEncoderLayer, gelu, norm first", "GRU", "LSTM",
)  # fmt: skip


def test_the_table_holds_what_the_project_promises() -> None:
    assert set(WANTED) <= MODULES.keys()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", MODULES)
def test_a_layer_is_that_of_torch_inside_the_context_alone(name: str, seed: int) -> None:
    row = examine_module(name, seed, cases=2)
    assert row.passed, row
    assert row.lifted.output is not None
    assert row.lifted.gradient is not None
    assert max(row.lifted.output, row.lifted.gradient) <= BOUND
    for error in (row.naive.output, row.naive.gradient):
        if name in KEPT:
            assert error is not None
            assert error <= BOUND
        else:
            # A convolution's strides, dilations and groups MLX refuses in float64.
            assert "unsupported data type" in row.refusal if error is None else 1e-9 <= error <= 1e-6


def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox([5, 5]))


FAULTS: Final = {
    "epsilon": ("LayerNorm", lambda twins: setattr(twins.mlx, "eps", 1.1e-5)),
    "norm order": ("TransformerEncoderLayer, gelu, norm first", lambda twins: setattr(twins.mlx, "norm_first", False)),
    "approximation": ("GELU, tanh", lambda twins: setattr(twins.mlx, "_approx", "none")),
    "gelu": ("GELU", lambda twins: setattr(twins.mlx, "_approx", "tanh")),
}


@pytest.mark.parametrize(("name", "spoil"), FAULTS.values(), ids=FAULTS)
def test_a_planted_difference_is_seen(name: str, spoil: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(drawn: np.random.Generator) -> Twins:
        twins = MODULES_BEFORE[name](drawn)
        spoil(twins)
        return twins

    monkeypatch.setattr(third_party, "MODULES", {**MODULES_BEFORE, name: spoilt})
    assert not examine_module(name, cases=1).passed


MODULES_BEFORE: Final = dict(MODULES)


def test_a_swapped_gate_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(drawn: np.random.Generator) -> Twins:
        twins = MODULES_BEFORE["LSTM"](drawn)
        rule = twins.rules["Wx"]

        def exchange(state: Any) -> Any:
            i, f, g, o = np.split(rule.value(state), 4)
            return np.concatenate([f, i, g, o])

        twins.rules["Wx"] = third_party.Rule(exchange, exchange)  # type: ignore[index]
        return twins

    monkeypatch.setattr(third_party, "MODULES", {**MODULES_BEFORE, "LSTM": swapped})
    assert not examine_module("LSTM", cases=1).passed


def test_a_missing_form_is_seen_by_its_error_and_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "FORMS", {name: form for name, form in FORMS.items() if name != "fast.layer_norm"})
    monkeypatch.setattr(context, "FORMLESS", {"fast.layer_norm": "planted"})
    row = examine_module("LayerNorm", cases=1)
    assert row.leaks == ("fast.layer_norm",)
    assert row.lifted.output is not None
    assert row.lifted.output > 1e-9
    assert not row.passed


def test_weights_map_one_to_one() -> None:
    twins = MODULES["Linear"](generator())
    without = Twins(
        twins.torch, twins.mlx, {"weight": twins.rules["weight"]}, twins.inputs, twins.run_torch, twins.run_mlx
    )
    with pytest.raises(ValueError, match="Missing 1 parameters"):
        fill(without, generator())


def test_the_modules_under_test_are_the_installed_ones() -> None:
    for name, build in MODULES.items():
        twins = build(generator())
        assert type(twins.mlx).__module__.startswith("mlx.nn."), name
        assert type(twins.torch).__module__.startswith("torch.nn."), name


@pytest.mark.parametrize(
    "errors", [Errors(None, 0.0), Errors(0.0, None), Errors(2e-12, 0.0), Errors(0.0, float("inf"))]
)
def test_an_error_beyond_the_bound_or_none_at_all_fails(errors: Errors) -> None:
    good = Errors(0.0, 0.0)
    assert ModuleRow("x", 1, good, good, ()).passed
    assert not ModuleRow("x", 1, good, errors, ()).passed
    assert not ModuleRow("x", 1, good, good, ("sin",)).passed


def test_the_documented_table_has_every_layer() -> None:
    text = (Path(__file__).parents[2] / "docs" / "float64.md").read_text(encoding="utf-8")
    assert [name for name in MODULES_BEFORE if f"| {name} |" not in text] == []


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: MODULES_BEFORE[name] for name in ("Linear", "SiLU")}
    monkeypatch.setattr(third_party, "MODULES", chosen)
    monkeypatch.setattr(m2_bert_float64, "PROFILES", ())


@pytest.mark.usefixtures("few")
def test_the_command_prints_a_table_and_a_verdict() -> None:
    outcome = CliRunner().invoke(cli.app, ["float64", "--seed", "3"])
    assert outcome.exit_code == 0, outcome.output
    assert "| Linear " in outcome.stdout
    assert "PASS: 2 of 2 layers, seed 3" in outcome.stdout


@pytest.mark.usefixtures("few")
def test_the_command_fails_with_a_leak_and_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "FORMS", {name: form for name, form in FORMS.items() if name != "sigmoid"})
    monkeypatch.setattr(context, "FORMLESS", {"sigmoid": "planted"})
    outcome = CliRunner().invoke(cli.app, ["float64"])
    assert outcome.exit_code == 1
    assert "FAIL, leaks: sigmoid" in outcome.stdout
    assert "FAIL: 1 of 2 layers" in outcome.stdout


@pytest.mark.usefixtures("few")
def test_the_command_writes_json() -> None:
    outcome = CliRunner().invoke(cli.app, ["float64", "--json"])
    modules = json.loads(outcome.stdout)["modules"]
    assert [row["module"] for row in modules] == ["Linear", "SiLU"]
    assert [row["passed"] for row in modules] == [True, True]
    assert modules[1]["naive"]["output"] > 1e-9


def test_the_survey_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [operation for operation in OPERATIONS if operation.name in ("sin", "matmul")]
    monkeypatch.setattr(surveying, "survey", lambda: survey(chosen))
    outcome = CliRunner().invoke(cli.app, ["env", "--survey"])
    assert outcome.exit_code == 0, outcome.output
    assert "LOSES" in outcome.stdout
    outcome = CliRunner().invoke(cli.app, ["env", "--survey", "--json"])
    rows = json.loads(outcome.stdout)["survey"]
    kept = {row["operation"]: row["keeps"] for row in rows if (row["dtype"], row["arithmetic"]) == ("float64", "MLX")}
    assert kept == {"sin": False, "sin, gradient": False, "matmul": True, "matmul, gradient": True}


def test_nothing_of_mlx_is_left_changed() -> None:
    assert not isinstance(mx.sin, context.Lifted)
    assert mnn.gelu(mx.array([1.0])).dtype == mx.float32
