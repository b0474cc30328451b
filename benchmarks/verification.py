"""Verification at full size: generated files of public checkpoints, each verified at f32 layer by layer.

    python benchmarks/verification.py                    # all six
    python benchmarks/verification.py 80m@128 341m@512   # two of them
    python benchmarks/verification.py --folder /scratch --csv reports/verification.csv

A line each: seconds from the process's start to the verdict, those that it took of all processors, its peak resident
size, and that over the bound

    1.5 * both models' weights + 4 * one layer's activations, float32

where a layer's activations are what its modules give out. Exit status 1 if one does not pass or exceeds the bound.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from parity.checkpoint import extend, generate, public_called
from parity.checkpoint.layout import POSITION_IDS, state_shapes, state_ties
from parity.spec.config import ModelConfig

RUNS: Final = {
    "80m@128": ("m2-bert-80m", 128),
    "80m@2048": ("m2-bert-80m-2k-retrieval", 2048),
    "80m@8192": ("m2-bert-80m-8k-retrieval", 8192),
    "80m@32768": ("m2-bert-80m-32k-retrieval", 32768),
    "341m@128": ("m2-bert-341m", 128),
    "341m@512": ("m2-bert-341m", 512),
}

CHILD: Final = """
import resource, sys
from pathlib import Path
from parity.cli import app
try:
    app(sys.argv[1:])
finally:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    print(*peak or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss], file=sys.stderr)
"""
"""A command in a process of its own, which prints its peak resident size in bytes at the end."""


@dataclass(frozen=True)
class Figures:
    """One run: bytes and seconds; `worst` is the largest error over its allowance."""

    run: str
    passed: bool
    calls: int
    worst: float
    seconds: float
    processor_seconds: float
    peak: int
    bound: int
    mlx_blas: str


def activations(config: ModelConfig, length: int) -> int:
    """Return the bytes of what the modules of one layer give out, float32, one sequence."""
    d, inner, order = config.hidden_size, config.intermediate_size, config.hyena_filter_order
    filters = 2 if config.residual_long_conv else 1
    networks = 2 if config.bidirectional else 1
    mixer = 3 * d + 3 * d + d  # in_linear, short_filter, out_linear
    kernel = 3 * 2 * order + d + d  # three linears and sines, the last linear, the modulation
    mlp = (2 * inner if config.use_glu_mlp else inner) + inner + d + d
    return 4 * length * (mixer + filters * (d + networks * kernel) + mlp)


def weights(head: Any, config: ModelConfig) -> int:
    """Return the bytes of a model's parameters and buffers, float32, each once."""
    ties = state_ties(head, config)
    shapes = state_shapes(head, config)
    return 4 * sum(prod(shape) for name, shape in shapes.items() if name not in ties and name != POSITION_IDS)


def measure(run: str, folder: Path, blas: str) -> Figures:
    """Make a file, verify it in a process of its own, and return the figures."""
    name, length = RUNS[run]
    public, path = public_called(name), folder / "full.pt"
    config = public.config
    generate(path, public.head, config, "composer")
    if length > config.long_conv_l_max:
        longer = folder / "longer.pt"
        extend(path, longer, length)
        path, config = longer, config.model_copy(update={"long_conv_l_max": length, "max_position_embeddings": length})
    options = ["--length", str(length), "--f64-layers", "0", "--mlx-blas", blas, "--json"]
    begun, spent = time.perf_counter(), _spent()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "checkpoint", "verify", str(path), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, processor_seconds = time.perf_counter() - begun, _spent() - spent
    if done.returncode not in (0, 1):
        raise SystemExit(f"{run} ended with status {done.returncode}: {done.stderr}")
    facts = json.loads(done.stdout)
    rows = [row for rung in facts["rungs"] for row in rung["rows"]]
    bound = int(1.5 * 2 * weights(public.head, config)) + 4 * activations(config, length)
    worst = max(float(row["ratio"]) for row in rows)
    peak = int(done.stderr.split()[-1])
    return Figures(
        run, bool(facts["passed"]), len(rows), worst, seconds, processor_seconds, peak, bound, facts["mlx_blas"]
    )


def _spent() -> float:
    """Seconds of processors that this process's children have taken, theirs and the system's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Run what the arguments name."""
    arguments = _arguments()
    found = []
    for run in arguments.runs or RUNS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found.append(measure(run, Path(folder), arguments.mlx_blas))
        it = found[-1]
        good = it.passed and it.peak <= it.bound
        print(  # noqa: T201
            f"{'ok  ' if good else 'FAIL'} {it.run}: {it.calls} calls, largest error {it.worst:.2f} of allowed, "
            f"{it.seconds:.0f} s, {it.processor_seconds:.0f} s of processors, peak {it.peak / 2**20:.0f} MiB, "
            f"{it.peak / it.bound:.2f} of the bound; {it.mlx_blas}",
            flush=True,
        )
    if arguments.csv is not None:
        with arguments.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(found[0])))
            writer.writeheader()
            writer.writerows(map(asdict, found))
    return 0 if all(it.passed and it.peak <= it.bound for it in found) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; all by default")
    parser.add_argument("--folder", type=Path, help="where the files are put; a temporary folder by default")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--mlx-blas", default="auto", help="as `parity checkpoint verify`")
    arguments = parser.parse_args()
    unknown = [run for run in arguments.runs if run not in RUNS]
    if unknown:
        parser.error(f"no run is called {unknown[0]!r}; there are {', '.join(RUNS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
