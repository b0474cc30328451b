"""Part `budget`, on request: the wall time and the peak memory of the standard budget with one worker and with two."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.bench.cells import Cell, ratio_cell
from parity.errors import WorkerError

PART: Final = "budget"
JOBS: Final = (1, 2)
LOOK_SECONDS: Final = 0.25
"""How often the memory of all processes is looked at."""


@dataclass(frozen=True)
class BudgetTask:
    """What is run: `words` behind `parity run`, `rounds` times with each number of workers."""

    words: tuple[str, ...] = ("--profile", "all", "--budget", "standard")
    seed: int = 0
    rounds: int = 1


def budget_cells(
    task: BudgetTask, run: Callable[[Sequence[str]], tuple[float, float]] | None = None
) -> Iterator[list[Cell]]:
    """Run with each number of workers in turn, then yield what it took.

    Args:
        task: What is run.
        run: Returns seconds and MiB of a command's words; by default a new process.

    Raises:
        WorkerError: A run did not pass.
    """
    timed = run or run_process
    found: dict[int, list[tuple[float, float]]] = {jobs: [] for jobs in JOBS}
    for index in range(task.rounds):
        for jobs in JOBS if index % 2 == 0 else reversed(JOBS):
            words = ["run", *task.words, "--seed", str(task.seed), "--jobs", str(jobs)]
            found[jobs].append(timed(words))
            yield []
    times = {jobs: [seconds for seconds, _ in rounds] for jobs, rounds in found.items()}
    cells = []
    for jobs, rounds in found.items():
        cells.append(Cell.make(PART, "time", {"jobs": jobs}, "s", times[jobs]))
        cells.append(Cell.make(PART, "peak memory", {"jobs": jobs}, "MiB", [memory for _, memory in rounds]))
    yield [*cells, ratio_cell(PART, "speed-up", {}, times[JOBS[0]], times[JOBS[1]])]


def run_process(words: Sequence[str]) -> tuple[float, float]:
    """Run `parity` in a process of its own with a report folder that is deleted; return seconds and the peak in MiB.

    The peak is of what all its processes hold together, shared pages shared out among them, looked at four times a
    second.

    Raises:
        WorkerError: It did not pass.
    """
    with tempfile.TemporaryDirectory(prefix="parity-bench-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "parity", *words, "--out", str(Path(folder) / "report")]
        start, peak = time.perf_counter(), 0.0
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                while process.poll() is None:
                    peak = max(peak, _held(process.pid))
                    time.sleep(LOOK_SECONDS)
            finally:
                if process.poll() is None:
                    process.terminate()
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise WorkerError(f"parity {' '.join(words)} ended with status {process.returncode}: {''.join(last)}")
    return seconds, peak


def _held(pid: int) -> float:
    """Return MiB that a process and its children hold; 0 where they are gone."""
    import psutil

    try:
        root = psutil.Process(pid)
        return sum(map(_share, [root, *root.children(recursive=True)])) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def _share(process: Any) -> float:
    import psutil

    try:
        held = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
    return float(getattr(held, "pss", held.rss))
