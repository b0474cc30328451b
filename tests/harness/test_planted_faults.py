"""Broken on purpose, a run goes red and names the component, the first bad tensor, the rung and the case."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from planted_faults import PLANTED_FAULTS, PlantedFault
from typer.testing import CliRunner

from parity.cli import app
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.profile import load_profile
from parity.suites import select

faults = pytest.mark.parametrize("fault", PLANTED_FAULTS, ids=lambda fault: fault.name)


def run(component: str, profile: str, rungs: tuple[str, ...] = ("f64",)) -> Results:
    plan = Plan(select([component]), [load_profile(profile)], rungs, "quick", seed=0)  # type: ignore[arg-type]
    return execute(plan, Results({}))


@faults
@pytest.mark.parametrize("profile", ["canonical", "mlx_stable", "torch_like"])
def test_a_planted_fault_fails_at_f64_and_the_layer_names_where(
    fault: PlantedFault, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault.plant(monkeypatch)
    results = run("layer", profile)
    assert results.verdict == "fail"
    failure = results.failures[0]
    assert (failure.component, failure.profile, failure.rung) == ("layer", profile, "f64")
    assert failure.first_bad == fault.first_bad


@faults
def test_a_planted_fault_fails_in_the_component_that_holds_it(
    fault: PlantedFault, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault.plant(monkeypatch)
    assert run(fault.component, "canonical").verdict == "fail"


@pytest.mark.parametrize("component", sorted({fault.component for fault in PLANTED_FAULTS} | {"layer"}))
def test_without_a_fault_the_same_runs_pass(component: str) -> None:
    assert run(component, "canonical").verdict == "pass"


def test_in_torch_avg_the_frequency_combination_is_right_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = next(fault for fault in PLANTED_FAULTS if "freq" in fault.name)
    fault.plant(monkeypatch)
    assert run("hyena_filter", "torch_avg").verdict == "pass"


@faults
def test_the_command_line_exits_1_and_prints_a_command_that_fails_again(
    fault: PlantedFault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fault.plant(monkeypatch)
    arguments = ["run", "layer", "--profile", "canonical", "--rung", "f64", "--budget", "quick", "--seed", "0"]
    outcome = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert outcome.exit_code == 1
    line = next(line for line in outcome.output.splitlines() if line.startswith("FAIL"))
    assert all(word in line for word in ("layer", "canonical", "f64", fault.first_bad))
    again = next(line for line in outcome.output.splitlines() if line.strip().startswith("again: "))
    rerun = shlex.split(again.removeprefix("  again: "))
    assert rerun[:2] == ["parity", "run"]
    repeated = CliRunner().invoke(app, rerun[1:])
    assert repeated.exit_code == 1
    assert fault.first_bad in repeated.output
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["verdict"] == "fail"
    assert summary["failures"][0]["first_bad"] == fault.first_bad


def test_the_command_line_says_which_meaning_the_port_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    PLANTED_FAULTS[0].plant(monkeypatch)
    arguments = ["run", "mlp", "--profile", "canonical", "--rung", "f32", "--budget", "quick", "--seed", "0"]
    outcome = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert "behaves as if: gelu=tanh (beta 1.0" in outcome.output
    assert "different meaning: error at f64" in outcome.output
    assert "behaves as if: gelu=tanh" in (tmp_path / "report.md").read_text(encoding="utf-8")
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["failures"][0]["meaning"]["kind"] == "different meaning"


def test_an_explanation_that_raises_is_said_and_the_failure_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> list[str]:
        raise ValueError("planted")

    PLANTED_FAULTS[0].plant(monkeypatch)
    plan = Plan(select(["mlp"]), [load_profile("canonical")], ("f64",), "quick", seed=0, explain=broken)
    (failure,) = execute(plan, Results({})).failures
    assert failure.attribution == ("no attribution: the port raised ValueError on its cases: planted",)


def test_a_failing_case_is_shrunk_to_a_small_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED_FAULTS[0].plant(monkeypatch)
    failure = run("mlp", "canonical").failures[0]
    case = json.loads(failure.case)
    assert failure.shrunk
    assert (case["batch"], case["L"], case["family"], case["scale"]) == (1, 1, "normal", 0)
