"""A run in several processes: the same bytes, the same errors, an end at once, and a journal for any number of them."""

from __future__ import annotations

import gc
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import invoke

from parity import run_jobs
from parity.files import JOURNAL
from parity.run import Plan
from parity.run_jobs import CASES_A_WORKER, Unit, chosen_jobs, without_aids
from parity.spec.profile import CANONICAL
from parity.suites import select

ARGUMENTS = ("run", "blockdiag_linear", "monarch_multiply", "--profile", "canonical", "--rung", "f64,f32")
RUN = (*ARGUMENTS, "--budget", "quick", "--seed", "3")

BROKEN = """
import dataclasses

def _first():
    from parity.suites import PAIRS  # a name of the module's own would be a target
    return next(pair for pair in PAIRS if pair.name == "blockdiag_linear")

def _broken(structure, profile, ops):
    {fault}

broken = dataclasses.replace(_first(), name="broken", port=_broken, strata=())
sound = dataclasses.replace(_first(), name="sound", strata=())
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])
    monkeypatch.setenv("CI", "1")


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_one_two_and_three_processes_write_the_same_bytes() -> None:
    for jobs in ("1", "2", "3"):
        assert invoke(*RUN, "--out", jobs, "--jobs", jobs).status == 0
    assert contents("1") == contents("2") == contents("3")


def test_a_fault_is_reported_alike_from_a_worker() -> None:
    Path("faulty.py").write_text(BROKEN.format(fault='raise RuntimeError("planted")'), encoding="utf-8")
    run = ("run", "faulty.py", "--profile", "canonical", "--rung", "f64", "--budget", "quick", "--seed", "3")
    found = {jobs: invoke(*run, "--out", "same", "--jobs", jobs) for jobs in ("1", "2")}
    assert found["1"].status == found["2"].status == 1
    assert found["1"].stdout == found["2"].stdout
    assert "planted" in found["2"].stdout


def test_a_worker_that_dies_is_one_line_and_the_rest_is_kept() -> None:
    fault = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    guard = "import multiprocessing\n    if multiprocessing.parent_process() is None: raise RuntimeError\n    "
    Path("faulty.py").write_text(BROKEN.format(fault=guard + fault), encoding="utf-8")
    run = ("run", "faulty.py", "--profile", "canonical", "--rung", "f64", "--budget", "quick", "--seed", "3")
    outcome = invoke(*run, "--out", "part", "--jobs", "2")
    assert outcome.status == 2
    assert "status -9 at task Unit(component='broken', strata=None)" in outcome.stderr
    assert "--resume goes on" in outcome.stderr
    assert Path("part", JOURNAL).exists()
    assert not Path("part", "summary.json").exists()


def test_a_journal_serves_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(*RUN, "--out", "whole", "--jobs", "1").status == 0
    with monkeypatch.context() as patch:
        interrupted_after(patch, 4)
        assert invoke(*RUN, "--out", "part", "--jobs", "2").status == 130
    lines = Path("part", JOURNAL).read_bytes().count(b"\n")
    assert lines > 4
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3)
        assert invoke(*RUN, "--out", "part", "--resume", "--jobs", "3").status == 130
    assert Path("part", JOURNAL).read_bytes().count(b"\n") > lines
    assert invoke(*RUN, "--out", "part", "--resume", "--jobs", "1").status == 0
    assert contents("part") == contents("whole")


def interrupted_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Press Ctrl-C when so many parts have come."""
    add, come = run_jobs.Gathered.add, []

    def counted(self: Any, *part: str) -> None:
        add(self, *part)
        come.append(part)
        if len(come) == parts:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run_jobs.Gathered, "add", counted)


def test_a_part_that_is_lost_is_found_anew_and_one_that_is_spoilt_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the processes send is what the report is made of: a wrong part would not go unseen."""
    assert invoke(*RUN, "--out", "whole", "--jobs", "1").status == 0
    add = run_jobs.Gathered.add

    def spoilt(self: Any, component: str, name: str, text: str) -> None:
        add(self, component, name, text.replace('"elements": ', '"elements": 1'))

    monkeypatch.setattr(run_jobs.Gathered, "add", spoilt)
    invoke(*RUN, "--out", "spoilt", "--jobs", "2")
    assert contents("spoilt") != contents("whole")


@pytest.mark.parametrize(
    ("asked", "memory", "cases", "units", "jobs"),
    [
        (None, 64 * 2**30, 10_000, 50, 4),
        (None, 3 * 2**30, 10_000, 50, 2),
        (None, 2**20, 10_000, 50, 1),
        (None, None, 10_000, 3, 3),
        (None, None, CASES_A_WORKER - 1, 50, 1),
        (None, None, 2 * CASES_A_WORKER, 50, 2),
        (7, 2**20, 1, 50, 7),
        (7, None, 1, 2, 2),
    ],
)
def test_processes_are_as_many_as_processors_memory_and_work_allow(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, memory: int | None, cases: int, units: int, jobs: int
) -> None:
    monkeypatch.setattr(run_jobs, "_processors", lambda: 4)
    monkeypatch.setattr(run_jobs, "available_memory", lambda: memory)
    assert chosen_jobs(asked, cases, units) == jobs


def test_memory_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_jobs, "MEMORY", tmp_path / "meminfo")
    assert run_jobs.available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n", encoding="ascii")
    assert run_jobs.available_memory() == 2 * 2**20


def test_a_report_does_not_say_what_only_made_it_sooner() -> None:
    words = ["run", "--jobs", "2", "mlp", "--jobs=3", "--predictions", "kept.sqlite", "--seed", "0"]
    assert without_aids(words) == ["run", "mlp", "--seed", "0"]


class Nothing:
    """A progress in which nothing is finished."""

    def found(self, component: str, name: str) -> None:
        """Return None."""


def test_what_takes_longest_comes_first_and_no_builder_of_somebody_is_called_for_it() -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError("built")

    pairs = select(["pooler", "fftconv", "layer", "masked_lm"])
    own = replace(pairs[0], name="own", target="own.py::own", reference=refuse, strata=())
    plan = Plan([*pairs, own], [CANONICAL], ("f32",), "standard", 0)
    units = [(unit.component, unit.strata) for unit in run_jobs._units(plan, Nothing())]  # type: ignore[arg-type]
    assert units[:2] == [("masked_lm", None), ("layer", None)]
    assert ("own", None) in units
    assert units.index(("layer", 0)) < units.index(("fftconv", None))


def test_a_unit_in_a_message_leaves_out_what_is_finished() -> None:
    assert repr(Unit("mlp", 1, (("case 0", "x" * 1000),))) == "Unit(component='mlp', strata=1)"


def test_garbage_is_collected_again_after_a_run_also_after_one_that_was_stopped() -> None:
    with run_jobs.settled():
        during = gc.get_freeze_count()
    with pytest.raises(KeyboardInterrupt), run_jobs.settled():
        raise KeyboardInterrupt
    assert during > 0
    assert gc.get_freeze_count() == 0
