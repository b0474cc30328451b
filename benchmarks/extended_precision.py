"""What the knobs `ep_` and `strict_kernels` give and cost: writes reports/extended_precision.md.

    nox -s kernels

Errors are against 80-bit transforms, the worst of the three places of the factor 1/n.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kernels")]

from convolution_truth import NORMS, log2_distance, measure, normal, true_convolution  # noqa: E402

from mlx_impl.ops import Ops  # noqa: E402
from parity.spec.profile import CANONICAL, HyperProfile  # noqa: E402

REPORT = ROOT / "reports" / "extended_precision.md"
LENGTHS = (1, 2, 3, 7, 64, 100, 127, 1000, 1024, 4093, 4096, 8192, 32749, 32768)
LONG = 8192
"""From here on two channels take the place of eight."""

PROFILES = {
    "native": CANONICAL,
    "ep_freqmul": CANONICAL.replace(ep_freqmul=True),
    "ep_fft": CANONICAL.replace(ep_fft=True),
    "both": CANONICAL.replace(ep_fft=True, ep_freqmul=True),
}
REPEATS, SHORTEST = 5, 0.1

HEADER = """\
# Extended precision and strict kernels: what they give, what they cost

Made by `nox -s kernels` on {machine}, MLX {version}, CPU; standard normal input; times are of the
processor, the best of {repeats} or more.

## Convolution in double-float32 (`ep_fft` and `ep_freqmul`)

Before rounding: log2 of the relative L2 error of hi + lo, the worst over `fft_norm`. Rounded: share of float32 results
that are the nearest to the truth, the worst likewise. The next four columns are log2 of the relative L2 error of the
float32 results under each choice of the two knobs. Times of one convolution without its skip, in ms.

| L | channels | before rounding | rounded | native | ep_freqmul | ep_fft | both | native ms | both ms | price |
|---|---|---|---|---|---|---|---|---|---|---|
"""

STRICT = """
## Primitives under `ep_depthwise` and `strict_kernels`

Times in ms, batch 8 of 128 positions.

| primitive | channels | native | knob | price |
|---|---|---|---|---|
"""


def main() -> int:
    """Measure and write the report."""
    mx.set_default_device(mx.cpu)
    head = HEADER.format(machine=platform.machine(), version=mx.__version__, repeats=REPEATS)
    lines = [*map(convolution_row, LENGTHS), STRICT.rstrip("\n"), *primitive_rows()]
    REPORT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(REPORT.read_text(encoding="utf-8"))
    return 0


def convolution_row(l: int) -> str:
    """One length."""
    channels = 2 if l >= LONG else 8
    u, k = normal(1, 1, channels, l), normal(2, channels, l)
    found = [measure(u, k, norm) for norm in NORMS]
    truth = true_convolution(u, k)
    results = {name: convolve(profile, u, k) for name, profile in PROFILES.items()}
    errors = [log2_distance(np.array(run()).astype(np.longdouble), truth) for run in results.values()]
    native, both = milliseconds(results["native"]), milliseconds(results["both"])
    bits = max(it.bits for it in found)
    correct = min(it.correct for it in found)
    cells = [l, channels, number(bits), f"{100 * correct:.4f} %", *map(number, errors)]
    return row(*cells, f"{native:.2f}", f"{both:.2f}", f"{both / native:.0f}")


def convolve(profile: HyperProfile, u: Any, k: Any) -> Callable[[], mx.array]:
    """The port's convolution through the seam, without its skip."""
    ops, signal, kernel, n = Ops(profile), mx.array(u), mx.array(k), 2 * u.shape[-1]
    scales = ops.fft_scales

    def run() -> mx.array:
        product = ops.spectrum_product(ops.rfft(signal, n, scales.signal), ops.rfft(kernel, n, scales.kernel))
        return ops.irfft(product, n, scales.inverse)[..., : u.shape[-1]]

    return run


def primitive_rows() -> Iterator[str]:
    """Prices of what else the knobs replace."""
    strict, extended = Ops(CANONICAL.replace(strict_kernels=True)), Ops(CANONICAL.replace(ep_depthwise=True))
    for channels in (64, 256):
        x, weight = mx.array(normal(1, 8, 128, channels)), mx.array(normal(2, channels, channels))
        blocks, block = x.reshape(8, 128, 4, -1), mx.array(normal(3, 4, channels // 4, channels // 4))
        taps, one = mx.array(normal(4, channels, 3, 1)), mx.array(normal(5, channels))
        calls: dict[str, tuple[Ops, Callable[[Ops], mx.array]]] = {
            "linear, strict": (strict, lambda ops, x=x, w=weight, b=one: ops.linear(x, w, b)),
            "blockdiag, strict": (strict, lambda ops, x=blocks, w=block: ops.blockdiag(x, w)),
            "layer_norm, strict": (strict, lambda ops, x=x, w=one: ops.layer_norm(x, w, w, 1e-12)),
            "softmax, strict": (strict, lambda ops, x=x: ops.softmax(x, axis=1)),
            "depthwise_conv, strict": (strict, lambda ops, x=x, w=taps, b=one: ops.depthwise_conv(x, w, b, 2)),
            "depthwise_conv, ep": (extended, lambda ops, x=x, w=taps, b=one: ops.depthwise_conv(x, w, b, 2)),
        }
        for name, (ops, call) in calls.items():
            native, changed = milliseconds(partial(call, Ops())), milliseconds(partial(call, ops))
            yield row(name, channels, f"{native:.2f}", f"{changed:.2f}", f"{changed / native:.1f}")


def milliseconds(run: Callable[[], mx.array]) -> float:
    """Processor time of the shortest of several runs, as many as fit into a moment: other work disturbs it less."""
    mx.eval(run())
    times: list[float] = []
    while len(times) < REPEATS or sum(times) < SHORTEST:
        start = time.process_time()
        mx.eval(run())
        times.append(time.process_time() - start)
    return 1000 * min(times)


def number(bits: float) -> str:
    """A logarithm; none where there is no error."""
    return f"{bits:.2f}" if np.isfinite(bits) else "exact"


def row(*cells: Any) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    raise SystemExit(main())
