"""The table of the slowest: its contenders answer alike, and it is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import slowest
from slowest import LAYER, Operation, Row, main, measured, operations, ratio, table

WIDTH, LENGTH = 8, 16
NOT_ALIKE = {"its gradient", "four filters", "four filters, held", LAYER, "and gradient"}
"""Several arrays, or models whose parameters are drawn by either framework."""


def numbers(answer: Any) -> Any:
    return answer.numpy() if isinstance(answer, torch.Tensor) else np.array(answer)


def rows_of(name: str) -> Operation:
    return next(operation for operation in operations(WIDTH, LENGTH) if operation.name == name)


NAMES = [operation.name for operation in operations(WIDTH, LENGTH)]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_ALIKE])
def test_every_contender_computes_the_same(name: str) -> None:
    answers = {who: numbers(call()) for who, call in rows_of(name).calls.items()}
    expected = answers["MLX"]
    for answer in answers.values():
        actual = answer.swapaxes(1, 2) if name == "short convolution" and answer.shape != expected.shape else answer
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["its gradient", "four filters, held"])
def test_what_was_mended_computes_what_it_did(name: str) -> None:
    calls = rows_of(name).calls
    after, before = (mx.array([mx.sum(x) for x in flat(calls[who]())]) for who in ("MLX", "before"))
    assert mx.isfinite(after).all()
    if name == "its gradient":
        assert mx.array_equal(after, before)


def flat(answer: Any) -> list[mx.array]:
    return [answer] if isinstance(answer, mx.array) else [x for part in answer for x in flat(part)]


def test_names_are_told_apart_and_every_row_has_both_frameworks() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all({"MLX", "torch"} <= set(operation.calls) for operation in operations(WIDTH, LENGTH))


def test_the_first_round_is_not_counted_and_each_contender_runs_in_every_one() -> None:
    seen: list[str] = []
    calls = {who: lambda who=who: seen.append(who) for who in ("MLX", "torch", "before")}
    row = measured(Operation("it", (1,), 1, calls), 3)
    assert [sorted(seen[place : place + 3]) for place in range(0, 12, 3)] == [["MLX", "before", "torch"]] * 4
    assert set(row.milliseconds) == set(calls)
    assert row.mended is not None


def test_a_ratio_is_of_neighbours() -> None:
    assert ratio([2.0, 40.0, 6.0], [1.0, 20.0, 3.0]) == (2.0, 2.0, 2.0)
    assert ratio([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == (1.0, 1.0, 1.0)


def test_shares_are_of_the_layer() -> None:
    one = Row("it", (2, 3), 4, {"MLX": 5.0, "torch": 1.0}, (4.0, 5.0, 6.0), None)
    layer = Row(LAYER, (2, 3), 0, {"MLX": 80.0, "torch": 1.0}, (79.0, 80.0, 81.0), None)
    text = table([one, layer], {"machine": "m"})
    assert "| it | 2x3 | 4 | 5.00 | 1.00 |  | 25.0% | 5.00 (4.00 to 6.00) |  |" in text
    assert "25.0%" not in table([one], {})


def test_the_command_prints_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slowest, "choose_blas", lambda choice: None)
    threads = torch.get_num_threads()
    try:
        given = ["--width", "8", "--length", "16", "--repeats", "3", "--only", "spectra", "--json"]
        assert main(given) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["rows"]] == ["product of spectra"]
    assert found["facts"]["BLAS of MLX"] == "torch"


def test_too_few_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--repeats", "2"])
    assert "at least 3" in capsys.readouterr().err
