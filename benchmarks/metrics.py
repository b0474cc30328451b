"""What the metric set of a pair costs, beside what others compute of it.

    python benchmarks/metrics.py                          # 2**24 float32, the size that the bounds are stated for
    python benchmarks/metrics.py --log2 20 --runs 3 --json

One process, one pair of tensors. In every round each contender runs once, in turn, so that a ratio compares neighbours:
medians over rounds, with the least and the largest. Processor seconds are judged, which other work on the machine
disturbs less than wall time; both are given.

* numpy, torch: `numpy.testing.assert_allclose`, `torch.testing.assert_close`.
* polygraphy: `Comparator.compare_accuracy` with its defaults; left out where it is not installed.
* copy: `numpy.copyto` over one tensor, for the bandwidth: bytes read and written over processor seconds.
* share: bytes of both tensors, read once, over the engine's processor seconds, as a share of that bandwidth.
* extra: peak resident size of a first call less the size before it, after a call at 2**18 that loads the compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

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
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measured(1 << arguments.log2, arguments.runs, arguments.threads, arguments.kernels)
    print(json.dumps(figures, indent=2) if arguments.json else table(figures))  # noqa: T201


def measured(size: int, runs: int, threads: int | None, kernels: Any) -> dict[str, Any]:
    """Time every contender and return the figures."""
    from parity.metrics.engine import measure_pair

    actual, truth = pair_of(size)
    measure_pair(actual[:WARM], truth[:WARM], threads=threads, kernels=kernels)
    before = _forget_peak()
    measure_pair(actual, truth, threads=threads, kernels=kernels)
    extra = _status("VmHWM") - before
    contenders = others(actual, truth)
    contenders["engine"] = lambda: measure_pair(actual, truth, threads=threads, kernels=kernels)
    rounds = [{name: timed(run) for name, run in contenders.items()} for _ in range(runs)]
    bandwidths = [2 * actual.nbytes / found["copy"][1] for found in rounds]
    speeds = [2 * actual.nbytes / found["engine"][1] for found in rounds]
    return {
        "size": size,
        "runs": runs,
        "kernels": kernels,
        "extra_mib": extra,
        "wall": {name: spread([found[name][0] for found in rounds]) for name in contenders},
        "processor": {name: spread([found[name][1] for found in rounds]) for name in contenders},
        "times_engine_wall": {
            name: spread([found[name][0] / found["engine"][0] for found in rounds]) for name in contenders
        },
        "times_engine_processor": {
            name: spread([found[name][1] / found["engine"][1] for found in rounds]) for name in contenders
        },
        "bandwidth": spread(bandwidths),
        "engine_bytes_a_second": spread(speeds),
        "share": spread([speed / width for speed, width in zip(speeds, bandwidths, strict=True)]),
    }


def pair_of(size: int) -> tuple[Any, Any]:
    """A float32 truth of order one, and numbers a few steps from it."""
    drawn = np.random.Generator(np.random.Philox(0))
    truth = drawn.standard_normal(size, dtype=np.float32)
    return truth * (1 + np.float32(2.0**-23) * drawn.standard_normal(size, dtype=np.float32)), truth


def others(actual: Any, truth: Any) -> dict[str, Callable[[], Any]]:
    """Return what the engine is compared with."""
    import torch

    into, left, right = np.empty_like(actual), torch.from_numpy(actual), torch.from_numpy(truth)
    found: dict[str, Callable[[], Any]] = {
        "copy": lambda: np.copyto(into, actual),
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


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and processor seconds, of all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and largest."""
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def table(figures: dict[str, Any]) -> str:
    """Set the figures as text."""
    lines = [f"{figures['size']} float32, {figures['runs']} rounds, kernels {figures['kernels']}"]
    for name in figures["processor"]:
        wall, processor = figures["wall"][name]["median"], figures["processor"][name]["median"]
        ratio, by_wall = figures["times_engine_processor"][name], figures["times_engine_wall"][name]
        lines.append(
            f"{name:10}: {wall:.3f} s wall, {processor:.3f} s processor; over the engine's {ratio['median']:.2f} "
            f"({ratio['least']:.2f} to {ratio['largest']:.2f}) by processor, {by_wall['median']:.2f} "
            f"({by_wall['least']:.2f} to {by_wall['largest']:.2f}) by wall"
        )
    share, speed, width = (figures[name]["median"] for name in ("share", "engine_bytes_a_second", "bandwidth"))
    lines.append(f"engine {speed / 1e9:.2f} GB/s of {width / 1e9:.2f} GB/s copied: {share:.1%}")
    lines.append(f"extra memory {figures['extra_mib']:.1f} MiB")
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
