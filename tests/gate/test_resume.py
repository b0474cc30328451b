"""Killed and resumed runs: no report or a whole one, nothing repeated, the same bytes; other work is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import clean_environment, invoke
from planted_faults import PLANTED_FAULTS

from parity import run as run_module
from parity.files import JOURNAL, write_whole
from parity.report import REPORT_FILES

KILLS = 20
ARGUMENTS = ("run", "blockdiag_linear", "--profile", "canonical", "--rung", "f64,f32", "--budget", "quick")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])
    monkeypatch.setenv("CI", "1")


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_run_killed_at_twenty_random_moments_leaves_no_report_or_a_whole_one_and_resumes(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLS), "11"],
        env=clean_environment(MLX_ENABLE_TF32="0"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    whole, states = found["whole"], found["states"]
    assert set(whole) == set(REPORT_FILES)
    assert len(states) == KILLS
    assert any(state["resume"] for state in states)
    assert any(not state["files"] for state in states)
    for before, state in zip([None, *states], states, strict=False):
        # No report, or a whole one, and that the very same.
        if "summary.json" in state["files"]:
            assert state["files"] == whole
        names = [tuple(part) for part in state["parts"]]
        assert len(set(names)) == len(names), "a finished part was run again"
        if before is not None and state["resume"] and state["parts"]:
            assert state["parts"][: len(before["parts"])] == before["parts"]
    assert found["status"] == 0
    assert found["killed"] == whole


def interrupted_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Interrupt the run when so many parts are finished."""
    kept = 0
    keep = run_module._PairRun._finish_case

    def finish(self: Any, *given: Any) -> None:
        nonlocal kept
        if kept == number:
            raise KeyboardInterrupt
        kept += 1
        keep(self, *given)

    monkeypatch.setattr(run_module._PairRun, "_finish_case", finish)


def test_finished_cases_and_strata_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(*ARGUMENTS, "--seed", "5", "--out", "whole").status == 0
    with monkeypatch.context() as patch:
        interrupted_at(patch, 4)
        outcome = invoke(*ARGUMENTS, "--seed", "5", "--out", "part")
    assert outcome.status == 130
    assert "--resume" in outcome.stderr
    run_case, again = run_module._PairRun._run_case, []
    monkeypatch.setattr(
        run_module._PairRun, "_run_case", lambda self, case: (again.append(case), run_case(self, case))[1]
    )
    # The seed is that of the unfinished run, though it is not said, and would be 0 in CI.
    assert invoke(*ARGUMENTS, "--out", "part", "--resume").status == 0
    header_and_cases = 4
    assert again
    assert len(again) == len(set(again))
    with monkeypatch.context() as patch:
        everything: list[Any] = []
        patch.setattr(
            run_module._PairRun, "_run_case", lambda self, case: (everything.append(case), run_case(self, case))[1]
        )
        invoke(*ARGUMENTS, "--seed", "5", "--out", "third")
    assert len(again) == len(everything) - header_and_cases
    assert contents("part") == contents("whole")


def test_a_failing_run_resumes_with_its_failures_and_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = next(fault for fault in PLANTED_FAULTS if fault.component == "mlp")
    fault.plant(monkeypatch)
    given = ("run", "mlp", *ARGUMENTS[2:], "--seed", "5")
    assert invoke(*given, "--out", "whole").status == 1
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "assess_class", interrupt)
        assert invoke(*given, "--out", "part").status == 130
    patched: list[Any] = []
    monkeypatch.setattr(run_module._PairRun, "_failures", lambda self: patched.append(self) or [])
    assert invoke(*given, "--out", "part", "--resume").status == 1
    assert patched == []
    assert contents("part") == contents("whole")


def interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


REFUSALS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], object], str]] = {
    "another seed": (("--seed", "6"), lambda header: None, "seed was 5, is 6"),
    "another budget": (("--seed", "5", "--budget", "standard"), lambda header: None, "budget was quick, is standard"),
    "another rung": (("--seed", "5", "--rung", "bf16"), lambda header: None, "rungs was"),
    "another profile": (("--seed", "5", "--profile", "mlx_stable"), lambda header: None, "profiles was"),
    "other code": (("--seed", "5"), lambda header: header.update(code="0"), "code was 0"),
    "another environment": (("--seed", "5"), lambda header: header.update(fingerprint="0"), "fingerprint was 0"),
    "another version": (("--seed", "5"), lambda header: header["versions"].update(mlx="0"), "versions mlx was 0"),
    "another format": (("--seed", "5"), lambda header: header.update(format=0), "format was 0"),
}


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        assert invoke(*ARGUMENTS, "--seed", "5", "--out", "part").status == 130
    return Path("part") / JOURNAL


def test_a_journal_of_other_work_is_refused_in_one_line_and_left_as_it_is(journal: Path) -> None:
    original = journal.read_bytes()
    for name, (options, change, word) in REFUSALS.items():
        first, rest = original.split(b"\n", 1)
        header = json.loads(first)
        change(header)
        written = json.dumps(header, separators=(",", ":")).encode() + b"\n" + rest
        journal.write_bytes(written)
        outcome = invoke(*ARGUMENTS, *options, "--out", "part", "--resume")
        assert outcome.status == 2, name
        assert word in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1
        assert journal.read_bytes() == written
        assert not (Path("part") / "summary.json").exists()


def test_a_damaged_part_is_named_and_half_a_part_is_run_again(journal: Path) -> None:
    original = journal.read_bytes()
    journal.write_bytes(original + b'{"no": "part"}\n')
    outcome = invoke(*ARGUMENTS, "--out", "part", "--resume")
    assert outcome.status == 2
    assert "line 4 is no part" in outcome.stderr
    journal.write_bytes(original[:-20])
    assert invoke(*ARGUMENTS, "--out", "part", "--resume").status == 0
    assert invoke(*ARGUMENTS, "--seed", "5", "--out", "whole").status == 0
    assert contents("part") == contents("whole")


def test_without_resume_an_unfinished_run_begins_anew(journal: Path) -> None:
    assert invoke(*ARGUMENTS, "--seed", "6", "--out", "part").status == 0
    assert not journal.exists()


def test_resuming_a_single_case_is_refused() -> None:
    outcome = invoke(*ARGUMENTS, "--case", "{}", "--resume")
    assert outcome.status == 2
    assert "--resume" in outcome.stderr


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old", "")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, "new", "")
    assert path.read_text(encoding="utf-8") == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file.json"]
