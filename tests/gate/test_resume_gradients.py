"""A resumed run has the gradients and special values that the interrupted one judged, and judges none of them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from small_nets import Port, pair_of, tanh_with

from parity import run as run_module
from parity.gradients import NO_GRADIENT
from parity.report import details_json, layers_csv, summary_json
from parity.results import Results
from parity.resume import NoProgress, Progress, progress_of
from parity.run import Plan, execute
from parity.spec.profile import CANONICAL

HEADER = {"seed": 0}


TANH_WRONG = tanh_with(lambda y: (1 - mx.square(y)) * (1 + 2.0**-12))


def zero_for_nan(x: mx.array) -> mx.array:
    return mx.where(mx.isnan(x), mx.zeros_like(x), x)


def run(progress: Progress) -> Results:
    """The port has another derivative, a frozen bias, and 0 for NaN."""
    found = pair_of(lambda n: Port(n, TANH_WRONG, zero_for_nan, frozen=True))
    pair = replace(found, target="nets.py::net")  # special values are asked of somebody's own pair alone
    return execute(Plan([pair], [CANONICAL], ("f64", "f32"), "quick", 0), Results(dict(HEADER)), progress=progress)


def again(folder: Path) -> Results:
    with progress_of(folder, HEADER, resume=True) as kept:
        return run(kept)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("judged again")


def interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.fixture
def whole() -> Results:
    return run(NoProgress())


def same(one: Results, other: Results) -> None:
    assert layers_csv(one) == layers_csv(other)
    assert details_json(one) == details_json(other)
    assert summary_json(one) == summary_json(other)
    assert one.rows == other.rows
    assert one.failures == other.failures
    assert one.skips == other.skips
    assert one.unpaired == other.unpaired
    assert one.bundles == other.bundles


def test_gradients_and_special_values_survive_an_interruption(
    whole: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {failure.kind for failure in whole.failures} == {"gradient", "special"}
    assert any(row.kind == "gradient" and row.verdict == "fail" for row in whole.rows)
    assert all(row.port_ulps for row in whole.rows)
    assert all(len(row.measurements) == row.cases for row in whole.rows if row.kind == "output")
    assert NO_GRADIENT in whole.unpaired["net"].values()
    with monkeypatch.context() as patch, progress_of(tmp_path, HEADER, resume=False) as begun:
        patch.setattr(run_module._PairRun, "_assess", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(begun)
    monkeypatch.setattr(run_module, "GradientRun", refuse)
    monkeypatch.setattr(run_module, "ask_pair", refuse)
    monkeypatch.setattr(run_module._PairRun, "_run_case", refuse)
    same(again(tmp_path), whole)


def test_a_run_interrupted_in_its_gradients_judges_them_all(
    whole: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, progress_of(tmp_path, HEADER, resume=False) as begun:
        patch.setattr(run_module.GradientRun, "failures", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(begun)
    monkeypatch.setattr(run_module._PairRun, "_run_case", refuse)
    same(again(tmp_path), whole)


def test_a_gradient_that_the_journal_loses_is_missed(
    whole: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_of(tmp_path, HEADER, resume=False) as kept:
        run(kept)
    pack = run_module.unpack_found
    monkeypatch.setattr(run_module, "unpack_found", lambda data: (replace(pack(data)[0], rows=[]), {}))
    with pytest.raises(AssertionError):
        same(again(tmp_path), whole)
