"""No false pass of `parity run`: special values, a port that remembers, training, the ends of a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness_pieces import invoke

FILE = Path(__file__).with_name("strangers.py")


def run(name: str, tmp_path: Path, rung: str = "f64") -> tuple[int, str]:
    words = ("run", f"{FILE}::{name}", "--rung", rung, "--budget", "quick", "--seed", "0", "--out", str(tmp_path))
    done = invoke(*words)
    return done.status, done.stdout


@pytest.mark.parametrize("name", ["right", "right_in_training"])
def test_a_right_port_passes(name: str, tmp_path: Path) -> None:
    status, said = run(name, tmp_path)
    assert status == 0, said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nan_made_zero", "first bad tensor y: NaN in x["),
        ("infinity_cut", "first bad tensor y: inf in x["),
        ("nan_raises", "the port raised ValueError: NaN"),
        ("first_input_kept", "first bad tensor y: rms error"),
        ("first_call_other", "first bad tensor y: rms error"),
        ("training_scaled", "first bad tensor y: rms error"),
        ("last_row_cut", "first bad tensor e: "),
        ("first_row_cut", "first bad tensor e: "),
    ],
)
def test_a_wrong_port_fails(name: str, said: str, tmp_path: Path) -> None:
    status, printed = run(name, tmp_path)
    assert status == 1, printed
    assert said in printed


def test_special_values_that_need_not_agree_are_said_to_be_skipped(tmp_path: Path) -> None:
    status, said = run("excused", tmp_path)
    assert status == 0
    assert "NaN and infinities are not asked for: the port's users have no NaN" in said


def test_special_values_are_asked_for_at_f64_alone(tmp_path: Path) -> None:
    assert run("nan_made_zero", tmp_path, rung="f32")[0] == 0


def test_the_command_that_a_failure_prints_shows_it_again(tmp_path: Path) -> None:
    _, said = run("nan_made_zero", tmp_path)
    again = next(line for line in said.splitlines() if "again: parity " in line).split("again: parity ")[1].split()
    done = invoke(*again)
    assert done.status == 1
    assert "values planted: 2 come out elsewhere in the port" in done.stdout
    answers = json.loads(invoke(*again, "--json").stdout)
    assert {answer["what"] for answer in answers if answer["differs"]} == {"NaN"}
    assert invoke("extremes", f"{FILE}::right").status == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("last_row_cut",), 3, "0 values planted"),
        (("right", "--rung", "f7"), 2, "f7"),
        (("nobody",), 2, "nobody"),
    ],
)
def test_what_cannot_be_asked_is_no_pass(words: tuple[str, ...], status: int, said: str) -> None:
    name, *more = words
    done = invoke("extremes", f"{FILE}::{name}", *more)
    assert done.status == status
    assert said in done.stdout + done.stderr


def test_components_are_asked_too() -> None:
    done = invoke("extremes", "mlp", "pooler", "--profile", "canonical")
    assert done.status == 0
    assert "0 come out elsewhere" in done.stdout
