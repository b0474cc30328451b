"""A run in several processes: what each finds comes here as parts of a journal, from which the run is put together.

A unit of work is a component without its accuracy test, or one length class of that test: neither depends on another.
A worker runs its unit as a run in one process does, and sends every finished part. With all parts there the run
"goes on" in the order of its plan, as after an interruption, and finds nothing left to do. So the files have the same
bytes whatever the number of processes, and a journal serves any number of them.

Every process computes as one alone would: torch with one thread, everything else as the environment says, which is not
changed. So the fingerprint is that of one process.

No framework is imported here: a worker chooses who multiplies MLX's matrices before it imports MLX.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parity.blas import choose_blas
from parity.device_options import Place
from parity.errors import WorkerError
from parity.plain import plain
from parity.predictions import PredictionFile
from parity.scheduling import schedule_as_batch
from parity.workers import Emit, stream

if TYPE_CHECKING:
    from parity.cases import Case
    from parity.pairs import Pair
    from parity.results import Results
    from parity.resume import Progress
    from parity.run import Plan
    from parity.spec.precision import RungName
    from parity.spec.profile import HyperProfile

BYTES_A_WORKER: Final = 3 * 2**29
"""1.5 GiB: a worker of all components has at most about 1 GiB resident, most of it the two frameworks' and MLX's."""

CASES_A_WORKER: Final = 40
"""A process takes as long to import both frameworks as some cases take to run: fewer of them are no work for it."""

STRATA_CASES: Final = 6
"""Cases of a component that take as long as a length class of its accuracy test."""

AIDS: Final = ("--jobs", "--predictions")
"""Options, each with a value, by which a run takes less time and finds the same."""

MEMORY: Final = Path("/proc/meminfo")

_CASE: Final = "case "


@dataclass(frozen=True)
class Unit:
    """What one process does at a time.

    Args:
        component: Name of the component.
        strata: Number of the length class whose accuracy is tested; None for everything else about the component.
        finished: The parts of the component that are finished already, as (name, what it found) in JSON.
    """

    component: str
    strata: int | None = None
    finished: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Asked:
    """What a worker needs to know to make the plan of the run: the arguments of the command line, none defaulted.

    Args:
        targets, profiles, rungs, budget, seed, place, mlx_blas: As the command line says them.
        spelling: How the user chose a profile, by its name.
        predictions: Where predictions are kept, None for nowhere.
    """

    targets: tuple[str, ...]
    profiles: tuple[HyperProfile, ...]
    rungs: tuple[RungName, ...]
    budget: str
    seed: int
    place: Place
    mlx_blas: str
    spelling: tuple[tuple[str, str], ...]
    predictions: PredictionFile | None = None

    @classmethod
    def of(
        cls,
        plan: Plan,
        targets: Sequence[str],
        place: Place,
        mlx_blas: str,
        predictions: PredictionFile | None = None,
    ) -> Asked:
        """Return what was asked for where `plan` was made of it."""
        return cls(
            tuple(targets),
            tuple(plan.profiles),
            tuple(plan.rungs),
            plan.budget,
            plan.seed,
            place,
            mlx_blas,
            tuple(plan.spelling.items()),
            predictions,
        )

    def plan(self) -> Plan:
        """Return the plan; in a process that is new everything is set before it is imported."""
        schedule_as_batch()
        choose_blas(self.mlx_blas)
        import torch

        from parity.environment import warm_up
        from parity.examine import bench_maker
        from parity.heap import keep_freed_memory
        from parity.run import Plan
        from parity.suites import select
        from parity.suites.m2_bert_alternatives import explain

        torch.set_num_threads(1)
        warm_up()
        keep_freed_memory()
        gc.freeze()
        return Plan(
            self.place.put(select(list(self.targets))),
            self.profiles,
            self.rungs,
            self.budget,
            self.seed,
            spelling=dict(self.spelling),
            explain=lambda pair, *question: [] if pair.target else explain(pair, *question),
            bench=bench_maker(self.predictions),
        )


class Worker:
    """Runs units of a run; its plan is made once in a process."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    @cached_property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.asked.plan()

    def __call__(self, unit: Unit, emit: Emit) -> None:
        """Run `unit` and emit the name of every finished part with what it found, as JSON."""
        plan = self.plan
        from parity.run import execute_unit

        pair = next(pair for pair in plan.pairs if pair.name == unit.component)
        execute_unit(plan, pair, unit.strata, _Sent(dict(unit.finished), emit))


class _Sent:
    """The progress of a worker: it knows what is finished of its component, and sends the rest."""

    def __init__(self, finished: dict[str, str], emit: Emit) -> None:
        self.finished, self.emit = finished, emit

    def found(self, component: str, name: str) -> Any:  # noqa: ARG002
        """Return what a finished part found, None if it is not finished."""
        return json.loads(self.finished[name]) if name in self.finished else None

    def keep(self, component: str, name: str, data: Any) -> None:
        """Send a finished part."""
        self.emit((component, name, json.dumps(plain(data), allow_nan=False)))

    def remaining(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that does nothing: a worker writes nothing."""
        return contextlib.nullcontext()

    def discard(self) -> None:
        """Do nothing."""


class Gathered:
    """The progress of a run whose parts other processes have found; what it finds itself is kept as ever."""

    def __init__(self, kept: Progress) -> None:
        self.kept = kept
        self.parts: dict[tuple[str, str], Any] = {}

    def add(self, component: str, name: str, text: str) -> None:
        """Keep a part that a worker sent."""
        data = json.loads(text)
        self.kept.keep(component, name, data)
        self.parts[component, name] = data

    def found(self, component: str, name: str) -> Any:
        """Return what a finished part found, None if it is not finished."""
        part = self.parts.get((component, name))
        return self.kept.found(component, name) if part is None else part

    def keep(self, component: str, name: str, data: Any) -> None:
        """Keep a finished part."""
        self.kept.keep(component, name, data)

    def remaining(self) -> contextlib.AbstractContextManager[None]:
        """Return that of what is kept."""
        return self.kept.remaining()

    def discard(self) -> None:
        """Forget everything: the report is written."""
        self.kept.discard()


def execute_in(
    asked: Asked,
    jobs: int | None,
    plan: Plan,
    results: Results,
    progress: Progress,
    on_case: Callable[[str], object] = str,
    check: Callable[[], object] = bool,
) -> Results:
    """Run the plan into `results`, like `parity.run.execute`, in so many processes; cases that are named in this one.

    Args:
        asked: What other processes are told.
        jobs: Number of processes; None leaves it to `chosen_jobs`.
        plan, results, progress, on_case, check: As of `execute`.

    Raises:
        WorkerError: A process ended by itself.
        Exception: What the run of a component raised.
    """
    from parity.run import execute, plan_cases

    cases = sum(len(plan_cases(plan, pair)) for pair in plan.pairs)
    workers = 1 if plan.cases else chosen_jobs(jobs, cases, sum(1 + len(pair.strata) for pair in plan.pairs))
    if workers == 1:
        with settled():
            return execute(plan, results, on_case, check, progress)
    return execute(plan, results, str, check, run_units(asked, plan, progress, workers, on_case, check))


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Spare the collector of garbage what is there already, while the context lasts.

    A run makes and drops so many small objects that it is called all the time, and would walk through two frameworks.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run_units(
    asked: Asked,
    plan: Plan,
    progress: Progress,
    jobs: int,
    on_case: Callable[[str], object] = str,
    check: Callable[[], object] = bool,
) -> Gathered:
    """Have `jobs` processes do whatever of the plan is not in `progress`, and return a progress that has it all.

    Args:
        asked: What the workers are told.
        plan: The plan that they make of it.
        progress: What is finished; it is given every part as it comes.
        jobs: Number of processes.
        on_case: Called with its component for every finished case.
        check: Called several times a second; may raise to stop.

    Raises:
        WorkerError: A process ended by itself.
        Exception: What the run of a unit raised.
    """
    gathered = Gathered(progress)
    units = _units(plan, progress)
    try:
        with closing(stream(Worker(asked), units, jobs, check)) as found:
            for component, name, text in found:
                gathered.add(component, name, text)
                if name.startswith(_CASE):
                    on_case(component)
    except WorkerError as error:
        raise WorkerError(f"{error}; what is finished is kept, and --resume goes on with it") from None
    return gathered


def _units(plan: Plan, progress: Progress) -> list[Unit]:
    """Return the units that are not finished, what takes longest first: who comes last has little to do."""
    from parity.run import part_names, plan_cases

    found: list[tuple[int, Unit]] = []
    for pair in plan.pairs:
        names, cases = part_names(plan, pair), plan_cases(plan, pair)
        modules = _modules(pair, cases)
        finished = {name: progress.found(pair.name, name) for name in names.cases}
        kept = tuple((name, json.dumps(plain(data))) for name, data in finished.items() if data is not None)
        if any(progress.found(pair.name, name) is None for name in names.ends):
            found.append((len(cases) * modules, Unit(pair.name, None, kept)))
        for number, name in enumerate(names.strata):
            if progress.found(pair.name, name) is None:
                found.append((STRATA_CASES * modules, Unit(pair.name, number)))
    return [unit for _, unit in sorted(found, key=lambda it: -it[0])]


def _modules(pair: Pair, cases: Sequence[Case]) -> int:
    """Return how many modules the reference has, which says better than sizes how long a case takes.

    Somebody's own builder may take long, or may not be called without need: theirs count for one.
    """
    from parity.backends.reference import build_reference
    from parity.spec.profile import CANONICAL

    if pair.target or not cases:
        return 1
    return len(list(build_reference(pair, cases[0].options, CANONICAL).modules()))


def chosen_jobs(asked: int | None, cases: int, units: int) -> int:
    """Return the number of processes: what was asked for, or as many as processors, memory and work allow.

    Args:
        asked: What the user said; None leaves it to this.
        cases: Cases of the run.
        units: Its units of work.
    """
    if asked is not None:
        return min(asked, max(units, 1))
    memory = available_memory()
    by_memory = units if memory is None else memory // BYTES_A_WORKER
    return max(1, min(_processors(), by_memory, cases // CASES_A_WORKER, units))


def available_memory() -> int | None:
    """Return how many bytes new processes can have without anything being swapped out; None where nobody says."""
    try:
        lines = MEMORY.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kib[0]) * 1024 if kib else None


def _processors() -> int:
    """Return the processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def without_aids(words: Sequence[str]) -> list[str]:
    """Return the words of a command line but those of AIDS, on which nothing in a report depends."""

    def kept() -> Iterator[str]:
        following = iter(words)
        for word in following:
            if word in AIDS:
                next(following, None)
            elif not word.startswith(tuple(f"{option}=" for option in AIDS)):
                yield word

    return list(kept())
