"""What the metric set of a pair costs, beside what others compute of it.

    python benchmarks/metrics.py                          # 2**24 float32, the size that the bounds are stated for
    python benchmarks/metrics.py --log2 20 --runs 3 --json
    python benchmarks/metrics.py --truth-dtype float64 --alone

One process, one pair of tensors. In every round each contender runs, in turn, so that a ratio compares neighbours:
medians over rounds, with the least and the largest. What takes milliseconds runs ten times a round, and the mean
counts. Processor seconds, which other work on the machine disturbs less than wall time, and wall time are both given.

* numpy, torch: `numpy.testing.assert_allclose`, `torch.testing.assert_close`.
* polygraphy: `Comparator.compare_accuracy` with its defaults; left out where it is not installed.
* copy: `numpy.copyto` over one tensor; its bytes are those read and those written.
* read: the largest of each tensor as integers, with as many threads as the engine has; its bytes are those read.
* share: bytes of both tensors, counted once, over the engine's seconds, as a share of that bandwidth.
* extra: peak resident size of a first call less the size before it, after a call at 2**18 that loads the compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

DTYPES: Final = ("float32", "float64", "bfloat16", "float16")
CLOCKS: Final = ("wall", "processor")
SHORT: Final = ("copy", "read", "engine")
"""Contenders that take milliseconds."""
REPEATS: Final = 10
LOOSE: Final = 1e-3
"""So that no contender fails, which would take it longer."""
WARM: Final = 1 << 18


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log2", type=int, default=24)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kernels", choices=("auto", "numpy", "compiled"), default="auto")
    parser.add_argument("--actual-dtype", choices=DTYPES, default="float32")
    parser.add_argument("--truth-dtype", choices=DTYPES, default="float32")
    parser.add_argument("--alone", action="store_true", help="leave out what others compute")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pair = pair_of(1 << arguments.log2, arguments.actual_dtype, arguments.truth_dtype)
    figures = measured(pair, arguments.runs, arguments.threads, arguments.kernels, arguments.alone)
    print(json.dumps(figures, indent=2) if arguments.json else table(figures))  # noqa: T201


def measured(pair: tuple[Any, Any], runs: int, threads: int | None, kernels: Any, alone: bool) -> dict[str, Any]:
    """Time every contender and return the figures."""
    from parity.metrics.engine import measure_pair

    actual, truth = pair
    measure_pair(actual[:WARM], truth[:WARM], threads=threads, kernels=kernels)
    before = _forget_peak()
    measure_pair(actual, truth, threads=threads, kernels=kernels)
    extra = _status("VmHWM") - before
    contenders = bandwidths(actual, truth, threads) | ({} if alone else others(actual, truth))
    contenders["engine"] = lambda: measure_pair(actual, truth, threads=threads, kernels=kernels)
    rounds = [
        {name: timed(run, REPEATS if name in SHORT else 1) for name, run in contenders.items()} for _ in range(runs)
    ]
    moved = {"copy": 2 * actual.nbytes, "read": actual.nbytes + truth.nbytes, "engine": actual.nbytes + truth.nbytes}
    figures: dict[str, Any] = {
        "size": actual.size,
        "dtypes": [actual.dtype.name, truth.dtype.name],
        "runs": runs,
        "kernels": kernels,
        "extra_mib": extra,
    }
    for at, clock in enumerate(CLOCKS):
        figures[clock] = {name: spread([found[name][at] for found in rounds]) for name in contenders}
        figures[f"times_engine_{clock}"] = {
            name: spread([found[name][at] / found["engine"][at] for found in rounds]) for name in contenders
        }
        figures[f"bytes_a_second_{clock}"] = {
            name: spread([count / found[name][at] for found in rounds]) for name, count in moved.items()
        }
        figures[f"share_{clock}"] = {
            name: spread([moved["engine"] / count * found[name][at] / found["engine"][at] for found in rounds])
            for name, count in moved.items()
            if name != "engine"
        }
    return figures


def pair_of(size: int, actual: str = "float32", truth: str = "float32") -> tuple[Any, Any]:
    """A truth of order one, and numbers of the format a few steps from it."""
    import ml_dtypes

    drawn = np.random.Generator(np.random.Philox(0))
    wide = np.float64 if "float64" in (actual, truth) else np.float32
    exact = drawn.standard_normal(size, dtype=wide).astype(truth)
    step = wide(2.0 ** -ml_dtypes.finfo(np.dtype(actual)).nmant)
    moved = exact.astype(wide) * (1 + step * drawn.standard_normal(size, dtype=wide))
    return moved.astype(actual), exact


def bandwidths(actual: Any, truth: Any, threads: int | None) -> dict[str, Callable[[], Any]]:
    """Return what memory is measured by."""
    into, workers = np.empty_like(actual), threads or os.cpu_count() or 1
    parts = [part for tensor in (actual, truth) for part in np.array_split(tensor.view(np.int8).view(np.int64), 8)]

    def read() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(np.max, parts))

    return {"copy": lambda: np.copyto(into, actual), "read": read}


def others(actual: Any, truth: Any) -> dict[str, Callable[[], Any]]:
    """Return what the engine is compared with."""
    import torch

    left, right = torch.from_numpy(actual), torch.from_numpy(truth)
    found: dict[str, Callable[[], Any]] = {
        "numpy": lambda: np.testing.assert_allclose(actual, truth, rtol=LOOSE, atol=LOOSE),
        "torch": lambda: torch.testing.assert_close(left, right, rtol=LOOSE, atol=LOOSE),
    }
    if importlib.util.find_spec("polygraphy"):
        from polygraphy.comparator import Comparator, IterationResult, RunResults

        results = RunResults()
        for name, values in (("actual", actual), ("truth", truth)):
            results.append((name, [IterationResult({"y": values}, runner_name=name)]))

        def compare() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                Comparator.compare_accuracy(results)

        found["polygraphy"] = compare
    return found


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return wall and processor seconds of one call, the latter of all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - processor) / repeats


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and largest."""
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def table(figures: dict[str, Any]) -> str:
    """Set the figures as text."""
    actual, truth = figures["dtypes"]
    lines = [f"{figures['size']} {actual} against {truth}, {figures['runs']} rounds, kernels {figures['kernels']}"]
    for name in figures["processor"]:
        wall, processor = (figures[clock][name]["median"] * 1e3 for clock in CLOCKS)
        by_wall, ratio = (figures[f"times_engine_{clock}"][name] for clock in CLOCKS)
        lines.append(
            f"{name:10}: {wall:.1f} ms wall, {processor:.1f} ms processor; over the engine's {ratio['median']:.2f} "
            f"({ratio['least']:.2f} to {ratio['largest']:.2f}) by processor, {by_wall['median']:.2f} "
            f"({by_wall['least']:.2f} to {by_wall['largest']:.2f}) by wall"
        )
    for clock in CLOCKS:
        speeds = figures[f"bytes_a_second_{clock}"]
        for name, share in figures[f"share_{clock}"].items():
            lines.append(
                f"by {clock}: engine {speeds['engine']['median'] / 1e9:.1f} GB/s of {speeds[name]['median'] / 1e9:.1f} "
                f"({name}): {share['median']:.0%} ({share['least']:.0%} to {share['largest']:.0%})"
            )
    nanoseconds = figures["processor"]["engine"]["median"] / figures["size"] * 1e9
    lines.append(f"engine {nanoseconds:.2f} ns of processor an element; extra memory {figures['extra_mib']:.1f} MiB")
    return "\n".join(lines)


def _status(field: str) -> float:
    """Read a size in MiB from Linux's account of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux")
    return int(found[1]) / 1024


def _forget_peak() -> float:
    """Set the peak resident size to the present one and return it, in MiB. Source: proc(5), `clear_refs`."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


if __name__ == "__main__":
    main()
