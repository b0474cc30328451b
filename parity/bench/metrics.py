"""Part `metrics`: the metric set of a pair of tensors beside what others compute of it, in the same rounds.

Imported before torch: a process says how many threads there are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from parity.bench.cells import Cell, Skip, ratio_cell
from parity.bench.memory import added_peak, measurable
from parity.bench.rounds import Patience, Timing, interleaved
from parity.workers import Emit

PART: Final = "metrics"
LOOSE: Final = 1e-3
"""So that no contender fails, which would take it longer."""

WARM: Final = 1 << 18
"""Elements of a first call: as many as load the compiler."""

ENGINE: Final = "engine"
COPY: Final = "copy"
CLOCKS: Final = ("wall", "processor")


@dataclass(frozen=True)
class MetricsTask:
    """What the part measures: tensors of `elements` float32, `patience` rounds, drawn from `seed`."""

    elements: int = 1 << 24
    seed: int = 0
    patience: Patience = field(default=Patience(seconds=60.0, least=5, most=9, single_above=60.0))


def pair_of(elements: int, seed: int = 0) -> tuple[Any, Any]:
    """Return float32 numbers a few steps from a truth of order one, and the truth."""
    drawn = np.random.Generator(np.random.Philox(seed))
    truth = drawn.standard_normal(elements, dtype=np.float32)
    return truth * (1 + np.float32(2.0**-23) * drawn.standard_normal(elements, dtype=np.float32)), truth


def polygraphy_missing() -> list[Skip]:
    """Return why Polygraphy is left out, where it is."""
    if importlib.util.find_spec("polygraphy"):
        return []
    return [Skip(PART, "polygraphy", "not installed: pip install 'mlx-parity[bench]'")]


def measure_metrics(task: MetricsTask, emit: Emit) -> None:
    """Time the contenders in this process; emit one list of cells."""
    from parity.metrics.engine import measure_pair

    actual, truth = pair_of(task.elements, task.seed)
    small = min(WARM, task.elements)
    measure_pair(actual[:small], truth[:small])
    cells = []
    if measurable():
        added = added_peak(lambda: measure_pair(actual, truth))
        cells.append(Cell.make(PART, "extra memory", {"elements": task.elements}, "MiB", [added]))
    contenders = {**others(actual, truth), ENGINE: lambda: measure_pair(actual, truth)}
    emit([*cells, *cells_of(interleaved(contenders, task.patience), task.elements, actual.nbytes)])


def others(actual: Any, truth: Any) -> dict[str, Callable[[], object]]:
    """Return what the metric set is compared with: a copy, for the bandwidth, and three comparisons of others.

    The copy has as many threads as the metric set, a slice each. Tolerances are loose where there are any, so that none
    fails; all else is their default.
    """
    import torch

    into, left, right = np.empty_like(actual), torch.from_numpy(actual), torch.from_numpy(truth)
    found: dict[str, Callable[[], object]] = {
        COPY: _copy(into, actual),
        "numpy": lambda: np.testing.assert_allclose(actual, truth, rtol=LOOSE, atol=LOOSE),
        "torch": lambda: torch.testing.assert_close(left, right, rtol=LOOSE, atol=LOOSE),
    }
    if not polygraphy_missing():
        found["polygraphy"] = _polygraphy(actual, truth)
    return found


def _copy(into: Any, values: Any) -> Callable[[], object]:
    from parity.metrics.engine.engine import default_threads

    count = default_threads()
    edges = [values.size * at // count for at in range(count + 1)]
    slices = [slice(*ends) for ends in itertools.pairwise(edges)]
    pool = ThreadPoolExecutor(count)
    return lambda: list(pool.map(lambda part: np.copyto(into[part], values[part]), slices))


def _polygraphy(actual: Any, truth: Any) -> Callable[[], object]:
    from polygraphy.comparator import Comparator, IterationResult, RunResults

    results = RunResults()
    for name, values in (("actual", actual), ("truth", truth)):
        results.append((name, [IterationResult({"y": values}, runner_name=name)]))

    def compare() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            Comparator.compare_accuracy(results)

    return compare


def cells_of(found: Mapping[str, Sequence[Timing]], elements: int, nbytes: int) -> list[Cell]:
    """Return times, ratios, bandwidths and the share, by either clock.

    A copy moves `nbytes` twice, read and written; the metric set reads two tensors of `nbytes` once.
    """
    cells = []
    for clock in CLOCKS:
        seconds = {name: [float(getattr(timing, clock)) for timing in timings] for name, timings in found.items()}
        at: dict[str, str | int] = {"clock": clock, "elements": elements}
        engine = seconds[ENGINE]
        for name, values in seconds.items():
            place = {**at, "contender": name}
            cells.append(Cell.make(PART, "time", place, "s", values, 2 * nbytes, "bytes"))
            if name not in (ENGINE, COPY):
                cells.append(ratio_cell(PART, "over engine", place, values, engine))
        for name in (COPY, ENGINE):
            speeds = [2 * nbytes / value / 1e9 for value in seconds[name]]
            cells.append(Cell.make(PART, "bandwidth", {**at, "contender": name}, "GB/s", speeds))
        cells.append(ratio_cell(PART, "share", at, seconds[COPY], engine))
    return cells
