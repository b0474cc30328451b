"""`parity mutants` on the command line, with catalogues of stand-ins."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import clean_environment, invoke

from parity import mutants_command
from parity.mutants import score, trial

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Trials on the quick budget in this process; worker processes keep the standard one."""
    court = trial.Court

    def quick_court(**given: Any) -> trial.Court:
        return court(**given, budget="quick")

    monkeypatch.setattr(trial, "Court", quick_court)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mutants(*arguments: str, catalogue: str = "GOOD") -> Any:
    return invoke("mutants", "--catalogue", f"stand_ins:{catalogue}", *arguments)


def test_the_list_names_every_mutant_and_runs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants_command, "_one", None)
    done = mutants("--list")
    assert done.status == 0
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["tanh", "tiny", "other-half"]
    assert done.stdout.splitlines()[-1].endswith("(computes the same)")
    assert [line.split("  ")[0] for line in mutants("--list", "t*").stdout.splitlines()] == ["tanh", "tiny"]


def test_a_whole_catalogue_is_scored_and_reported(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "LEAST_F32_SHARE", 0.5)
    done = mutants()
    assert done.status == 0, done.stdout
    assert "f64: 2 of 2 killed (100.0 %), 0 of them weak" in done.stdout
    assert "f32: 1 of 2 killed (50.0 %)" in done.stdout
    assert "attribution: a known meaning is named for 1 of 2" in done.stdout
    assert "equivalent: 2 put to every rung, 0 falsely killed" in done.stdout
    assert done.stdout.endswith("PASS: 2 mutants, 2 that compute the same\nreport in reports/mutants\n")
    folder = quick / "reports" / "mutants"
    rows = list(csv.DictReader((folder / "mutants.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == ["tanh", "tiny", "other-half", "unchanged:mlp"]
    assert json.loads((folder / "mutants.json").read_text(encoding="utf-8"))["passed"] is True


def test_a_share_of_the_catalogue_below_what_it_must_be_fails() -> None:
    done = mutants()
    assert done.status == 1
    assert "COMPLAINT only 50.0 % of mutants are killed at f32, at least 85 % must be" in done.stdout


def test_a_part_of_the_catalogue_leaves_the_published_report_alone(quick: Path) -> None:
    done = mutants("tiny", "--json")
    assert done.status == 0
    assert not (quick / "reports").exists()
    document = json.loads(done.stdout)
    assert document["whole"] is False
    assert [outcome["name"] for outcome in document["outcomes"]] == ["tiny", "unchanged:mlp"]


def test_a_rung_alone(quick: Path) -> None:
    done = mutants("--rung", "f64", "--out", "here")
    assert done.status == 0
    assert "f32:" not in done.stdout
    assert (quick / "here" / "mutants.json").exists()
    assert not (quick / "reports").exists()


@pytest.mark.parametrize(
    ("catalogue", "arguments", "said"),
    [
        ("SURVIVING", ("--rung", "f64"), "COMPLAINT idle survives f64"),
        ("LYING", ("--rung", "f64"), "COMPLAINT not-the-same computes the same and was killed"),
        ("ERRING", (), "COMPLAINT broken: the harness raised AttributeError"),
    ],
)
def test_what_must_not_be_fails(catalogue: str, arguments: tuple[str, ...], said: str) -> None:
    done = mutants(*arguments, catalogue=catalogue)
    assert done.status == 1
    assert said in done.stdout


def test_a_port_that_fails_as_it_stands_fails_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    import stand_ins

    with stand_ins.tanh():
        done = mutants("tiny", "--rung", "f64")
    assert done.status == 1
    assert "COMPLAINT unchanged:mlp computes the same and was killed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "catalogue", "said"),
    [
        (("tanhh",), "GOOD", "no mutant is called 'tanhh'; nearest: tanh"),
        (("--component", "layer"), "GOOD", "no mutant of component 'layer'; allowed: mlp"),
        (("--rung", "f16"), "GOOD", "no score is kept at rung 'f16'; allowed: f64, f32"),
        ((), "NO_SUCH_LIST", "cannot be read"),
        ((), "TWICE", "'tanh' twice"),
        ((), "NONE_OF_THEM", "something that is no mutant"),
        (("--random", "5", "--rung", "f64"), "GOOD", "--rung means nothing with --random"),
        (("--random", "5", "layre"), "GOOD", "unknown target 'layre'"),
        (("--random", "5", "hyena_buffers"), "GOOD", "hyena_buffers cannot be edited"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: tuple[str, ...], catalogue: str, said: str) -> None:
    done = mutants(*arguments, catalogue=catalogue)
    assert done.status == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# A shell starts what it puts into the background with interrupts ignored.
HEEDED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from parity.cli import main; main()"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", HEEDED, "mutants", "--catalogue", "stand_ins:GOOD", *arguments]


def environment() -> dict[str, str]:
    return clean_environment(PYTHONPATH=os.environ["PYTHONPATH"])


def test_processes_find_the_same_in_the_same_order(quick: Path) -> None:
    documents = []
    for jobs in ("1", "2"):
        done = subprocess.run(
            [*command("--rung", "f64", "--json", "--jobs", jobs)],
            env=environment(), capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        document = json.loads(done.stdout)
        for outcome in document["outcomes"]:
            outcome["seconds"] = 0
            for finding in outcome["findings"]:
                finding["seconds"] = finding["seconds"] is not None
        documents.append(document)
    assert documents[0] == documents[1]


def test_an_interruption_leaves_nothing_half_written(quick: Path) -> None:
    running = subprocess.Popen(
        command("--jobs", "2", "--out", "here"), env=environment(), stderr=subprocess.PIPE, text=True
    )
    begun = time.monotonic()
    while not (quick / "here").exists():
        assert time.monotonic() < begun + 120
        time.sleep(0.1)
    time.sleep(2)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stderr == "parity: interrupted; no score was printed, no file was written\n"
    assert list((quick / "here").iterdir()) == []
