"""Killed and resumed runs: no report or a whole one, nothing repeated, the same bytes; other work is refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import clean_environment, invoke
from planted_faults import PLANTED_FAULTS

from parity import run as run_module
from parity.errors import OutputError
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


@pytest.mark.parametrize(
    "options", [(), ("--resume",), ("--case", '{"family":"normal"}')], ids=["anew", "resumed", "case"]
)
def test_a_run_that_is_refused_since_another_is_at_work_leaves_the_folder_as_it_is(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parity.cases.Case.from_json", lambda *_: None)
    monkeypatch.setattr("parity.run.require_buildable", lambda *_: None)
    (Path("part") / "bundles").mkdir(parents=True)
    for name in ("summary.json", "bundles/one.parity.zip", JOURNAL):
        (Path("part") / name).write_text("theirs", encoding="utf-8")
    before = contents("part")
    with (Path("part") / JOURNAL).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outcome = invoke(*ARGUMENTS, "--seed", "5", *options, "--out", "part")
    assert outcome.status == 2
    assert "in use by another process" in outcome.stderr
    assert contents("part") == before


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_at_the_report_leaves_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("parity.report.write._write", full)
        outcome = invoke(*ARGUMENTS, "--seed", "5", "--out", "part")
    assert outcome.status == 2
    assert "No space left" in outcome.stderr
    assert "--resume goes on" in outcome.stderr
    assert (Path("part") / JOURNAL).exists()
    monkeypatch.setattr(run_module._PairRun, "_run_case", interrupt)
    assert invoke(*ARGUMENTS, "--out", "part", "--resume").status == 0


def test_a_disk_that_is_full_at_a_part_leaves_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.write, 0

    def soon_full(file: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls < 4:
            return write(file, data)
        return write(file, data[:10]) if calls == 4 else full()

    with monkeypatch.context() as patch:
        patch.setattr("parity.journal.os.write", soon_full)
        outcome = invoke(*ARGUMENTS, "--seed", "5", "--out", "part")
    assert outcome.status == 2
    assert len([line for line in outcome.stderr.splitlines() if line.startswith("parity: journal")]) == 1
    assert "--resume goes on" in outcome.stderr
    assert invoke(*ARGUMENTS, "--out", "part", "--resume").status == 0
    assert invoke(*ARGUMENTS, "--seed", "5", "--out", "whole").status == 0
    assert contents("part") == contents("whole")


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


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link, new = tmp_path / "there" / "file", tmp_path / "link", tmp_path / "new"
    target.write_text("old", encoding="utf-8")
    link.symlink_to(target)
    new.symlink_to(tmp_path / "there" / "later")
    write_whole(link, "new", "")
    write_whole(new, "later", "")
    assert link.is_symlink()
    assert new.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["file", "later"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OutputError, match=r"cannot write .*loop"):
        write_whole(loop, "x", "name another")


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    write_whole(pipe, "content", "")
    reader.join(timeout=60)
    assert found == ["content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_whole(Path(os.devnull), "content", "")
    assert not Path(os.devnull).is_file()
    script = (
        "from pathlib import Path; from parity.files import write_whole; write_whole(Path('/dev/stdout'), 'said', '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "said"
    log = tmp_path / "log"
    with log.open("wb") as file:  # as a shell redirects: whoever writes there next has the same file
        subprocess.run([sys.executable, "-c", script], env=clean_environment(), stdout=file, check=True)
        assert log.stat().st_ino == os.fstat(file.fileno()).st_ino
    assert log.read_text(encoding="utf-8") == "said"
    with pytest.raises(OutputError):
        write_whole(tmp_path, "x", "name another")
