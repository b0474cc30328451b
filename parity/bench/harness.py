"""Part `harness`: what an examination costs over its bare passes, stage by stage; cases a second; memory.

Imported before either framework, as `parity.bench.models`.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from parity.bench.cells import Cell, Skip
from parity.bench.memory import added_peak, measurable, slope
from parity.bench.rounds import Patience, interleaved, timed
from parity.bench.stages import StageClock
from parity.blas import choose_blas
from parity.heap import keep_freed_memory
from parity.scheduling import schedule_as_batch
from parity.suites.m2_bert_bench import PUBLISHED_SIZES, TIMED
from parity.workers import Emit, work

PART: Final = "harness"
COMPONENT: Final = "layer"
STACK: Final = "encoder"
WARM_LENGTH: Final = 8
"""Positions of a first examination, which loads what there is to load."""

Kind = Literal["metric set", "layer", "encoder"]

SIZES: Final[Mapping[Kind, str]] = {"metric set": "elements", "layer": "L", "encoder": "layers"}
"""What grows, by what is measured."""


@dataclass(frozen=True)
class HarnessTask:
    """What the part measures.

    Args:
        blas: Who multiplies MLX's matrices.
        length: Positions of the layer that is examined.
        sizes: Its other sizes.
        seed: Seed of parameters and inputs.
        patience: How many rounds.
        lengths: Positions of the layers whose memory is measured.
        depths: Layers of the encoders whose memory is measured.
        elements: Elements of the tensors whose metrics' memory is measured.
        counted: Components whose fixed cases are counted a second.
    """

    blas: str = "torch"
    length: int = 2048
    sizes: tuple[tuple[str, int], ...] = tuple(PUBLISHED_SIZES.items())
    seed: int = 0
    patience: Patience = field(default=Patience(seconds=30.0, single_above=30.0))
    lengths: tuple[int, ...] = (128, 256, 512)
    depths: tuple[int, ...] = (1, 2, 4)
    elements: tuple[int, ...] = (1 << 20, 1 << 22, 1 << 24)
    counted: tuple[str, ...] = ("blockdiag_linear", "fftconv", "hyena_filter", "monarch_mixer", "mlp", "layer")

    @property
    def steps(self) -> int:
        """How many lists of cells come out."""
        return 2 + len(self.lengths) + len(self.depths) + len(self.elements) + 1


@dataclass(frozen=True)
class MemoryTask:
    """One process whose memory is measured: so many elements, positions or layers."""

    kind: Kind
    size: int
    task: HarnessTask


def measure_harness(task: HarnessTask, emit: Emit) -> None:
    """Measure time in this process, which has loaded neither framework; emit lists of cells."""
    _prepare(task.blas)
    emit(_overhead(task))
    emit(_cases_a_second(task))


def _prepare(blas: str) -> None:
    """Begin as `parity run` begins: a batch job, torch with one thread, everything warm, memory kept."""
    schedule_as_batch()
    choose_blas(blas)
    import torch

    from parity.environment import warm_up

    torch.set_num_threads(1)
    warm_up()
    keep_freed_memory()


def _case(task: HarnessTask, component: str, length: int, **more: int) -> tuple[Any, Any]:
    from parity.cases import Case
    from parity.cases.case import FINE_LADDER
    from parity.suites import select

    structure = {**TIMED[component].structure(dict(task.sizes), length), **more}
    (pair,) = select([component])
    return pair, Case.make(component, structure, seed=task.seed, ladder=FINE_LADDER)


def _overhead(task: HarnessTask) -> list[Cell]:
    """Time the three bare passes and the examination of the same case in turn, and what the latter goes into.

    The examination is made once with nothing kept, which fills a file of predictions, and then in turns with that file.
    """
    from parity.bench.passes import SINGLE, BarePasses, truth_pass
    from parity.examine import Bench, Modules, examine
    from parity.predictions import PredictionFile
    from parity.spec.profile import CANONICAL

    pair, case = _case(task, COMPONENT, task.length)
    modules = Modules(pair, case, CANONICAL)
    bare = BarePasses(pair, case, modules).forward()
    passes = {"reference": bare["torch"], "port": bare["mlx"], "truth": truth_pass(pair, case, modules)}
    split: list[dict[str, float]] = []

    with tempfile.TemporaryDirectory() as folder:
        file = PredictionFile.opened(Path(folder, "predictions.sqlite"), PART)

        def examination() -> None:
            with StageClock() as clock:
                examine(Bench(pair, case, CANONICAL, modules=modules, file=file), CANONICAL, SINGLE)
            split.append(clock.seconds)

        _compile_kernels()
        first = timed(examination)
        found = interleaved({**passes, "examination": examination}, task.patience)
    walls = {name: [timing.wall for timing in timings] for name, timings in found.items()}
    three = [sum(values) for values in zip(*(walls[name] for name in passes), strict=True)]
    at: dict[str, str | int] = {"component": COMPONENT, "L": task.length, "blas": task.blas}
    cells = [
        Cell.make(PART, "time", {**at, "pass": name}, "s", values) for name, values in walls.items() if name in passes
    ]
    return [
        *cells,
        *_overhead_cells({**at, "predictions": "made"}, [first.wall], [statistics.median(three)], split[:1]),
        *_overhead_cells({**at, "predictions": "kept"}, walls["examination"], three, split[-len(three) :]),
    ]


def _compile_kernels() -> None:
    """Have compiled what examinations of large tensors compile where nothing is kept of an earlier process."""
    import numpy as np

    from parity.bench.passes import SINGLE
    from parity.metrics import error_of
    from parity.metrics.large import LARGE

    truth = np.random.Generator(np.random.Philox(0)).standard_normal(LARGE)
    error_of(truth.astype(np.float32).astype(np.float64), truth, SINGLE)


def _overhead_cells(
    at: dict[str, str | int], examinations: list[float], three: list[float], split: list[dict[str, float]]
) -> Iterator[Cell]:
    """Yield the time of examinations, and it and its stages over the three passes beside each."""
    yield Cell.make(PART, "time", {**at, "pass": "examination"}, "s", examinations)
    ratios = [whole / bare for whole, bare in zip(examinations, three, strict=True)]
    yield Cell.make(PART, "examination", at, "x", ratios)
    yield Cell.make(PART, "overhead", at, "x", [ratio - 1 for ratio in ratios])
    for stage in sorted({stage for seconds in split for stage in seconds}):
        shares = [seconds.get(stage, 0.0) / bare for seconds, bare in zip(split, three, strict=True)]
        yield Cell.make(PART, "stage", {**at, "stage": stage}, "x", shares)


def _cases_a_second(task: HarnessTask) -> list[Cell]:
    """Examine the fixed cases of some components at float32, anew in every round."""
    from parity.bench.passes import SINGLE
    from parity.cases.draw import corpus_cases
    from parity.examine import Bench, examine
    from parity.spec.profile import CANONICAL
    from parity.suites import select

    cases = [(pair, case) for pair in select(list(task.counted)) for case in corpus_cases(pair, task.seed)]

    def run() -> None:
        for pair, case in cases:
            examine(Bench(pair, case, CANONICAL), CANONICAL, SINGLE)

    timings = interleaved({"cases": run}, task.patience)["cases"]
    at: dict[str, str | int] = {"blas": task.blas}
    return [Cell.make(PART, "fixed cases", at, "s", [t.wall for t in timings], len(cases), "cases")]


# --- memory -------------------------------------------------------------------------------------------------


def memory_cells(task: HarnessTask) -> Iterator[list[Cell]]:
    """Measure the peak of every size in a process of its own, then the slopes; nothing where it cannot be measured."""
    if not measurable():
        return
    kinds: dict[Kind, tuple[int, ...]] = {
        "metric set": task.elements,
        "layer": task.lengths,
        "encoder": task.depths,
    }
    slopes = []
    for kind, sizes in kinds.items():
        points: dict[float, float] = {}
        for size in sizes:
            (added,) = work(_added, [MemoryTask(kind, size, task)], 1)
            points[float(_pieces(task, kind, size))] = added
            yield [Cell.make(PART, "peak memory", {"of": kind, SIZES[kind]: size}, "MiB", [added])]
        if len(points) > 1:
            slopes.append(_slope_cell(kind, points))
    yield slopes


def memory_skips() -> list[Skip]:
    """Return why memory was not measured, where it was not."""
    return [] if measurable() else [Skip(PART, "peak memory", "the system is not Linux: no account of a peak")]


def _pieces(task: HarnessTask, kind: Kind, size: int) -> int:
    """Return elements of the tensor, or of the layer's input, or layers."""
    return size * dict(task.sizes)["hidden_size"] if kind == "layer" else size


def _slope_cell(kind: Kind, points: dict[float, float]) -> Cell:
    if kind == "encoder":
        return Cell.make(PART, "memory a layer", {"of": kind}, "MiB", [slope(points)])
    return Cell.make(PART, "memory an element", {"of": kind}, "B", [slope(points) * 2**20])


def _added(asked: MemoryTask) -> float:
    """Return MiB that one measurement adds to this process at its peak, after a small one that loads everything."""
    _prepare(asked.task.blas)
    if asked.kind == "metric set":
        return _added_by_metrics(asked.size)
    from parity.bench.passes import SINGLE
    from parity.examine import Bench, examine
    from parity.spec.profile import CANONICAL

    component, length = (COMPONENT, asked.size) if asked.kind == "layer" else (STACK, min(asked.task.lengths))
    layers = {} if asked.kind == "layer" else {"num_hidden_layers": asked.size}

    def run(positions: int) -> None:
        pair, case = _case(asked.task, component, positions, **layers)
        examine(Bench(pair, case, CANONICAL), CANONICAL, SINGLE)

    run(WARM_LENGTH)
    return added_peak(lambda: run(length))


def _added_by_metrics(elements: int) -> float:
    from parity.bench.metrics import WARM, pair_of
    from parity.metrics.engine import measure_pair

    actual, truth = pair_of(elements)
    measure_pair(actual[:WARM], truth[:WARM])
    return added_peak(lambda: measure_pair(actual, truth))
