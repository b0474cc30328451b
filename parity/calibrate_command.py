"""`parity calibrate`: how often a right port is accused, counted over many runs and computed from what they found."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from parity.calibrate import CONFIDENCE, Calibration, CalibrationRun, calibrate_seed
from parity.calibration_log import header_of, open_log
from parity.device_options import Place
from parity.plain import json_text
from parity.scheduling import schedule_as_batch
from parity.spec.profile import load_profile
from parity.suites import select
from parity.workers import work

_STRATA_SHOWN: Final = 12


@dataclass(frozen=True)
class CalibrationPlan:
    """What is calibrated.

    Args:
        targets: Names of components; all if empty.
        profiles: Profiles by name or path.
        seeds: The seed of every run.
        jobs: Processes.
        log: File of finished runs, which are not run again; None keeps none.
        place: Where both sides run.
    """

    targets: Sequence[str]
    profiles: Sequence[str]
    seeds: range
    jobs: int = 1
    log: Path | None = None
    place: Place = field(default_factory=Place)

    @property
    def components(self) -> list[str]:
        """Names of the components."""
        return [pair.name for pair in select(list(self.targets))]

    @property
    def profile_names(self) -> list[str]:
        """Names of the profiles."""
        return [load_profile(choice).name for choice in self.profiles]


def run_calibration(plan: CalibrationPlan, progress: Progress, check: Callable[[], object] = bool) -> Calibration:
    """Run the seeds that the log does not have, and return them with all that it has, in the order of seeds.

    Args:
        plan: The plan.
        progress: Shows how far it is.
        check: Called often; may raise to stop.

    Raises:
        CalibrationError: The log is no log, or that of another calibration.
        OutputError: The log cannot be written.
        WorkerError: A worker process ended by itself.
        KeyboardInterrupt: `check` raised it; its text says what is kept.
    """
    with ExitStack() as stack:
        log = None
        if plan.log is not None:
            profiles = [load_profile(choice) for choice in plan.profiles]
            log = stack.enter_context(
                open_log(plan.log, header_of(plan.place.put(select(list(plan.targets))), profiles))
            )
        runs = {run.seed: run for run in log.runs} if log else {}
        missing = [seed for seed in plan.seeds if seed not in runs]
        task = progress.add_task("runs", total=len(plan.seeds), completed=len(plan.seeds) - len(missing))
        alarms = sum(len(run.alarms) for run in runs.values())
        try:
            check()
            for found in stack.enter_context(closing(_found(plan, missing, check))):
                if log:
                    log.append(found)
                runs[found.seed] = found
                alarms += len(found.alarms)
                progress.update(task, advance=1, description=f"{alarms} false alarms")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(plan, len(runs))) from None
    return Calibration([runs[seed] for seed in sorted(runs)])


def _found(
    plan: CalibrationPlan, seeds: Sequence[int], check: Callable[[], object]
) -> Generator[CalibrationRun, None, None]:
    if plan.jobs == 1:
        yield from (_one(plan, seed, check) for seed in seeds)
    else:
        yield from work(partial(_one, plan), seeds, plan.jobs, check)


def _one(plan: CalibrationPlan, seed: int, check: Callable[[], object] = bool) -> CalibrationRun:
    """Run one seed in a process that may be new: switches and warm-up first."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    schedule_as_batch()
    import torch

    from parity.environment import warm_up

    torch.set_num_threads(1)
    warm_up()
    return calibrate_seed(
        plan.place.put(select(list(plan.targets))), [load_profile(name) for name in plan.profiles], seed, check
    )


def _kept(plan: CalibrationPlan, runs: int) -> str:
    if plan.log is None:
        return f"{runs} finished runs are lost; with --log FILE they would be kept" if runs else ""
    return f"{runs} finished runs are in {plan.log}; the same command goes on with the rest"


def exit_status(calibration: Calibration) -> int:
    """Return 1 if there was a false alarm, 3 if no stratum was tested, else 0."""
    return 1 if calibration.alarms else 0 if calibration.strata() else 3


def print_calibration(calibration: Calibration, plan: CalibrationPlan, as_json: bool) -> None:
    """Print the strata nearest to their margins, the count of false alarms, its bound and their probability."""
    if as_json:
        sys.stdout.write(json_text(_document(calibration, plan)))
        return
    out = Console(highlight=False, soft_wrap=True)
    for line in _lines(calibration, plan):
        out.print(line, markup=False)


def _document(calibration: Calibration, plan: CalibrationPlan) -> dict[str, Any]:
    strata = calibration.strata()
    return {
        "components": plan.components,
        "profiles": plan.profile_names,
        "runs": len(calibration.runs),
        "false_alarms": calibration.alarms,
        "confidence": CONFIDENCE,
        "rate_at_most": calibration.rate_bound,
        "probability_per_run_at_most": calibration.probability if strata else None,
        "strata": [asdict(summary) for summary in strata],
        "strata_never_compared": [asdict(stratum) for stratum in calibration.never_compared()],
        "components_without_strata": _untested(calibration, plan),
        "cases_compared": sum(summary.cases for summary in strata),
        "cases_examined": sum(run.cases for run in calibration.runs),
        "tensors_examined": sum(run.tensors for run in calibration.runs),
    }


def _lines(calibration: Calibration, plan: CalibrationPlan) -> Iterator[str]:
    strata, runs = calibration.strata(), calibration.runs
    for summary in sorted(strata, key=lambda summary: -summary.alarm)[:_STRATA_SHOWN]:
        where = summary.stratum
        yield (
            f"{where.component} {where.profile} {where.rung} {where.length_class}, {where.family}: "
            f"{summary.cases} cases, mean {summary.mean:+.2f} bits, spread {summary.spread:.2f}, "
            f"largest {summary.largest:+.2f}, margin {summary.margin:g}, false alarm {summary.alarm:.1e}"
        )
    yield from (f"FALSE ALARM {alarm}" for alarm in calibration.alarms)
    never, untested = calibration.never_compared(), _untested(calibration, plan)
    if never:
        yield f"{len(never)} strata never compared: no case of theirs was within range"
    if untested:
        yield f"no stratum tested of {', '.join(untested)}"
    names = ", ".join(plan.profile_names)
    yield (
        f"{len(runs)} runs, profile {names}: {len(calibration.alarms)} false alarms, in at most "
        f"{100 * calibration.rate_bound:.3g} % of runs with {100 * CONFIDENCE:g} % confidence; "
        f"{len(strata)} strata, {sum(summary.cases for summary in strata)} cases compared; "
        f"{sum(run.cases for run in runs)} examinations, {sum(run.tensors for run in runs)} tensors under the absolute "
        f"gates, profile {plan.profile_names[0]}"
    )
    if strata:
        yield (
            f"computed from the strata, profile {names}: a run has a false alarm with a probability of at most "
            f"{calibration.probability:.1e}"
        )
    else:
        yield "NOTHING COMPARED: no stratum was tested"


def _untested(calibration: Calibration, plan: CalibrationPlan) -> list[str]:
    tested = {summary.stratum.component for summary in calibration.strata()}
    return [name for name in plan.components if name not in tested]
