"""Ties and kinks, backwards: who chooses another derivative there is not accused, and who has a wrong one is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import torch
from mlx import nn as mnn
from torch import nn as tnn
from typer.testing import CliRunner

from parity.api import Pair, complete
from parity.backends.port import arithmetic
from parity.blame import BlameTable, links_by_pairing, trace_backward_beside
from parity.blame.beside import BESIDE
from parity.blame.failures import blame_failures
from parity.cases import Case
from parity.cli import app
from parity.examine import Bench
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL


class Largest(tnn.Module):
    """The largest of all positions: of a constant input, all are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.max(dim=-2)[0]


class Net(tnn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.pool, self.lin = Largest(), tnn.Linear(n, n)

    def forward(self, x: torch.Tensor) -> Any:
        return torch.tanh(self.lin(self.pool(x)))


class LargestPort(mnn.Module):
    """The same; `root` adds nothing but the derivative of a root that is infinite at a tie."""

    def __init__(self, root: bool = False) -> None:
        super().__init__()
        self.root = root

    def __call__(self, x: mx.array) -> mx.array:
        y = mx.max(x, axis=-2)
        return y + 0 * mx.sqrt(mx.max(x, axis=-2) - mx.min(x, axis=-2)) if self.root else y


class Line(mnn.Linear):
    """A layer of which a share of the derivative is lost."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(0.99 * x + mx.stop_gradient(x - 0.99 * x))


class Port(mnn.Module):
    def __init__(self, n: int, wrong: bool = False, root: bool = False, outside: bool = False) -> None:
        super().__init__()
        self.pool, self.lin = LargestPort(root), Line(n, n) if wrong else mnn.Linear(n, n)
        self.outside = outside

    def __call__(self, x: mx.array) -> mx.array:
        hidden = self.lin(self.pool(x))
        y = mx.tanh(hidden)
        return 0.9 * y + mx.stop_gradient(y - 0.9 * y) if self.outside else y


def whole(**port: bool) -> Any:
    return complete(
        Pair(
            "tied",
            reference=Net,
            port=lambda n: Port(n, **port),
            configurations=[6],
            inputs=lambda n: {"x": (2, 32, n)},
            inlined=("tanh",),
        )
    )


CASE = Case.make("tied", {"CONFIGURATION": 6}, "constant")


def traced(rung: Any, **port: bool) -> BlameTable:
    bench = Bench(whole(**port), CASE, CANONICAL, intermediates=False)
    built = bench.modules.port(CANONICAL, RUNGS[rung])
    with arithmetic(bench.pair, RUNGS[rung]):
        links = links_by_pairing(bench.pair, bench.module, built, bench.inputs, RUNGS[rung])
        return trace_backward_beside(bench, CANONICAL, RUNGS[rung], links)


def noted(table: BlameTable) -> set[str]:
    return {row.module for row in table.rows if BESIDE in row.notes}


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_who_chooses_another_derivative_at_a_tie_is_not_accused(rung: Any) -> None:
    table = traced(rung)
    assert table.passed, table.sentence()
    assert noted(table) == {"", "pool"}


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_a_wrong_derivative_in_the_same_case_is_the_only_culprit(rung: Any) -> None:
    table = traced(rung, wrong=True)
    assert [row.module for row in table.culprits] == ["lin"]
    assert noted(table) == {"pool"}
    assert not table.passed


def test_one_outside_of_modules_is_still_found() -> None:
    table = traced("f64", outside=True)
    assert [row.module for row in table.culprits] == [""]
    assert not table.passed


def test_nan_at_a_tie_is_no_choice() -> None:
    table = traced("f64", root=True)
    assert [row.module for row in table.culprits] == ["pool"]
    assert not noted(table)
    assert "NaN or infinity where there should be none: gradient of input" in " ".join(table.culprits[0].notes)


def test_where_nothing_errs_nothing_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.blame.beside.aside", lambda *_: pytest.fail("moved"))
    bench = Bench(whole(), Case.make("tied", {"CONFIGURATION": 6}), CANONICAL, intermediates=False)
    built = bench.modules.port(CANONICAL, RUNGS["f64"])
    with arithmetic(bench.pair, RUNGS["f64"]):
        links = links_by_pairing(bench.pair, bench.module, built, bench.inputs, RUNGS["f64"])
        assert trace_backward_beside(bench, CANONICAL, RUNGS["f64"], links).passed


def test_the_blame_of_a_failing_run_names_the_wrong_derivative_alone() -> None:
    pair = replace(whole(wrong=True), target="tied.py::tied")
    results = execute(Plan([pair], [CANONICAL], ("f64",), "quick", 0, [CASE]), Results({"seed": 0}))
    (blame,) = blame_failures([pair], [CANONICAL], results)
    assert blame.sentence.startswith("lin (Linear): own error")
    assert "pool" not in blame.sentence


PAIR_FILE = """
from test_beside import Net, Port

from parity import Pair

TIED = Pair(
    "tied", reference=Net, port=Port, configurations=[6], inputs=lambda n: {"x": (2, 32, n)}, inlined=("tanh",)
)
"""


def test_the_command_passes_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "tied_pairs.py"
    path.write_text(PAIR_FILE)
    arguments = ["trace", f"{path}::tied", "--backward", "--case", CASE.to_json(), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    notes = {row["module"]: row["notes"] for row in json.loads(result.output)["rows"]}
    assert notes["pool"] == [BESIDE]
