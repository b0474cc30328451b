"""The parts that are asked for, each run in processes of its own, so that none sees the memory of another."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from parity.bench.budget import JOBS, BudgetTask, budget_cells
from parity.bench.cells import Cell, Skip
from parity.bench.harness import HarnessTask, measure_harness, memory_cells, memory_skips
from parity.bench.machine import describe_machine, load_now
from parity.bench.metrics import MetricsTask, measure_metrics, polygraphy_missing
from parity.bench.models import ModelPlan, groups, library_of, measure_models
from parity.bench.report import Report, Run
from parity.bench.rounds import Patience
from parity.errors import ConfigError
from parity.suites.m2_bert_bench import PUBLISHED_SIZES
from parity.workers import stream, work

PARTS: Final = ("models", "harness", "metrics", "budget")
QUICK_PATIENCE: Final = Patience(seconds=0.3, least=3, most=5, single_above=5.0)
QUICK_LONGEST: Final = 256
QUICK_WORDS: Final = 1024
"""Words of a quick run's vocabulary: most of the time of 30,528 goes into drawing them."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Args:
        parts: Of `PARTS`.
        components: Of part models: these alone.
        blas: Who multiplies MLX's matrices in part models; the first of them in part harness.
        longest, longest_bundled: Positions at most in part models; None for the default.
        all_lengths: Whether a component's own limit is lifted.
        quick: Small sizes and few rounds.
        threads: Threads of either framework in part models.
        seed: Seed of everything drawn.
    """

    parts: tuple[str, ...] = PARTS[:3]
    components: tuple[str, ...] = ()
    blas: tuple[str, ...] = ("torch", "bundled")
    longest: int | None = None
    longest_bundled: int | None = None
    all_lengths: bool = False
    quick: bool = False
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"no part is called {(*unknown, '')[0]!r}; allowed: {', '.join(PARTS)}")

    def choices(self) -> tuple[str, ...]:
        """Return the choices of MLX's BLAS that the parts make."""
        return self.models().blas if "models" in self.parts else self.blas[:1] * ("harness" in self.parts)

    def models(self) -> ModelPlan:
        """Return what part models times."""
        plan = ModelPlan(self.components, self.blas, seed=self.seed, threads=self.threads)
        if self.quick:
            sizes = tuple({**PUBLISHED_SIZES, "vocab_size": QUICK_WORDS}.items())
            plan = replace(
                plan, blas=self.blas[:1], longest=QUICK_LONGEST, patience=QUICK_PATIENCE, together=True, sizes=sizes
            )
        elif platform.system() != "Linux":
            # There MLX has no slow library of its own: it multiplies by Accelerate.
            plan = replace(plan, longest_bundled=plan.longest)
        given = {"longest": self.longest, "longest_bundled": self.longest_bundled}
        changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(plan, all_lengths=self.all_lengths, **changed)

    def harness(self) -> HarnessTask:
        """Return what part harness measures."""
        task = HarnessTask(self.blas[0], seed=self.seed)
        if not self.quick:
            return task
        return replace(
            task,
            length=128,
            patience=replace(QUICK_PATIENCE, single_above=30.0),
            lengths=(32, 64),
            depths=(1, 2),
            elements=(),
            counted=("fftconv", "mlp"),
        )

    def metrics(self) -> MetricsTask:
        """Return what part metrics measures."""
        task = MetricsTask(seed=self.seed)
        return replace(task, elements=1 << 20, patience=QUICK_PATIENCE) if self.quick else task

    def budget(self) -> BudgetTask:
        """Return what part budget runs."""
        words = ("fftconv", "--profile", "canonical", "--budget", "quick")
        return BudgetTask(words, self.seed) if self.quick else BudgetTask(seed=self.seed)

    def steps(self) -> int:
        """Return how many lists of cells `measured` yields."""
        counted = {
            "models": groups(self.models()),
            "harness": self.harness().steps,
            "metrics": 1,
            "budget": len(JOBS) * self.budget().rounds + 1,
        }
        return sum(counted[part] for part in self.parts)


def measured(settings: Settings) -> Iterator[list[Cell]]:
    """Measure part after part; yield cells as they come."""
    for part in settings.parts:
        yield from _PARTS[part](settings)


def _models(settings: Settings) -> Iterator[list[Cell]]:
    for task in settings.models().tasks():
        yield from _alone(measure_models, task)


def _harness(settings: Settings) -> Iterator[list[Cell]]:
    yield from _alone(measure_harness, settings.harness())
    yield from memory_cells(settings.harness())


def _metrics(settings: Settings) -> Iterator[list[Cell]]:
    yield from _alone(measure_metrics, settings.metrics())


def _budget(settings: Settings) -> Iterator[list[Cell]]:
    yield from budget_cells(settings.budget())


_PARTS: Final[dict[str, Callable[[Settings], Iterator[list[Cell]]]]] = {
    "models": _models,
    "harness": _harness,
    "metrics": _metrics,
    "budget": _budget,
}


def _alone(function: Callable[[Any, Any], object], task: object) -> Iterator[list[Cell]]:
    """Yield what `function` emits in a new process."""
    with closing(stream(function, [task], 1)) as found:
        yield from found


def skips(settings: Settings) -> tuple[Skip, ...]:
    """Return what is left out, with the reasons."""
    found: list[Skip] = []
    if "models" in settings.parts:
        found += settings.models().skips()
    if "harness" in settings.parts:
        found += memory_skips()
    if "metrics" in settings.parts:
        found += polygraphy_missing()
    return tuple(found)


def measure(settings: Settings, command: str, commit: str, on_step: Callable[[list[Cell]], object]) -> Report:
    """Measure everything that is asked for.

    Args:
        settings: What.
        command: What was typed, and `commit` where: for the report.
        on_step: Called with every list of cells as it comes.
    """
    started, load, start = datetime.now(UTC), load_now(), time.monotonic()
    cells: list[Cell] = []
    for found in measured(settings):
        cells += found
        on_step(found)
    run = Run(
        settings.parts,
        command,
        commit,
        settings.seed,
        settings.threads,
        started.isoformat(timespec="seconds"),
        round(time.monotonic() - start, 1),
        load,
        load_now(),
        settings.quick,
        _patience(settings.models().patience),
        tuple((blas, library) for blas in settings.choices() for library in work(library_of, [blas], 1)),
    )
    return Report(describe_machine(), (run,), tuple(cells), skips(settings))


def _patience(patience: Patience) -> str:
    return (
        f"part models: {patience.seconds:g} s for the rounds of a pair, {patience.least} to {patience.most} rounds, "
        f"one alone and unwarmed where a call takes more than {patience.single_above:g} s"
    )
