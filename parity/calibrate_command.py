"""`parity calibrate`: how often a right port is accused, counted over many runs and computed from what they found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

from rich.console import Console
from rich.progress import Progress

from parity.calibrate import Calibration, CalibrationRun, calibrate_seed
from parity.spec.profile import load_profile
from parity.suites import select


def run_calibration(
    targets: Sequence[str], profiles: Sequence[str], first_seed: int, runs: int, jobs: int, progress: Progress
) -> Calibration:
    """Run `runs` seeds from `first_seed` on in `jobs` processes, and gather them in the order of their seeds."""
    calibration = Calibration()
    task = progress.add_task("runs", total=runs)
    for found in _found(targets, profiles, range(first_seed, first_seed + runs), jobs):
        calibration.runs.append(found)
        alarms = len(calibration.alarms)
        progress.update(task, advance=1, description=f"{alarms} false alarms")
    return calibration


def _found(
    targets: Sequence[str], profiles: Sequence[str], seeds: Sequence[int], jobs: int
) -> Iterator[CalibrationRun]:
    if jobs == 1:
        yield from (_one(targets, profiles, seed) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        count = len(seeds)
        yield from pool.map(_one, [targets] * count, [profiles] * count, seeds)


def _one(targets: Sequence[str], profiles: Sequence[str], seed: int) -> CalibrationRun:
    """Run one seed in a process that may be new: switches and warm-up first."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    import torch

    from parity.environment import warm_up

    torch.set_num_threads(1)
    warm_up()
    return calibrate_seed(select(list(targets)), [load_profile(name) for name in profiles], seed)


def print_calibration(calibration: Calibration, as_json: bool) -> None:
    """Print the strata nearest to their margins, the count of false alarms and their probability."""
    strata = calibration.strata()
    cases = sum(summary.cases for summary in strata)
    examined = sum(run.cases for run in calibration.runs)
    tensors = sum(run.tensors for run in calibration.runs)
    if as_json:
        document = {
            "runs": len(calibration.runs),
            "false_alarms": calibration.alarms,
            "probability_per_run": calibration.probability,
            "strata": [asdict(summary) for summary in strata],
            "cases_compared": cases,
            "cases_examined": examined,
            "tensors_examined": tensors,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    out = Console(highlight=False, soft_wrap=True)
    for summary in sorted(strata, key=lambda summary: -summary.alarm)[:12]:
        where = summary.stratum
        out.print(
            f"{where.component} {where.profile} {where.rung} {where.length_class}, {where.family}: "
            f"{summary.cases} cases, mean {summary.mean:+.2f} bits, spread {summary.spread:.2f}, "
            f"largest {summary.largest:+.2f}, margin {summary.margin:g}, false alarm {summary.alarm:.1e}",
            markup=False,
        )
    for alarm in calibration.alarms:
        out.print(f"FALSE ALARM {alarm}", markup=False)
    out.print(
        f"{len(calibration.runs)} runs: {len(calibration.alarms)} false alarms; {len(strata)} strata, {cases} cases "
        f"compared; {examined} examinations, {tensors} tensors under the absolute gates; "
        f"computed probability of a false alarm in a run {calibration.probability:.1e}",
        markup=False,
    )
