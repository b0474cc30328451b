"""The report's file: what was written is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from bench_pieces import MACHINE, a_report, a_time, times

from parity.bench.cells import Cell
from parity.bench.markdown import markdown
from parity.bench.report import merged, read_report
from parity.bench.verdicts import BOUNDS, LAYER
from parity.errors import ReportError

ADDED = "what an examination adds to the three bare passes, in units of them, predictions kept"
OVERHEAD = Cell.make("harness", "overhead", {"component": "layer", "predictions": "kept"}, "x", [1.5, 1.2, 1.6])


def written(folder: Path, change: Any = None) -> Path:
    data = json.loads(a_report(a_time("layer", 128, [1.0, 2.0, 4.0]), OVERHEAD).to_json())
    if change is not None:
        change(data)
    path = folder / "bench.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = a_report(a_time("layer", 128, [1.0, 2.0, 4.0]), OVERHEAD)
    path = tmp_path / "bench.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert read_report(path) == report


def test_a_cell_has_median_least_largest_rounds_and_rate(tmp_path: Path) -> None:
    (cell, _) = json.loads(written(tmp_path).read_text(encoding="utf-8"))["cells"]
    assert {name: cell[name] for name in ("median", "least", "largest", "rounds", "rate")} == {
        "median": 2.0,
        "least": 1.0,
        "largest": 4.0,
        "rounds": 3,
        "rate": 64.0,
    }


SPOILT = {
    "an unknown key": lambda data: data.update(extra=1),
    "a missing key": lambda data: data.pop("cells"),
    "an unknown key of a cell": lambda data: data["cells"][0].update(extra=1),
    "a missing key of a cell": lambda data: data["cells"][0].pop("rounds"),
    "an unknown key of a run": lambda data: data["runs"][0].update(extra=1),
    "an unknown key of the machine": lambda data: data["machine"].update(extra=1),
    "an unknown key of a skip": lambda data: data["skips"][0].update(extra=1),
    "another schema": lambda data: data.update(schema=99),
    "another kind": lambda data: data.update(kind="run"),
    "a text for a number": lambda data: data["cells"][0].update(median="fast"),
    "a unit that nobody knows": lambda data: data["cells"][0].update(unit="furlong"),
    "a cell that is none": lambda data: data["cells"].append(3),
    "cells that are none": lambda data: data.update(cells=7),
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_report_is_refused(tmp_path: Path, change: Any) -> None:
    with pytest.raises(ReportError):
        read_report(written(tmp_path, change))


def test_what_is_no_file_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot read"):
        read_report(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{", encoding="utf-8")
    with pytest.raises(ReportError, match="no JSON"):
        read_report(tmp_path / "text.json")


def test_parts_that_were_measured_apart_are_put_together() -> None:
    one, other = a_report(*times("layer", float)), a_report(OVERHEAD)
    both = merged([one, other])
    assert both.cells == (*one.cells, OVERHEAD)
    assert [run.parts for run in both.runs] == [("models",), ("harness",)]
    assert both.skips == one.skips


def test_reports_of_two_machines_or_of_the_same_figure_are_not_put_together() -> None:
    other = dataclasses.replace(MACHINE, versions=(("mlx", "2"),))
    with pytest.raises(ReportError, match="different machines or versions"):
        merged([a_report(OVERHEAD), a_report(OVERHEAD, machine=other)])
    with pytest.raises(ReportError, match="a quick report and another"):
        merged([a_report(OVERHEAD), a_report(a_time("mlp", 128, [1.0]), quick=True)])
    with pytest.raises(ReportError, match="two reports have harness component=layer predictions=kept overhead"):
        merged([a_report(OVERHEAD), a_report(OVERHEAD)])


def test_a_missed_bound_says_by_how_much_and_a_quick_run_judges_none() -> None:
    (verdict,) = a_report(OVERHEAD).verdicts()
    assert verdict.line() == (f"MISSED: {ADDED}: 1.5 (1.2 to 1.6), at most 1.3, missed by 0.2")
    quick = a_report(OVERHEAD, quick=True)
    assert quick.verdicts() == []
    assert quick.unjudged() == [*(bound.what for bound in BOUNDS), LAYER]
    assert f"not judged: {ADDED}" in markdown(quick)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.what)
def test_every_bound_is_held_and_missed(bound: Any) -> None:
    for factor, held in ((0.9, bound.at_most), (1.1, not bound.at_most)):
        cell = Cell.make(bound.part, bound.figure, dict(bound.at), "x", [factor * bound.allowed])
        (verdict,) = a_report(cell).verdicts()
        assert verdict.held == held


def test_the_page_shows_verdicts_machine_growth_and_what_is_missing() -> None:
    ratio = Cell.make(
        "models", "mlx over torch", {"component": "layer", "pass": "forward", "L": 1024, "blas": "torch"}, "x", [2.0]
    )
    cells = [*times("layer", lambda length: 1e-6 * length), a_time("layer", 1024, [5e-4], side="torch"), ratio]
    page = markdown(a_report(*cells, OVERHEAD))
    for text in (
        "a processor, 2 cores",
        f"MISSED: {ADDED}",
        "it: a reason",
        "| 1.02 ms | 0.5 ms | 1,000,000 | 2,048,000 | 2 |",
        "load 0.10 before",
        "MLX's BLAS torch: a library.",
        "abc+",
        "| layer | forward | torch | mlx | L + L log L | 1024 to 32768 | 1.000 | 1.000 | 1.000 to 1.108 |",
    ):
        assert text in page, text
