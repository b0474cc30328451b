"""Small pieces that several tests of the harness are made of: traced tensors, cases, judgements, results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typer.testing import CliRunner

from parity.cases import Case
from parity.cli import app
from parity.results import Failure, Fidelity, Results, Row, Skip
from parity.spec.precision import RUNGS, Rung
from parity.tolerance import Allowance
from parity.trace import TracedTensor
from parity.verdict import Judgement, judge

Array = npt.NDArray[np.float64]

F32 = RUNGS["f32"]
F64 = RUNGS["f64"]

META = {"budget": "quick", "seed": 0, "command": ["run"], "environment": {"system": "Linux"}, "fingerprint": "0"}

POOLER_CASE = '{"L":3,"batch":1,"family":"normal","ladder":"f64,f32","scale":0,"seed":0}'


def traced(values: npt.ArrayLike, dtype: str = "float32") -> TracedTensor:
    """Carry values as a framework's tensor of `dtype`."""
    return TracedTensor(np.array(values, dtype=np.float64), dtype)


def float32(values: npt.ArrayLike) -> Array:
    """Round values to float32, carried in float64."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def pooler_case(seed: int = 0) -> Case:
    """A small case of the pooler."""
    return Case.make("pooler", {"batch": 1, "L": 3}, seed=seed)


def judgement_of(error: float, allowed: float = 1.0, rung: Rung = F32) -> Judgement:
    """The verdict on a tensor of ones whose second element is off by `error`, the maximum being `allowed`."""
    ones = traced(np.ones(4), rung.dtype)
    port = traced([1.0, 1.0 + error, 1.0, 1.0], rung.dtype)
    return judge(ones, ones, port, rung, Allowance(np.inf, allowed), 1.0, None)


def row(component: str = "pooler", profile: str = "canonical", rung: str = "f32", tensor: str = "y") -> Row:
    """A row that nothing was added to."""
    return Row(component, profile, rung, tensor, "output", 0)


def filled_row(error: float = 0.5, **names: str) -> Row:
    """A row of one case, failed where `error` is above 1."""
    filled = row(**names)
    case = Case.make(filled.component, {"batch": 1, "L": 3})
    filled.add(judgement_of(error), case, case.command(filled.profile, filled.rung))
    return filled


def failure_of(failed: Row) -> Failure:
    """The failure that a run makes of a failed row."""
    return Failure(
        component=failed.component,
        profile=failed.profile,
        rung=failed.rung,
        first_bad=failed.tensor,
        reason=failed.reason,
        ratio=failed.ratio,
        case=failed.worst_case,
        shrunk=True,
        rerun=failed.rerun,
        cases=1,
        cases_failed=1,
    )


def results_of(rows: Sequence[Row], skips: Sequence[Skip] = ()) -> Results:
    """Results of these rows, every failed one with its failure."""
    failures = [failure_of(each) for each in rows if each.verdict == "fail"]
    distances = [Fidelity(component, profile, 0.0) for component, profile in {(r.component, r.profile) for r in rows}]
    return Results(dict(META), list(rows), failures, list(skips), sorted(distances, key=str))


@dataclass(frozen=True)
class Finished:
    """What a process left behind."""

    status: int
    stdout: str
    stderr: str


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what the command reads, and with `changes`."""
    dropped = {"CI", "MLX_M2_PROFILE", "MLX_ENABLE_TF32"}
    return {key: value for key, value in os.environ.items() if key not in dropped} | changes


def invoke(*arguments: str) -> Finished:
    """Run the command line in this process; an unexpected exception rises."""
    outcome = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return Finished(outcome.exit_code, outcome.stdout, outcome.stderr)


def parity(*arguments: str, folder: Path, **environment: str) -> Finished:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "parity.cli", *arguments],
        cwd=folder,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
