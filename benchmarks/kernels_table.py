"""Every kernel of `fft_impl` and `blockdiag_impl` measured: writes reports/kernels.md.

    nox -s kernels

Exit status: 0 every bound holds; 1 some bound is exceeded, each named.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import scipy.fft
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kernels")]

from convolution_truth import NORMS, measure, normal  # noqa: E402

import mlx_impl  # noqa: E402
import reference_torch  # noqa: E402
from mlx_impl.kernels.blockdiag import BLOCKDIAG_KERNELS  # noqa: E402
from mlx_impl.ops import Ops  # noqa: E402
from parity.backends.mlx_float64 import float64_ops  # noqa: E402
from parity.backends.true_transforms import TrueTransforms  # noqa: E402
from parity.cases import corpus_cases  # noqa: E402
from parity.examine import Bench  # noqa: E402
from parity.gradients import GradientBench, examine_gradients  # noqa: E402
from parity.spec.precision import RUNGS  # noqa: E402
from parity.spec.profile import CANONICAL, HyperProfile  # noqa: E402
from parity.suites import select  # noqa: E402
from parity.tolerance import constant  # noqa: E402

REPORT: Final = ROOT / "reports" / "kernels.md"
LENGTHS: Final = (1, 2, 3, 7, 64, 100, 127, 1000, 1024, 4096, 8192, 32768)
LONG: Final = 8192
"""From here on four channels take the place of eight."""

VARIANTS: Final = ("native", "channel_batched", "streamed", "monarch")
DTYPES: Final = {"f64": mx.float64, "f32": mx.float32, "bf16": mx.bfloat16, "f16": mx.float16}

MONARCH_F64: Final = 4e-15
"""Relative L2 error at f64."""

EXTENDED_BITS: Final = -45.0
"""log2 of the relative L2 error of double-float32, before it is rounded."""

SMOOTH: Final = 7
"""Lengths of transforms without a larger prime factor have the sharper bound."""

LARGE_PRIME: Final = 2.3
"""How much more a float32 transform may err at the other lengths: a chirp takes two transforms for one."""

FLOAT64_GRADIENT: Final = 1e-11
"""Relative L2 error of gradients, and of second ones, at f64."""

REPEATS, SHORTEST = 3, 0.02

CLAIM: Final = {64: 4.3e-6, 4096: 6.9e-5}
"""Largest difference to torch that was once reported of this port, by length, for standard normal input."""

Array = Any


@dataclass(frozen=True)
class Measured:
    """One convolution of one variant at one length and rung."""

    variant: str
    l: int
    rung: str
    relative: float
    constant: float
    price: float
    peak: int
    bits: float | None = None

    @property
    def exceeded(self) -> str:
        """Which bound it exceeds, in words; empty if none."""
        found, allowed = self._bounded()
        return "" if found <= allowed else f"{self.variant} L={self.l} {self.rung}: {found:.3g} is above {allowed:.3g}"

    def _bounded(self) -> tuple[float, float]:
        if self.bits is not None:
            return self.bits, EXTENDED_BITS
        if self.rung == "f64":
            return self.relative, MONARCH_F64
        if self.rung == "f32":
            return self.constant, allowed_constant(self.l)
        return self.relative / RUNGS[self.rung].u, 1.0  # type: ignore[index]

    def cells(self) -> list[str]:
        """Its row."""
        error = f"{self.relative / RUNGS[self.rung].u:.2f}"  # type: ignore[index]
        bound = f"{self._bounded()[1]:.3g}"
        pure = f"{self.constant:.2f}" if self.rung in ("f32", "f64") else ""
        extra = "" if self.bits is None else f"2^{self.bits:.2f}"
        return [str(self.l), self.variant, self.rung, error, pure, extra, bound, f"{self.price:.1f}", str(self.peak)]


def allowed_constant(l: int) -> float:
    """Largest C of a float32 convolution of noise of l positions: 0.80 exp(6 / sqrt(max(l, 16))), 2.3 times at primes.

    Six standard deviations of a single channel above the constant of a power of two.
    """
    sharp = 0.80 * math.exp(6 / math.sqrt(max(l, 16)))
    return sharp if largest_prime(2 * l) <= SMOOTH else LARGE_PRIME * sharp


def largest_prime(n: int) -> int:
    """Largest prime factor of n, 1 of 1."""
    largest, factor = 1, 2
    while n > 1:
        while n % factor == 0:
            n, largest = n // factor, factor
        factor += 1
    return largest


# --- convolutions ---------------------------------------------------------------------------------------------


def convolution_rows(lengths: Sequence[int]) -> Iterator[Measured]:
    """Every variant at every length and rung, and double-float32."""
    for l in lengths:
        channels = 4 if l >= LONG else 8
        u, k = normal(1, 1, channels, l), normal(2, channels, l)
        for rung in DTYPES:
            native = 0.0
            for variant in VARIANTS:
                found, cost = variant_row(CANONICAL.replace(fft_impl=variant), variant, rung, u, k, native)
                native = native or cost
                yield found
                if (variant, rung) == ("native", "f32"):
                    extended = CANONICAL.replace(ep_fft=True, ep_freqmul=True)
                    bits = max(measure(u, k, norm).bits for norm in NORMS)
                    yield variant_row(extended, "ep", rung, u, k, native, bits)[0]


def variant_row(
    profile: HyperProfile, name: str, rung: str, u: Array, k: Array, native: float, bits: float | None = None
) -> tuple[Measured, float]:
    """Measure one: errors are the worst of the three places of the factor 1/n. Returns its processor time as well."""
    l, errors, constants = u.shape[-1], [], []
    with mx.stream(mx.cpu):
        signal, kernel = (mx.array(x.astype(np.float64), dtype=mx.float64).astype(DTYPES[rung]) for x in (u, k))
        skip = mx.zeros((u.shape[1],), dtype=DTYPES[rung])
        given = [np.array(x.astype(mx.float64)).astype(np.longdouble) for x in (signal, kernel)]
        truth, scale = truth_and_scale(*given)
        for norm in NORMS:
            run = convolve(profile.replace(fft_norm=norm), rung, signal, kernel, skip)
            error = np.array(run().astype(mx.float64)).astype(np.longdouble) - truth
            errors.append(float(np.linalg.norm(error.ravel()) / np.linalg.norm(truth.ravel())))
            per_channel = np.sqrt(np.mean(error**2, -1)) / scale
            u_log = RUNGS[rung].u * math.sqrt(math.log2(2 * l))  # type: ignore[index]
            constants.append(float(np.sqrt(np.mean(per_channel**2))) / u_log)
        run = convolve(profile, rung, signal, kernel, skip)
        cost, peak = milliseconds(run), peak_kib(run)
    price = cost / native if native else 1.0
    return Measured(name, l, rung, max(errors), max(constants), price, peak, bits), cost


def truth_and_scale(u: Array, k: Array) -> tuple[Array, Array]:
    """The 80-bit convolution, and S of each channel: S^2 = (|u|^2 |k|^2 + |y|^2) / 2l over all 2l samples of y."""
    l = u.shape[-1]
    product: Any = np.multiply(*(scipy.fft.rfft(x, 2 * l) for x in (u, k)))
    whole = np.asarray(scipy.fft.irfft(product, 2 * l))
    squares = np.sum(u**2, -1) * np.sum(k**2, -1) + np.sum(whole**2, -1)
    return whole[..., :l], np.sqrt(squares / (2 * l))


def convolve(profile: HyperProfile, rung: str, u: mx.array, k: mx.array, skip: mx.array) -> Callable[[], mx.array]:
    """The port's convolution as a rung runs it."""
    ops = float64_ops(profile) if rung == "f64" else Ops(profile)
    return lambda: mlx_impl.fftconv(u, k, skip, profile=profile, ops=ops)


def milliseconds(run: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Time of the shortest of several runs: of the processor, which other work disturbs less, unless told otherwise."""
    mx.eval(run())
    times: list[float] = []
    while len(times) < REPEATS or sum(times) < SHORTEST:
        start = clock()
        mx.eval(run())
        times.append(clock() - start)
    return 1000 * min(times)


def peak_kib(run: Callable[[], Any]) -> int:
    """Bytes that MLX holds at most beyond what was there, in KiB: the largest of three runs."""
    peaks = []
    for _ in range(3):
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        found = run()
        mx.eval(found)
        peaks.append(mx.get_peak_memory() - before)
        del found
    return round(max(peaks) / 1024)


# --- the historical claim -------------------------------------------------------------------------------------


def claim_rows(seeds: int = 10) -> Iterator[tuple[list[str], str]]:
    """Two float32 transforms against each other and against the truth; with each row, what it contradicts."""
    for l in (64, 256, 1024, 4096):
        largest, means, relative, constants, shares = [], [], [], [], []
        for seed in range(seeds):
            u, k = normal(2 * seed, 1, 4, l), normal(2 * seed + 1, 4, l)
            truth, scale = truth_and_scale(u.astype(np.longdouble), k.astype(np.longdouble))
            port = np.array(mlx_impl.fftconv(mx.array(u), mx.array(k), mx.zeros((4,))))
            other = reference_torch.fftconv(torch.tensor(u), torch.tensor(k), torch.zeros(4)).numpy()
            apart, errors = np.abs(port - other), [y.astype(np.longdouble) - truth for y in (port, other)]
            sizes = [float(np.linalg.norm(error.ravel())) for error in errors]
            largest.append(apart.max())
            means.append(apart.mean())
            relative.append(np.linalg.norm(apart.ravel()) / np.linalg.norm(truth.ravel()) / RUNGS["f32"].u)
            shares.append(np.linalg.norm(apart.ravel()) / math.hypot(*sizes))
            u_log = RUNGS["f32"].u * math.sqrt(math.log2(2 * l))
            constants.append([float(np.sqrt(np.mean(e**2) / np.mean(scale**2))) / u_log for e in errors])
        ours, theirs = np.sqrt(np.mean(np.square(constants), axis=0))
        cells = [
            str(l), f"{np.median(largest):.1e}", f"{max(largest):.1e}", f"{CLAIM[l]:.1e}" if l in CLAIM else "",
            f"{np.mean(means):.1e}", f"{np.mean(relative):.2f}", f"{ours:.2f}", f"{theirs:.2f}",
            f"{np.mean(shares):.2f}", f"{max(largest) / RUNGS['f32'].u / math.sqrt(l * math.log2(2 * l)):.1f}",
        ]  # fmt: skip
        wrong = [c for c in (ours, theirs) if c > allowed_constant(l)]
        reproduced = l not in CLAIM or 0.8 * CLAIM[l] <= max(largest) <= 1.25 * CLAIM[l]
        problem = f"claim L={l}: C {wrong}" if wrong else "" if reproduced else f"claim L={l}: {max(largest):.1e}"
        yield cells, problem


# --- gradients ------------------------------------------------------------------------------------------------

MEANINGS: Final = {
    "canonical": {},
    "mlx_stable": {"bidir_combine": "avg", "fft_norm": "backward"},
    "torch_avg": {"bidir_space": "freq", "bidir_combine": "avg"},
    "ortho": {"fft_norm": "ortho"},
}
DIFFERENTIATED: Final = (*VARIANTS, "ep", "monarch, strict")
KNOBS: Final[dict[str, dict[str, Any]]] = {
    "ep": {"ep_fft": True, "ep_freqmul": True},
    "monarch, strict": {"fft_impl": "monarch", "strict_kernels": True},
}


def knobs_of(variant: str) -> dict[str, Any]:
    """Numeric knobs of a row."""
    return KNOBS.get(variant, {"fft_impl": variant})


def gradient_rows() -> Iterator[tuple[list[str], str]]:
    """Gradients of every variant over the corpus of the pair `fftconv`, under all meanings; with what is exceeded."""
    pair = select(["fftconv"])[0]
    worst = {(variant, rung): [0.0, 0.0] for variant in DIFFERENTIATED for rung in ("f64", "f32")}
    for meaning in MEANINGS.values():
        for case in corpus_cases(pair, 0):
            bench = GradientBench(Bench(pair, case, CANONICAL.replace(**meaning), intermediates=False))
            for (variant, rung), seen in worst.items():
                profile = CANONICAL.replace(**meaning, **knobs_of(variant))
                for judgement in examine_gradients(bench, profile, RUNGS[rung]).judgements.values():  # type: ignore[index]
                    seen[0] = max(seen[0], judgement.ratio)
                    if judgement.port is not None and np.isfinite(judgement.port.rel_l2):
                        seen[1] = max(seen[1], judgement.port.rel_l2)
    for variant in DIFFERENTIATED:
        (ratio64, error64), (ratio32, error32) = worst[variant, "f64"], worst[variant, "f32"]
        slope, second = central_difference(variant), second_derivative(variant)
        problems = [
            f"gradients of {variant}: {says}"
            for says, wrong in (
                (f"f64 {error64:.1e}", error64 > FLOAT64_GRADIENT),
                (f"f64 over allowance {ratio64:.2f}", ratio64 > 1),
                (f"f32 over the noise floor {ratio32:.2f}", ratio32 > 1),
                (f"central differences {slope:.1e}", slope > FLOAT64_GRADIENT),
                (f"second derivatives {second:.1e}", second > FLOAT64_GRADIENT),
            )
            if wrong
        ]
        cells = [variant, f"{error64:.1e}", f"{error32 / RUNGS['f32'].u:.1f} u", f"{ratio32:.2f}"]
        yield [*cells, f"{slope:.1e}", f"{second:.1e}"], "; ".join(problems)


@dataclass(frozen=True)
class Problem:
    """Random operands u, k, D, k_rev of a small convolution in float64, and a direction for each."""

    l: int
    meaning: str

    def arrays(self, seed: int) -> list[Array]:
        """Operands or directions."""
        shapes = [(2, 5, self.l), (5, self.l), (5,), (5, self.l)]
        return [np.random.Generator(np.random.Philox(seed + i)).standard_normal(s) for i, s in enumerate(shapes)]

    def port(self, variant: str) -> Callable[..., mx.array]:
        """The convolution in float64 by a variant."""
        profile = CANONICAL.replace(**MEANINGS[self.meaning], **knobs_of(variant))
        ops = float64_ops(profile)
        return lambda *given: mlx_impl.fftconv(*given, profile=profile, ops=ops)

    def reference(self, *given: torch.Tensor) -> torch.Tensor:
        """The same in torch."""
        return reference_torch.fftconv(*given, profile=CANONICAL.replace(**MEANINGS[self.meaning]))


PROBLEMS: Final = [Problem(l, meaning) for l in (1, 3, 12, 127) for meaning in MEANINGS]


def wide(arrays: Sequence[Array]) -> list[mx.array]:
    """float64 arrays of MLX."""
    return [mx.array(x, dtype=mx.float64) for x in arrays]


def central_difference(variant: str) -> float:
    """Largest error of the slope along a direction, of all operands and of each alone, over |gradient| |direction|.

    The step is 1: along a line the convolution is a polynomial of the second degree, and the difference quotient exact.
    """
    errors = []
    with mx.stream(mx.cpu):
        for problem in PROBLEMS:
            run, at, along = problem.port(variant), wide(problem.arrays(0)), wide(problem.arrays(10))
            weights = wide(problem.arrays(20))[0]

            def loss(*given: mx.array, run: Any = run, weights: Any = weights) -> mx.array:
                return mx.sum(run(*given) * weights)

            slopes = mx.grad(loss, argnums=[0, 1, 2, 3])(*at)
            for chosen in ((0, 1, 2, 3), (0,), (1,), (2,), (3,)):
                step = [x if i in chosen else mx.zeros_like(x) for i, x in enumerate(along)]
                ahead, back = (loss(*(x + s * d for x, d in zip(at, step, strict=True))) for s in (1, -1))
                slope = sum(float(mx.sum(g * d)) for g, d in zip(slopes, step, strict=True))
                size = sum(float(mx.linalg.norm(g.reshape(-1)) * mx.linalg.norm(d.reshape(-1)))
                           for g, d in zip(slopes, step, strict=True))  # fmt: skip
                errors.append(abs(float(ahead - back) / 2 - slope) / size if size else abs(float(ahead - back)))
    return max(errors)


def second_derivative(variant: str) -> float:
    """Largest relative L2 error of the gradient of |gradient|^2 / 2 of a sum of sines, against torch in float64."""
    errors = []
    for problem in PROBLEMS:
        arrays, weights = problem.arrays(0), problem.arrays(20)[0]
        expected = second_by_torch(problem, arrays, weights)
        with mx.stream(mx.cpu):
            run, seen = problem.port(variant), wide([weights])[0]

            def loss(*given: mx.array, run: Any = run, seen: Any = seen) -> mx.array:
                y = run(*given)
                return mx.sum(y * y * seen)

            def squares(*given: mx.array, loss: Any = loss) -> mx.array:
                return sum(mx.sum(mx.square(g)) for g in mx.grad(loss, argnums=[0, 1, 2, 3])(*given)) / 2

            found = [np.array(g) for g in mx.grad(squares, argnums=[0, 1, 2, 3])(*wide(arrays))]
        errors += [np.linalg.norm(f - e) / (np.linalg.norm(e) or 1.0) for f, e in zip(found, expected, strict=True)]
    return float(max(errors))


def second_by_torch(problem: Problem, arrays: Sequence[Array], weights: Array) -> list[Array]:
    """The same by torch, its float64 transforms replaced where they are inaccurate."""
    with TrueTransforms():
        given = [torch.tensor(x, requires_grad=True) for x in arrays]
        loss = (problem.reference(*given).square() * torch.tensor(weights)).sum()
        first = torch.autograd.grad(loss, given, create_graph=True, materialize_grads=True)
        squares = sum(g.square().sum() for g in first) / 2
        found = torch.autograd.grad(squares, given, materialize_grads=True)
    return [g.numpy() for g in found]


def memory_rows() -> Iterator[list[str]]:
    """Peak memory in outputs (b, d, l), and time, of a value with its gradients: one convolution, and four in line."""
    for b, d, l in ((1, 64, 4096), (4, 64, 1024), (1, 256, 4096)):
        for chain in (1, 4):
            cells = [f"{b}, {d}, {l}", str(chain)]
            for variant in VARIANTS if d == 64 else VARIANTS[:3]:
                run = gradient_of_chain(variant, (b, d, l), chain)
                output = b * d * l * 4 / 1024
                cells += [f"{peak_kib(run) / output:.1f}", f"{milliseconds(run):.0f}"]
            yield cells + [""] * (10 - len(cells))


def gradient_of_chain(variant: str, shape: tuple[int, int, int], chain: int) -> Callable[[], Any]:
    """Value and gradients of so many convolutions with kernels of both directions, one behind the other."""
    ops, (b, d, l) = Ops(CANONICAL.replace(fft_impl=variant)), shape
    u, D = mx.array(normal(1, b, d, l)), mx.array(normal(2, d))
    kernels = [mx.array(normal(3 + i, d, l) / l) for i in range(2 * chain)]

    def loss(u: mx.array, kernels: list[mx.array], D: mx.array) -> mx.array:
        for k, k_rev in zip(kernels[::2], kernels[1::2], strict=True):
            u = mlx_impl.fftconv(u, k, D, k_rev, ops=ops)
        return mx.sum(mx.square(u))

    both = mx.value_and_grad(loss, argnums=[0, 1, 2])
    return lambda: both(u, kernels, D)


# --- block-diagonal products ----------------------------------------------------------------------------------

SHAPES_80M: Final = {"gated_layers": (4, 1536, 192), "wo": (4, 192, 768)}
"""(k, q, p) of the two layers of m2-bert-80m's state mixing."""


def blockdiag_rows() -> Iterator[tuple[list[str], str]]:
    """Every product at the shapes of m2-bert-80m; with each row, what it exceeds."""
    for layer, (k, q, p) in SHAPES_80M.items():
        weight = mx.array(normal(2, k, q, p))
        for rows in (1, 8, 128):
            x = mx.array(normal(1, 1, rows, k, p))
            exact, size = (
                np.einsum("...kp,kqp->...kq", a(np.array(x, dtype=np.float64)), a(np.array(weight, dtype=np.float64)))
                for a in (lambda z: z, np.abs)
            )
            base, bits = 0.0, None
            for name, kernel in BLOCKDIAG_KERNELS.items():
                y = np.array(kernel(x, weight))
                cost = milliseconds(lambda kernel=kernel, x=x, w=weight: kernel(x, w))
                base, bits = base or cost, y.tobytes() if bits is None else bits
                ratio = float((np.abs(y - exact) / size).max()) / RUNGS["f32"].u / math.sqrt(p)
                same = "yes" if y.tobytes() == bits else "no"
                cells = [layer, str(rows), name, f"{cost:.2f}", f"{base / cost:.2f}", same, f"{ratio:.2f}"]
                wrong = ratio > constant("matmul_max")
                yield cells, f"{name} at {layer}, {rows} rows: {ratio:.2f} sqrt(p) u |X||W|" if wrong else ""


# --- the report -----------------------------------------------------------------------------------------------

HEADER = """\
# Kernels of the long convolution and of the block-diagonal product, measured

Made by `nox -s kernels` on {machine}, MLX {version}, CPU. Times are of the processor, the shortest of {repeats}
or more.
{verdict}

## Convolutions: `fft_impl` and double-float32

Standard normal input against 80-bit transforms, one batch of eight channels, four from L = 8192 on; errors are
the worst over `fft_norm`. *error* is the relative L2 error in units of the rung's u. *C* is the rms error over
u sqrt(log2 2L) S, S^2 = (|u|^2 |k|^2 + |y|^2) / 2L over all 2L samples, pooled over the channels. *before
rounding* is double-float32's own relative L2 error. *bound*: at f32 of C, 0.80 exp(6 / sqrt(max(L, 16))), 2.3
times that where 2L has a prime factor above 7; at f64 of the relative L2 error; of double-float32 of its bits;
in sixteen bits of the error, one rounding. *time* is over `native` at the same rung; at f64 that is the float64
library of the harness. *peak* is in KiB.

| L | variant | rung | error | C | before rounding | bound | time | peak |
|---|---|---|---|---|---|---|---|---|
"""

CLAIM_TEXT = """
## The historical claim: two equally good float32 transforms

It was reported that this port differs from torch by at most 4.3e-6 at L = 64 and 6.9e-5 at L = 4096, for
standard normal input. Ten seeds of four channels: the largest differences are these, and they say nothing of an
inaccuracy. Either side lies equally far from the 80-bit truth (*C*, native then torch), the errors are nearly
independent (*share*: rms difference over the root of the sum of the squared errors; 1 if independent), and in
units of u the difference is a few units relative to the result. What grows is the result itself: y is a sum of
L products, so its size grows as sqrt(L), the error of a transform as sqrt(log2 2L), and the largest of more
samples a little more: *crest* is the largest difference over u sqrt(L log2 2L).

| L | largest, median | largest, worst | claimed | mean | relative L2 in u | C native | C torch | share | crest |
|---|---|---|---|---|---|---|---|---|---|
"""

GRADIENT_TEXT = """
## Gradients of the convolution

Of u, k, D and k_rev, over the corpus of the pair `fftconv` under four meanings and places of 1/n, against
torch's float64. *f64* and *f32*: largest relative L2 error. *over the floor*: largest error at f32 over the
allowance of `parity/tolerance.py`, which is six times the predicted noise. *central*: slopes against central
differences in float64, over |gradient| |direction|; the convolution is a polynomial of the second degree along
a line, so the quotient has no error of truncation. *second*: gradient of the squared gradient against torch in
float64. Bounds: 1e-11 at f64, 1 of the floor.

| variant | f64 | f32 | over the floor | central | second |
|---|---|---|---|---|---|
"""

MEMORY_TEXT = """
## What a value with its gradients takes

Peak memory in outputs (b, d, l), and processor ms, of one convolution and of four in line, both directions.
`native` has MLX's own derivative, which is a complex transform of the whole length and keeps the spectra of the
forward pass. The others transform half spectra, share the cotangent's spectrum between both gradients and compute
the spectra of u and k again.

| b, d, l | in line | native | ms | channel_batched | ms | streamed | ms | monarch | ms |
|---|---|---|---|---|---|---|---|---|---|
"""

BLOCKDIAG_TEXT = """
## Block-diagonal products at the shapes of m2-bert-80m

*faster* is einsum's time over this one's; *bits*: whether they are einsum's; *error*: largest |e| over sqrt(p)
u (|X||W|), which may be {allowed:g} for every kernel and library: two of them are within twice that of each
other.

| layer | rows | kernel | ms | faster | bits | error |
|---|---|---|---|---|---|---|
"""


def main(arguments: Sequence[str] = ()) -> int:
    """Measure, write the report, and answer 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPORT, help="where the report goes")
    parser.add_argument("--length", type=int, nargs="*", default=LENGTHS, help="lengths of the first table")
    parser.add_argument("--only-convolutions", action="store_true", help="the first table alone")
    chosen = parser.parse_args(list(arguments))
    mx.set_default_device(mx.cpu)
    torch.set_num_threads(1)
    rows = list(convolution_rows(chosen.length))
    problems = [row.exceeded for row in rows]
    sections = [HEADER, *(line(row.cells()) for row in rows)]
    if not chosen.only_convolutions:
        for text, found in (
            (CLAIM_TEXT, claim_rows()),
            (GRADIENT_TEXT, gradient_rows()),
            (MEMORY_TEXT, ((cells, "") for cells in memory_rows())),
            (BLOCKDIAG_TEXT, blockdiag_rows()),
        ):
            pairs = list(found)
            sections += [text, *(line(cells) for cells, _ in pairs)]
            problems += [problem for _, problem in pairs]
    problems = [problem for problem in problems if problem]
    verdict = "Every bound holds." if not problems else "EXCEEDED: " + "; ".join(problems)
    text = "".join(sections).replace("{verdict}", verdict).replace("{repeats}", str(REPEATS))
    text = text.replace("{machine}", platform.machine()).replace("{version}", mx.__version__)
    chosen.out.write_text(text.replace("{allowed:g}", f"{constant('matmul_max'):g}"), encoding="utf-8")
    sys.stdout.write(f"{verdict}\n")
    return 1 if problems else 0


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
