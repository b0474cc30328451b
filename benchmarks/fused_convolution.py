"""The fused convolution on a graphics processor against MLX's composed transforms and torch's, on the same device.

    python benchmarks/fused_convolution.py                          # prints a table
    python benchmarks/fused_convolution.py --markdown reports/fused_convolution.md

Every length has (b, 768) rows of noise, b as large as 2^17 numbers a channel allow, at most 16; a call makes the
kernel's spectrum, the convolution and the skip term. One call of each candidate follows the other, in an order drawn
anew `--repeats` times, since a call after another framework's takes longer than one after its own; a ratio is the
median of the pairs' ratios, in brackets their quartiles. An error is ||y - truth|| / ||truth|| in units of
u = 2^-24 over one sequence, truth float64.

Exit status 1 if up to `LONGEST_BOUND` positions the kernel is less than `LEAST_GAIN` times as fast as MLX's composed
transforms, or at any length slower than torch's or less accurate than either; 3 where there is no device to ask.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

os.environ.setdefault("MLX_ENABLE_TF32", "0")

import mlx.core as mx
import numpy as np
import torch

from mlx_impl.kernels.fused_convolution import FusedConvolution
from parity.files import write_whole

LENGTHS: Final = (1, 2, 3, 7, 64, 100, 127, 128, 512, 1000, 1024, 2048, 4096, 8192, 16384, 32768)
CHANNELS: Final = 768
NUMBERS: Final = 2**17
LARGEST_BATCH: Final = 16
U: Final = 2.0**-24

LEAST_GAIN: Final = 1.5
LONGEST_BOUND: Final = 4096

CANDIDATES: Final = ("fused", "double", "composed", "torch")


@dataclass(frozen=True)
class Row:
    """One length: microseconds, errors in u, and each candidate's time over the fused one's (low, median, high)."""

    length: int
    batch: int
    micros: dict[str, float]
    errors: dict[str, float]
    gains: dict[str, tuple[float, float, float]]

    @property
    def problems(self) -> list[str]:
        """What is not as it must be."""
        found = []
        if self.length <= LONGEST_BOUND and self.gains["composed"][1] < LEAST_GAIN:
            found.append(f"{self.gains['composed'][1]:.2f} times as fast as composed, at least {LEAST_GAIN}")
        if self.gains["torch"][1] < 1:
            found.append(f"{self.gains['torch'][1]:.2f} times as fast as torch, at least 1")
        worse = [name for name in ("composed", "torch") if self.errors["fused"] > SAME * self.errors[name]]
        return found + [f"less accurate than {name}" for name in worse]


SAME: Final = 1.02
"""Errors of short rows, of which there are 768, scatter by so much: beyond, one is larger than the other."""


def measured(length: int, repeats: int) -> Row:
    """Measure one length."""
    batch = max(1, min(LARGEST_BATCH, NUMBERS // length))
    mx.random.seed(length)
    u, k, skip = (mx.random.normal(shape) for shape in ((batch, CHANNELS, length), (CHANNELS, length), (CHANNELS,)))
    mx.eval(u, k, skip)
    calls = candidates(u, k, skip)
    exact = truth(*(np.array(x[:1] if x.ndim == 3 else x, dtype=np.float64) for x in (u, k, skip)))
    errors = {name: error(call(), exact) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = np.random.Generator(np.random.Philox(length))
    for _ in range(repeats):
        for name in shuffled.permutation(list(calls)):
            call = calls[name]
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return Row(
        length,
        batch,
        {name: 1e6 * median(values) for name, values in times.items()},
        errors,
        {name: spread([a / b for a, b in zip(times[name], times["fused"], strict=True)]) for name in calls},
    )


def candidates(u: mx.array, k: mx.array, skip: mx.array) -> dict[str, Callable[[], Any]]:
    """Return calls that compute and wait for the same convolution."""
    n = 2 * u.shape[-1]
    length = u.shape[-1]
    fused, double = FusedConvolution(), FusedConvolution(double=True)
    tu, tk, tskip = (torch.from_numpy(np.array(x)).to("cuda") for x in (u, k, skip))

    def waited(y: mx.array) -> mx.array:
        mx.eval(y)
        return y

    def composed() -> mx.array:
        spectrum = mx.fft.rfft(u, n=n) * mx.fft.rfft(k, n=n)
        return waited(mx.fft.irfft(spectrum, n=n)[..., :length] + u * skip[:, None])

    def by_torch() -> torch.Tensor:
        y = torch.fft.irfft(torch.fft.rfft(tu, n) * torch.fft.rfft(tk, n), n)[..., :length] + tu * tskip[:, None]
        torch.cuda.synchronize()
        return y

    return {
        "fused": lambda: waited(fused(u, (k,), skip)),
        "double": lambda: waited(double(u, (k,), skip)),
        "composed": composed,
        "torch": by_torch,
    }


def truth(u: Any, k: Any, skip: Any) -> Any:
    """The convolution in float64."""
    n = 2 * u.shape[-1]
    return np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(k, n), n)[..., : u.shape[-1]] + u * skip[:, None]


def error(y: Any, exact: Any) -> float:
    """Relative L2 error of the first sequence, in u."""
    values = y.cpu().numpy() if isinstance(y, torch.Tensor) else np.array(y)
    return float(np.linalg.norm(values[:1] - exact) / np.linalg.norm(exact) / U)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    low, _, high = quantiles(values, n=4)
    return low, median(values), high


HEADER: Final = """\
# The fused long convolution on a graphics processor

Measured on one {name}: MLX {mlx} (CUDA), torch {torch} (cuFFT), by

    {command}

A call makes the kernel's spectrum, the convolution and the skip term of (b, 768, L) float32, and waits for it, Python's
part included. Microseconds are medians; a ratio is the median over pairs of neighbouring calls, in brackets the
quartiles. Errors are relative, in the L2 norm, in u = 2^-24, against float64. `double` computes in pairs of float32 and
rounds once. The order of the candidates is drawn anew for every round of calls.
"""


def columns() -> str:
    """Return the table's head."""
    micros = [f"{name} us" for name in ("fused", "composed", "torch", "double")]
    names = ["L", "b", *micros, "composed / fused", "torch / fused", "error fused", "composed", "torch", "double"]
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|"


def page(rows: Sequence[Row], command: str) -> str:
    """Return the report."""
    name = mx.device_info(mx.gpu).get("device_name", "unknown")
    lines = [HEADER.format(name=name, mlx=mx.__version__, torch=torch.__version__, command=command), columns()]
    for row in rows:
        ratios = [f"{m:.2f} ({a:.2f} to {b:.2f})" for a, m, b in (row.gains["composed"], row.gains["torch"])]
        micros = [f"{row.micros[name]:.0f}" for name in ("fused", "composed", "torch", "double")]
        errors = [f"{row.errors[name]:.2f}" for name in ("fused", "composed", "torch", "double")]
        lines.append("| " + " | ".join([str(row.length), str(row.batch), *micros, *ratios, *errors]) + " |")
    problems = [f"L = {row.length}: {problem}" for row in rows for problem in row.problems]
    bound = (
        f"at least {LEAST_GAIN} times as fast as composed up to {LONGEST_BOUND}, faster than torch, no less accurate"
    )
    lines += ["", f"**{'FAIL' if problems else 'PASS'}**: {'; '.join(problems) or bound}.", ""]
    return "\n".join([*lines, "The Metal prelude of the same body has been run on no device so far.", ""])


def main(arguments: Sequence[str]) -> int:
    """Measure all lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="write the report here")
    parser.add_argument("--repeats", type=int, default=101, help="calls of each candidate (default 101)")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="lengths to measure")
    chosen = parser.parse_args(arguments)
    if not (mx.cuda.is_available() and torch.cuda.is_available()):
        sys.stderr.write("no CUDA device that both MLX and torch can use: nothing to measure\n")
        return 3
    mx.set_default_device(mx.gpu)
    rows = [measured(length, chosen.repeats) for length in chosen.lengths]
    text = page(rows, " ".join(["python benchmarks/fused_convolution.py", *arguments]))
    sys.stdout.write(text)
    if chosen.markdown:
        write_whole(chosen.markdown, text, "name another file with --markdown")
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
