"""The history: what is appended comes back, an onset is found where it is and nowhere else, a broken store is said."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_pieces import accepted_place, results, write
from harness_pieces import invoke

from parity.errors import OutputError
from parity.gate.runs import read_run
from parity.history import append_runs, onsets
from parity.tolerance import constant

DATE = datetime.date(2026, 3, 1)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])


def filled(tmp_path: Path, drifts: list[float], names: str = "conv") -> Path:
    """A history of one run a commit, whose error is larger by these bits."""
    store = tmp_path / "history.sqlite"
    for index, drift in enumerate(drifts):
        run = read_run(write(tmp_path / f"run{index}", results(10 + index, drift)))
        append_runs(store, [run], f"commit{index}", DATE + datetime.timedelta(days=index), f"reason {index}")
    assert names
    return store


def shown(store: Path, *more: str) -> Any:
    outcome = invoke("history", "conv", "--history", str(store), "--rung", "f32", "--json", *more)
    assert outcome.status == 0, outcome.stderr
    (course,) = json.loads(outcome.stdout)
    return course["points"]


def test_an_onset_is_found_at_its_commit(tmp_path: Path) -> None:
    points = shown(filled(tmp_path, [0.0] * 6 + [0.5] * 4))
    assert [point["revision"] for point in points if point["onset"]] == ["commit6"]
    assert points[6]["mean"] - points[5]["mean"] == pytest.approx(0.5, abs=0.25)


def test_a_steady_history_has_no_onset(tmp_path: Path) -> None:
    assert not any(point["onset"] for point in shown(filled(tmp_path, [0.0] * 8)))


def test_onsets_are_as_rare_as_stated_where_nothing_changes() -> None:
    rng = np.random.Generator(np.random.Philox(3))
    found = sum(bool(onsets(list(rng.standard_normal(20)), [1.0] * 20)) for _ in range(300))
    # At a rate of `history_alarm`, more than four in 300 have a probability of 2e-5.
    assert found <= 4
    assert constant("history_alarm") == 1e-3


def test_a_table_and_a_plot_that_needs_no_network(tmp_path: Path) -> None:
    store, page = filled(tmp_path, [0.0, 0.0, 0.0, 0.6]), tmp_path / "plot.html"
    outcome = invoke("history", "conv", "--history", str(store), "--plot", str(page))
    assert outcome.status == 0
    assert [word for word in ("commit3", "ONSET", "reason 3") if word not in outcome.stdout] == []
    text = page.read_text(encoding="utf-8")
    assert "<script src=" not in text
    assert "commit3" in text


def test_accepted_runs_are_in_the_history(tmp_path: Path) -> None:
    place = accepted_place(tmp_path)
    outcome = invoke("history", "norm", "--history", str(place.history), "--json")
    (course,) = json.loads(outcome.stdout)
    assert [point["runs"] for point in course["points"]] == [4]


BROKEN: dict[str, tuple[Any, str]] = {
    "no file": (lambda path: path.unlink(), "does not exist"),
    "no database": (lambda path: path.write_text("no database at all, but a text of some length"), "is no history"),
    "another database": (
        lambda path: path.unlink() or sqlite3.connect(path).execute("CREATE TABLE other (x)"),
        "is no history",
    ),
    "a newer schema": (lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 99"), "newer schema"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_store_is_one_line(name: str, tmp_path: Path) -> None:
    store = filled(tmp_path, [0.0, 0.0])
    breaks, word = BROKEN[name]
    breaks(store)
    outcome = invoke("history", "conv", "--history", str(store))
    assert outcome.status == 2
    assert word in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_an_unknown_component_is_answered_with_those_that_are_known(tmp_path: Path) -> None:
    outcome = invoke("history", "conf", "--history", str(filled(tmp_path, [0.0])))
    assert outcome.status == 2
    assert "conv, norm" in outcome.stderr


def test_a_run_that_is_accepted_again_counts_once(tmp_path: Path) -> None:
    store = tmp_path / "history.sqlite"
    runs = [read_run(write(tmp_path / f"run{seed}", results(seed))) for seed in (1, 2)]
    append_runs(store, runs, "commit0", DATE, "first")
    before = shown(store)
    for _ in range(3):
        append_runs(store, runs, "commit0", DATE, "first")
    assert shown(store) == before
    (point,) = before
    assert point["runs"] == 2
    # Of the same seed and code, and found something else: a partial run, or one of other code of one's own.
    append_runs(store, [read_run(write(tmp_path / "other", results(1, 0.5)))], "commit0", DATE, "first")
    (point,) = shown(store)
    assert point["runs"] == 3


def test_an_acceptance_that_was_cut_short_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = accepted_place(tmp_path)
    runs = [place.root / f"accepted{seed}" for seed in (0, 1, 2, 3)]
    before = invoke("history", "norm", "--history", str(place.history), "--json").stdout
    with monkeypatch.context() as patch:
        patch.setattr("parity.gate.baseline.write_baseline", refuse)
        assert place.accept(*runs).status == 2
    assert place.accept(*runs).status == 0
    assert invoke("history", "norm", "--history", str(place.history), "--json").stdout == before


def refuse(*_: Any) -> None:
    raise OutputError("no room")


@pytest.mark.parametrize("revision", ["abc+", ""])
def test_states_that_no_commit_names_are_points_of_their_own(revision: str, tmp_path: Path) -> None:
    store = tmp_path / "history.sqlite"
    run = read_run(write(tmp_path / "run", results(1)))
    changes: list[dict[str, Any]] = [{}, {"seed": 2}, {"code": "other"}, {"own": {"mine.py::mine": "0"}, "seed": 3}]
    for change in changes:
        append_runs(store, [dataclasses.replace(run, **change)], revision, DATE, "more")
    points = shown(store)
    assert [point["runs"] for point in points] == [2, 1, 1]
    assert len({point["revision"] for point in points}) == 3
    assert all(point["revision"].startswith(revision or "unknown+") for point in points)
    for seed, code in ((5, "one"), (6, "two")):
        append_runs(store, [dataclasses.replace(run, seed=seed, code=code)], "abc", DATE, "clean")
    assert [point["runs"] for point in shown(store) if point["revision"] == "abc"] == [2]


def test_an_append_that_is_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, [0.0])
    before = shown(store)
    runs = [read_run(write(tmp_path / f"more{seed}", results(seed))) for seed in (50, 51)]
    monkeypatch.setattr("parity.history._text", cut_short)
    with pytest.raises(KeyboardInterrupt):
        append_runs(store, runs, "cut", DATE, "short")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert shown(store) == before


def cut_short(bits: Any) -> str:
    raise KeyboardInterrupt
