"""Bundles in a report: one for every failure, named in it, there whole or not at all, gone with the report."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import META, failure_of, filled_row, invoke, results_of
from planted_faults import PLANTED_FAULTS

from parity.errors import OutputError
from parity.replay.bundle import read_bundle
from parity.replay.files import remove_bundles, write_bundle
from parity.replay.limits import limit
from parity.report import REPORT_FILES, prepare_folder, render_markdown, summary_json, write_report
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.profile import CANONICAL
from parity.suites import select

TANH = PLANTED_FAULTS[0]
RUN = ("run", "mlp", "--profile", "canonical", "--budget", "quick", "--seed", "0", "--out", "out")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])


def bundles(folder: Path) -> set[str]:
    return (
        {f"bundles/{path.name}" for path in (folder / "bundles").iterdir()} if (folder / "bundles").exists() else set()
    )


# A run ------------------------------------------------------------------------------------------------------------


def test_every_failure_of_a_run_leaves_a_bundle_that_the_report_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TANH.plant(monkeypatch)
    outcome = invoke(*RUN, "--rung", "f64,f32")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    failures = summary["failures"]
    assert failures
    assert bundles(tmp_path / "out") == {failure["bundle"] for failure in failures}
    for failure in failures:
        path = tmp_path / "out" / failure["bundle"]
        record = read_bundle(path).record
        assert record.rung == failure["rung"]
        if failure["meaning"] is not None:  # a stratum's bundle holds its worst case, whatever fails in it
            assert record.first_bad == failure["first_bad"]
        assert record.case == json.loads(failure["case"])
        assert path.stat().st_size <= limit("file_bytes")
        assert failure["replay"] == f"parity replay {failure['bundle']}"
        assert f"* `{failure['replay']}`" in report.splitlines()
        line = f"  bundle: parity replay out/{failure['bundle']}"
        assert line in outcome.stdout.splitlines()
        assert invoke(*shlex.split(line.removeprefix("  bundle: "))[1:]).status == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert invoke("replay", f"out/{failures[0]['bundle']}").status == 1


def test_two_runs_leave_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TANH.plant(monkeypatch)
    plan = Plan(select(["mlp"]), [CANONICAL], ("f64",), "quick", seed=0)
    first, second = execute(plan, Results({})).bundles, execute(plan, Results({})).bundles
    assert len(first) == 1
    assert first == second


def test_a_passing_run_takes_the_bundles_of_a_failing_one_away(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        TANH.plant(patch)
        assert invoke(*RUN, "--rung", "f64").status == 1
    assert bundles(tmp_path / "out")
    assert invoke(*RUN, "--rung", "f64").status == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(REPORT_FILES)


def test_an_interrupted_run_leaves_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        TANH.plant(patch)
        assert invoke(*RUN, "--rung", "f64").status == 1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("parity.run.execute", interrupted)
    assert invoke(*RUN, "--rung", "f64").status == 130
    assert not (tmp_path / "out" / "bundles").exists()


def test_a_single_case_without_a_folder_leaves_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TANH.plant(monkeypatch)
    invoke(*RUN, "--rung", "f64")
    failure = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["failures"][0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    outcome = invoke(*shlex.split(failure["rerun"])[1:])
    assert outcome.status == 1
    assert "bundle" not in outcome.stdout
    assert list(elsewhere.iterdir()) == []


# The report -------------------------------------------------------------------------------------------------------


def test_a_failure_without_a_bundle_is_reported_without_one() -> None:
    results = results_of([filled_row(2.0)])
    assert "parity replay" not in render_markdown(results)
    assert json.loads(summary_json(results))["failures"][0]["replay"] == ""


def test_a_hostile_name_of_a_bundle_stays_in_its_code_span() -> None:
    bad = filled_row(2.0)
    failure = failure_of(bad)
    results = Results(dict(META), [bad], [type(failure)(**{**vars(failure), "bundle": "bundles/`<b>\n# x"})])
    (line,) = (line for line in render_markdown(results).splitlines() if "bundles/" in line)
    assert line.startswith("* `parity replay ")
    assert (line.count("`"), line.count("<")) == (2, 0)


# Writing ----------------------------------------------------------------------------------------------------------

OLD = {name: f"old {name}" for name in REPORT_FILES}
NEW = {name: f"new {name}" for name in REPORT_FILES}
OLD_BUNDLES = {"bundles/old.parity.zip": b"old"}
NEW_BUNDLES = {"bundles/a.parity.zip": b"a", "bundles/b.parity.zip": b"b"}


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_report_replaces_bundles_and_leaves_other_files_alone(tmp_path: Path) -> None:
    write_report(tmp_path, OLD, OLD_BUNDLES)
    (tmp_path / "bundles" / "mine.txt").write_text("mine", encoding="utf-8")
    write_report(tmp_path, NEW, NEW_BUNDLES)
    assert tree(tmp_path) == {*REPORT_FILES, *NEW_BUNDLES, "bundles/mine.txt"}
    assert (tmp_path / "bundles" / "a.parity.zip").read_bytes() == b"a"


def test_preparing_a_folder_takes_bundles_away(tmp_path: Path) -> None:
    write_report(tmp_path, OLD, OLD_BUNDLES)
    prepare_folder(tmp_path)
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("name", "at"), [*[("fsync", at) for at in range(5)], *[("replace", at) for at in range(5)], ("mkdir", 0)]
)
def test_interrupted_at_any_moment_a_folder_has_a_whole_report_or_none(
    name: str, at: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, OLD, OLD_BUNDLES)
    original, calls = getattr(os, name), iter(range(100))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) != at:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, name, call)
        with pytest.raises(KeyboardInterrupt):
            write_report(tmp_path, NEW, NEW_BUNDLES)
    left = tree(tmp_path)
    assert left <= {*REPORT_FILES, *OLD_BUNDLES, *NEW_BUNDLES}
    if "summary.json" in left:
        whole = NEW if (tmp_path / "summary.json").read_text(encoding="utf-8") == NEW["summary.json"] else OLD
        assert left == {*REPORT_FILES, *(NEW_BUNDLES if whole is NEW else OLD_BUNDLES)}
        assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in REPORT_FILES} == whole
    else:
        assert not any(name.startswith("bundles/") for name in left)


def test_a_bundle_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "bundles").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"a\.parity\.zip.* cannot be written"):
        write_bundle(tmp_path / "bundles", "a.parity.zip", b"a")


def test_removing_bundles_where_there_are_none_does_nothing(tmp_path: Path) -> None:
    remove_bundles(tmp_path)
    assert list(tmp_path.iterdir()) == []
