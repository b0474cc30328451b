"""Part `models`: every component, MLX beside torch, forward and gradient, over lengths, a process a component and BLAS.

Imported before either framework: a process chooses who multiplies MLX's matrices, and how many threads there are.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from parity.bench.cells import Cell, Skip, ratio_cell
from parity.bench.rounds import Contenders, Patience, interleaved
from parity.blas import choose_blas
from parity.errors import ConfigError
from parity.heap import keep_freed_memory
from parity.suites.m2_bert_bench import NOT_TIMED, PUBLISHED_SIZES, TIMED, Sizes
from parity.workers import Emit

PART: Final = "models"
SHORTEST: Final = 128
LONGEST: Final = 32768
PASSES: Final = ("forward", "gradient")


@dataclass(frozen=True)
class ModelTask:
    """What one process times.

    Args:
        components: Names of `TIMED`.
        blas: Who multiplies MLX's matrices: `torch` or `bundled`.
        lengths: Positions.
        seed: Seed of parameters and inputs.
        threads: Threads of either framework.
        patience: How many rounds.
        sizes: What does not depend on the length.
    """

    components: tuple[str, ...]
    blas: str
    lengths: tuple[int, ...]
    seed: int = 0
    threads: int = 1
    patience: Patience = field(default=Patience())
    sizes: tuple[tuple[str, int], ...] = tuple(PUBLISHED_SIZES.items())


@dataclass(frozen=True)
class ModelPlan:
    """What the part times.

    Args:
        components: Components; all that can be timed if none is named.
        blas: Choices of MLX's matrix products.
        longest: Positions at most.
        longest_bundled: Positions at most where MLX multiplies by the library of its wheel.
        all_lengths: Whether a component's own limit is lifted.
        seed, threads, patience, sizes: As of `ModelTask`.
        together: Whether one process times all components of a BLAS, which saves starting some.
    """

    components: tuple[str, ...] = ()
    blas: tuple[str, ...] = ("torch", "bundled")
    longest: int = LONGEST
    longest_bundled: int = 256
    all_lengths: bool = False
    seed: int = 0
    threads: int = 1
    patience: Patience = field(default=Patience())
    sizes: tuple[tuple[str, int], ...] = tuple(PUBLISHED_SIZES.items())
    together: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.components if name not in TIMED]
        if unknown:
            reason = "".join(f"; {name}: {NOT_TIMED[name]}" for name in unknown if name in NOT_TIMED)
            raise ConfigError(f"no component {unknown[0]!r} is timed; allowed: {', '.join(TIMED)}{reason}")
        if min(self.longest, self.longest_bundled) < SHORTEST:
            raise ConfigError(f"lengths begin at {SHORTEST}; --longest and --longest-bundled must not be less")

    def lengths(self, component: str, blas: str) -> tuple[int, ...]:
        """Return the powers of two from 128 to what the plan allows."""
        most = min(self.longest, self.longest_bundled) if blas == "bundled" else self.longest
        if not self.all_lengths:
            most = min(most, TIMED[component].longest)
        return tuple(length for length in _powers() if length <= most)

    def tasks(self) -> Iterator[ModelTask]:
        """Yield what each process times, one BLAS after the other."""
        for blas in self.blas:
            grouped: dict[tuple[int, ...], list[str]] = {}
            for name in self.components or TIMED:
                grouped.setdefault(self.lengths(name, blas), []).append(name)
            for lengths, names in grouped.items():
                for together in [names] if self.together else [[name] for name in names]:
                    yield ModelTask(tuple(together), blas, lengths, self.seed, self.threads, self.patience, self.sizes)

    def skips(self) -> list[Skip]:
        """Return what the plan leaves out, each with the reason."""
        named = self.components or tuple(TIMED)
        found = [Skip(PART, name, reason) for name, reason in NOT_TIMED.items() if not self.components]
        for name in named:
            timed = TIMED[name]
            if timed.longest < self.longest and not self.all_lengths:
                found.append(Skip(PART, f"{name} beyond {timed.longest}", f"{timed.why}; --all-lengths times it"))
        if "bundled" in self.blas and self.longest_bundled < self.longest:
            reason = "the reference BLAS of MLX's wheel makes a few GFLOP/s: --longest-bundled times more"
            found.append(Skip(PART, f"BLAS bundled beyond {self.longest_bundled}", reason))
        return found


def _powers() -> Iterator[int]:
    length = SHORTEST
    while length <= LONGEST:
        yield length
        length *= 2


def groups(plan: ModelPlan) -> int:
    """Return how many groups of contenders the plan times."""
    return sum(len(task.components) * len(task.lengths) * len(PASSES) for task in plan.tasks())


def library_of(blas: str) -> str:
    """Return the library whose bits MLX's products have by this choice, in a process that has loaded neither framework.

    Frameworks are loaded in the order in which the parts load them.
    """
    choose_blas(blas)
    import torch  # noqa: F401 - its library must be there before MLX binds a name

    from parity.environment.product import blas_in_effect

    return blas_in_effect()


def measure_models(task: ModelTask, emit: Emit) -> None:
    """Time the components of a task in this process, which has loaded neither framework; emit lists of cells."""
    # Read by OpenMP and MKL when they are loaded.
    os.environ["OMP_NUM_THREADS"] = str(task.threads)
    choose_blas(task.blas)
    import torch

    from parity.environment import warm_up
    from parity.suites import select

    torch.set_num_threads(task.threads)
    warm_up()
    keep_freed_memory()
    for pair in select(list(task.components)):
        for length in task.lengths:
            for cells in _measured(task, pair, length):
                emit(cells)


def _measured(task: ModelTask, pair: object, length: int) -> Iterator[list[Cell]]:
    import mlx.core as mx

    from parity.bench.passes import BarePasses
    from parity.cases import Case
    from parity.cases.case import FINE_LADDER
    from parity.pairs import Pair

    assert isinstance(pair, Pair)
    sizes: Sizes = dict(task.sizes)
    structure = TIMED[pair.name].structure(sizes, length)
    passes = BarePasses(pair, Case.make(pair.name, structure, seed=task.seed, ladder=FINE_LADDER))
    for which in PASSES:
        contenders = passes.forward() if which == "forward" else passes.gradient()
        yield timed_cells({"component": pair.name, "pass": which, "L": length, "blas": task.blas}, contenders, task)
        mx.clear_cache()
    del passes, contenders
    gc.collect()


def timed_cells(at: dict[str, str | int], contenders: Contenders, task: ModelTask) -> list[Cell]:
    """Time both sides and return the cells of each, and of their ratio."""
    found = interleaved(contenders, task.patience)
    walls = {side: [timing.wall for timing in timings] for side, timings in found.items()}
    cells = [
        Cell.make(PART, "time", {**at, "side": side}, "s", values, float(at["L"]), "tokens")
        for side, values in walls.items()
    ]
    return [*cells, ratio_cell(PART, "mlx over torch", at, walls["mlx"], walls["torch"])]
