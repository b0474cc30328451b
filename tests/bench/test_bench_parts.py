"""The parts at tiny sizes: what is timed computes the same on both sides, and every component is there."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_pieces import clean_environment

from parity.backends.noise import predict_noise
from parity.bench import budget, harness, memory, metrics, models, stages
from parity.bench.budget import BudgetTask, budget_cells
from parity.bench.cells import Cell
from parity.bench.harness import HarnessTask
from parity.bench.models import ModelPlan, ModelTask, measure_models
from parity.bench.passes import BarePasses
from parity.bench.rounds import Patience, Timing
from parity.blas import torch_library
from parity.cases import Case
from parity.errors import ConfigError, WorkerError
from parity.suites import PAIRS
from parity.suites.m2_bert_bench import NOT_TIMED, TIMED

ROOT = Path(__file__).parents[2]
TINY = (("hidden_size", 8), ("intermediate_size", 16), ("vocab_size", 12), ("hyena_filter_order", 4))
ONCE = Patience(0.0, 1, 1)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- models -----------------------------------------------------------------------------------------------


def test_every_component_is_timed_or_left_out_with_a_reason() -> None:
    assert TIMED.keys() | NOT_TIMED.keys() == {pair.name for pair in PAIRS}
    assert not TIMED.keys() & NOT_TIMED.keys()


def test_every_component_is_timed_on_both_sides_and_in_both_passes() -> None:
    found: list[Cell] = []
    measure_models(ModelTask(tuple(TIMED), "bundled", (8,), patience=ONCE, sizes=TINY), found.extend)
    timed = {(cell.place["component"], cell.place["pass"], cell.place["side"]) for cell in found if cell.unit == "s"}
    assert timed == {(name, which, side) for name in TIMED for which in models.PASSES for side in ("mlx", "torch")}
    assert sum(cell.figure == "mlx over torch" for cell in found) == 2 * len(TIMED)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.name in TIMED], ids=lambda pair: str(pair.name))
def test_both_sides_compute_the_same_numbers(pair: Any) -> None:
    structure = TIMED[pair.name].structure(dict(TINY), 8)
    passes = BarePasses(pair, Case.make(pair.name, structure, ladder=("f64", "f32")))
    forward, gradient = passes.forward(), passes.gradient()
    ours: Any = forward["torch"]()
    theirs: Any = forward["mlx"]()
    for name, output in ours.items():
        assert apart(np.array(theirs[name]), output.numpy()) < 1e-3
    given: Any = gradient["mlx"]()
    inputs = ours_of_inputs(gradient["torch"](), given[1])
    for name, array in given[1].items():
        assert apart(np.array(array), inputs[name]) < 1e-2


def apart(actual: Any, expected: Any) -> float:
    """Return the distance over the size of what is expected; 0 where both are 0."""
    distance, size = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    return float(distance / size) if size > 0 else float(distance)


def ours_of_inputs(gradients: Any, inputs: Any) -> dict[str, Any]:
    """Return torch's gradients of the float inputs, the last of all; one that nothing depends on is 0."""
    last = gradients[len(gradients) - len(inputs) :]
    return {
        name: np.zeros(np.shape(inputs[name])) if grad is None else grad.numpy()
        for name, grad in zip(inputs, last, strict=True)
    }


CHILDREN = """
import sys
import parity.bench.plan
loaded = {"mlx.core", "torch"} & sys.modules.keys()
assert not loaded, loaded
from parity.bench.models import library_of
print(library_of(sys.argv[1]))
"""


@pytest.mark.skipif(platform.system() != "Linux" or torch_library() is None, reason="no choice of BLAS on this system")
@pytest.mark.parametrize(("blas", "is_torchs"), [("torch", True), ("bundled", False)])
def test_a_process_multiplies_by_the_library_that_was_chosen(blas: str, is_torchs: bool, tmp_path: Path) -> None:
    words = [sys.executable, "-c", CHILDREN, blas]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert ("libtorch_cpu" in done.stdout) == is_torchs, done.stdout


def test_lengths_are_powers_of_two_up_to_what_is_allowed() -> None:
    plan = ModelPlan(longest=8192)
    assert plan.lengths("layer", "torch") == (128, 256, 512, 1024, 2048, 4096, 8192)
    assert plan.lengths("layer", "bundled") == (128, 256)
    assert plan.lengths("masked_lm", "torch")[-1] == TIMED["masked_lm"].longest
    lifted = ModelPlan(all_lengths=True, longest_bundled=32768)
    assert lifted.lengths("masked_lm", "bundled")[-1] == 32768
    assert lifted.skips() == [models.Skip("models", name, reason) for name, reason in NOT_TIMED.items()]


def test_what_is_left_out_is_said_with_its_reason() -> None:
    said = {skip.what: skip.reason for skip in ModelPlan().skips()}
    assert "reference BLAS" in said["BLAS bundled beyond 256"]
    assert {f"{name} beyond {it.longest}" for name, it in TIMED.items() if it.longest < models.LONGEST} <= said.keys()
    assert all(timed.why for timed in TIMED.values() if timed.longest < models.LONGEST)


def test_a_component_that_is_not_timed_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match="allowed: blockdiag_linear"):
        ModelPlan(("nothing",))
    with pytest.raises(ConfigError, match="nothing is computed"):
        ModelPlan(("hyena_buffers",))


def test_one_process_times_one_component_with_one_library() -> None:
    tasks = list(ModelPlan(("layer", "mlp")).tasks())
    assert [(task.components, task.blas) for task in tasks] == [
        (("layer",), "torch"), (("mlp",), "torch"), (("layer",), "bundled"), (("mlp",), "bundled"),
    ]  # fmt: skip
    assert len(list(ModelPlan(("layer", "mlp"), blas=("torch",), together=True).tasks())) == 1


# --- harness ----------------------------------------------------------------------------------------------


def test_the_overhead_is_the_examination_over_the_three_passes_and_has_stages() -> None:
    cells = harness._overhead(HarnessTask(length=8, sizes=TINY, patience=ONCE))
    times = {
        (cell.place["pass"], cell.place.get("predictions")): cell.spread.median
        for cell in cells
        if cell.figure == "time"
    }
    bare = sum(times[name, None] for name in ("reference", "port", "truth"))
    for predictions in ("made", "kept"):
        found = [cell for cell in cells if cell.place.get("predictions") == predictions]
        (ratio,) = (cell.spread.median for cell in found if cell.figure == "examination")
        (overhead,) = (cell.spread.median for cell in found if cell.figure == "overhead")
        assert ratio == pytest.approx(times["examination", predictions] / bare)
        assert overhead == pytest.approx(ratio - 1)
        shares = {cell.place["stage"] for cell in found if cell.figure == "stage"}
        assert shares
        assert shares <= {*stages.STAGES.values(), "building", stages.REST}


def test_an_examination_with_predictions_kept_predicts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return predict_noise(*arguments)

    monkeypatch.setattr("parity.examine.predict_noise", counted)
    harness._overhead(HarnessTask(length=8, sizes=TINY, patience=ONCE))
    assert made == [1]


def test_cases_are_counted() -> None:
    (cell,) = harness._cases_a_second(HarnessTask(patience=ONCE, counted=("fftconv",)))
    assert cell.work == next(len(pair.corpus) for pair in PAIRS if pair.name == "fftconv")
    assert cell.rate == pytest.approx(cell.work / cell.spread.median)


def test_memory_is_measured_in_a_process_of_its_own_and_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def alone(function: Any, tasks: list[Any], jobs: int) -> Iterator[float]:
        asked.append((function, tasks[0].kind, tasks[0].size, jobs))
        yield (
            10.0
            + {"metric set": tasks[0].size * 8 / 2**20, "layer": tasks[0].size, "encoder": 3 * tasks[0].size}[
                tasks[0].kind
            ]
        )

    monkeypatch.setattr(harness, "work", alone)
    task = HarnessTask(sizes=TINY)
    *_, slopes = harness.memory_cells(task)
    assert len(asked) == len(task.elements) + len(task.lengths) + len(task.depths)
    assert {cell.place["of"]: (cell.unit, cell.spread.median) for cell in slopes} == {
        "metric set": ("B", pytest.approx(8)),
        "layer": ("B", pytest.approx(2**20 / 8)),
        "encoder": ("MiB", pytest.approx(3)),
    }


def test_what_a_call_holds_is_its_peak() -> None:
    if not memory.measurable():
        pytest.skip("no account of a peak on this system")
    added = memory.added_peak(lambda: np.ones(2**23))
    assert 60 < added < 80


def test_where_no_account_is_kept_memory_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "measurable", lambda: False)
    assert list(harness.memory_cells(HarnessTask())) == []
    assert "not Linux" in harness.memory_skips()[0].reason


def test_a_slope_needs_two_points() -> None:
    with pytest.raises(ConfigError, match="two points"):
        memory.slope({1.0: 1.0})


STACKS = {
    "rest": [("parity.bench.harness", "run"), ("numpy", "dot")],
    "noise prediction": [
        ("parity.examine", "Bench.noise"),
        ("parity.backends.noise", "f"),
        ("parity.trace.calls", "g"),
    ],
    "truth": [("parity.backends.truth", "compute_truth"), ("parity.backends.reference", "run_reference")],
    "capture and passes": [("parity.examine", "examine"), ("parity.trace.mlx_calls", "f")],
    "building": [("parity.examine", "Modules.__init__"), ("parity.cases.arrays", "draw_parameters")],
    "metrics": [("parity.verdict", "judge"), ("parity.metrics.error", "measure")],
}


@pytest.mark.parametrize("stage", STACKS)
def test_a_stack_belongs_to_the_outermost_stage(stage: str) -> None:
    assert stages.stage_of(iter(STACKS[stage])) == stage


def test_stages_name_modules_and_functions_that_are_there() -> None:
    import importlib

    from parity import examine

    for name in stages.STAGES:
        importlib.import_module(name)
    for name in stages.BUILDING:
        owner, _, method = name.partition(".")
        assert callable(getattr(getattr(examine, owner), method))


def test_time_between_samples_is_put_down_to_the_later() -> None:
    now = iter([1.0, 3.0])
    clock = stages.StageClock(clock=lambda: next(now))
    assert clock.note("truth", 0.0) == 1.0
    clock.note("metrics", 1.0)
    assert clock.seconds == {"truth": 1.0, "metrics": 2.0}


def test_a_stage_is_seen_while_it_lasts() -> None:
    """The block ends once it has been seen, however busy the machine is; after a minute the test fails."""
    module = types.ModuleType("parity.metrics.planted")
    exec("def until(seen):\n    while not seen():\n        pass", module.__dict__)
    end = time.monotonic() + 60
    with stages.StageClock(period=0.0001) as clock:
        module.until(lambda: "metrics" in clock.seconds or time.monotonic() > end)
    assert clock.seconds["metrics"] > 0


# --- metrics ----------------------------------------------------------------------------------------------


def test_ratios_shares_and_bandwidths_follow_from_the_times() -> None:
    found = {
        "copy": [Timing(1.0, 1.0)],
        "numpy": [Timing(4.0, 4.0)],
        "engine": [Timing(1.0, 2.0)],
    }
    cells = metrics.cells_of(found, 1, 10**9)
    figures = {
        (cell.figure, cell.place["clock"], cell.place.get("contender")): cell.spread.median
        for cell in cells
        if cell.figure != "time"
    }
    assert figures == {
        ("over engine", "wall", "numpy"): 4.0,
        ("over engine", "processor", "numpy"): 2.0,
        ("bandwidth", "wall", "copy"): 2.0,
        ("bandwidth", "wall", "engine"): 2.0,
        ("bandwidth", "processor", "copy"): 2.0,
        ("bandwidth", "processor", "engine"): 1.0,
        ("share", "wall", None): 1.0,
        ("share", "processor", None): 0.5,
    }


def test_no_contender_fails_on_the_tensors_that_are_compared() -> None:
    contenders = metrics.others(*metrics.pair_of(1024))
    assert {"copy", "numpy", "torch"} <= contenders.keys()
    for call in contenders.values():
        call()


def test_polygraphy_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    (skip,) = metrics.polygraphy_missing()
    assert "not installed" in skip.reason
    assert "polygraphy" not in metrics.others(*metrics.pair_of(16))


# --- budget -----------------------------------------------------------------------------------------------


def test_the_budget_takes_turns_and_gives_the_speed_up() -> None:
    asked = []

    def run(words: Any) -> tuple[float, float]:
        jobs = int(words[words.index("--jobs") + 1])
        asked.append(jobs)
        return 300.0 / jobs, 1000.0 * jobs

    *_, cells = budget_cells(BudgetTask(rounds=2), run)
    assert asked == [1, 2, 2, 1]
    figures = {(cell.figure, cell.place.get("jobs")): cell.spread.median for cell in cells}
    assert figures == {
        ("time", 1): 300.0, ("time", 2): 150.0, ("peak memory", 1): 1000.0, ("peak memory", 2): 2000.0,
        ("speed-up", None): 2.0,
    }  # fmt: skip


def test_a_run_that_does_not_pass_is_no_figure() -> None:
    with pytest.raises(WorkerError, match="ended with status 2"):
        budget.run_process(["nothing-of-this-name"])
