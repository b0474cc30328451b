"""The full metric set of a pair in two passes over blocks, on several threads, to the bit that whole-array NumPy gives.

The first pass sums and counts. The second keeps what has to be ranked, and sums squares about the mean where it
outweighs the spread; float32 pairs seldom need it, as their errors in ulps are whole numbers. Both are
compiled where numba is installed and no value is so large or so small that a scale would matter; NumPy does the rest,
with the same bits. Integers do not depend on the order in which they are added, and sums are put together in the order
of `parity.metrics.engine.tree`: how many threads there are changes nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from parity.metrics.arrays import Index, as_array, unravel
from parity.metrics.engine import plain
from parity.metrics.engine.pair import STEP_EDGES, PairMetrics, StepMetrics, channels, rung_of
from parity.metrics.engine.parts import (
    ABOVE_EDGE,
    BIN_SHIFT,
    COMMON,
    KEPT,
    SINGLE_STEPS,
    SINGLE_ULPS,
    TARGETS,
    Blocks,
    Counts,
    Histogram,
    Kept,
    Window,
    bin_of,
    bits_of,
    form_of,
)
from parity.metrics.engine.select import Target, narrow, settle, targets, value_of
from parity.metrics.engine.tensors import TensorPair, is_single
from parity.metrics.engine.tree import Block, blocks, combine
from parity.metrics.error import ErrorMetrics, Norm, Signed, power_of_two, scaled_bias, z_score
from parity.metrics.special import SpecialValues, compare_special
from parity.metrics.ulp import ULP_EDGES, ulp
from parity.spec.arrays import Array
from parity.spec.precision import Rung

Kernels = Literal["auto", "numpy", "compiled"]

COMPILED_BLOCK: Final = 1 << 17
"""Elements of a block of the compiled kernels: two of float32 fill half of a second cache of 2 MiB."""
SINGLE_BLOCK: Final = 1 << 18
"""Elements of a block of the kernel of float32 pairs, which reads them once and takes as long as 20 calls of NumPy."""
NUMPY_BLOCK: Final = 1 << 15
"""Elements of a block of NumPy: six arrays of float64 fill most of a second cache of 2 MiB."""
COMPILED_FROM: Final = 1 << 18
"""Elements below which loading the compiler costs more than it saves."""
THREADS: Final = 8
"""Threads at most, unless asked for: each holds some 10 MiB, and eight outrun the memory of a desktop machine."""
MODERATE: Final = 240
"""Binades about 1 in which squares, their sums and a difference from a mean stay normal, whatever the scale.

The least that occurs is the square of a difference, (2**-240 * 2**-53)**2 in units of the largest, twice over.
"""

_LARGEST: Final = float(np.finfo(np.float64).max)
_FRACTION: Final = 52
_BIAS: Final = 1023
_COMMON_BITS: Final = bits_of(np.arange(float(COMMON)))
_AT_EDGE: Final = _COMMON_BITS & ABOVE_EDGE == 0
_SEVERAL: Final = bin_of(128.0)
"""The first bin that holds several whole numbers."""
_Values = npt.NDArray[Any]
_Task = TypeVar("_Task")


def measure_pair(
    actual: _Values,
    truth: _Values,
    channel_axis: int | None = None,
    threads: int | None = None,
    kernels: Kernels = "auto",
) -> PairMetrics:
    """Measure a computed tensor against its truth; every bit is that of `measure_pair_plain`.

    Args:
        actual: float64, float32, bfloat16 or float16, any shape and strides; its dtype is the format.
        truth: reals of the same shape.
        channel_axis: The axis of `PairMetrics.channel_max`.
        threads: How many threads work; default: one a processor, at most 8.
        kernels: "compiled" asks for numba, "numpy" does without; "auto" takes it for large tensors where it is there.

    Raises:
        ValueError: The shapes differ, the dtype is no format, there is no such axis, or no thread is to work.
        ModuleNotFoundError: Compiled kernels are asked for without numba.
    """
    return _work(actual, truth, channel_axis, threads, kernels, True).measure()


def measure_error(
    actual: _Values, truth: _Values, threads: int | None = None, kernels: Kernels = "auto"
) -> ErrorMetrics:
    """Measure a computed tensor against its truth, without steps and channels; every bit is that of `measure_pair`.

    Args:
        actual, truth, threads, kernels: As of `measure_pair`.

    Raises:
        ValueError, ModuleNotFoundError: As of `measure_pair`.
    """
    return _work(actual, truth, None, threads, kernels, False).measure().error


def _work(
    actual: _Values, truth: _Values, channel_axis: int | None, threads: int | None, kernels: Kernels, wants_steps: bool
) -> _Work:
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; at least one has to work: give 1 or more, or None")
    compiled = _use_compiled(kernels, actual.size)
    rung = rung_of(actual)
    single = compiled and rung.name == "f32" and is_single(actual) and is_single(truth)
    limit = SINGLE_BLOCK if single else COMPILED_BLOCK if compiled else NUMPY_BLOCK
    count, every = channels(actual.shape, channel_axis)
    workers = threads or default_threads()
    pair = TensorPair(actual, truth, limit)
    return _Work(pair, rung, compiled, single, limit, workers, count, every, wants_steps)


def default_threads() -> int:
    """Return how many threads work where nobody says: one a processor, at most `THREADS`."""
    return min(os.cpu_count() or 1, THREADS)


def _use_compiled(kernels: Kernels, size: int) -> bool:
    if kernels == "auto":
        return size >= COMPILED_FROM and importlib.util.find_spec("numba") is not None
    return kernels == "compiled"


class _Seen(NamedTuple):
    """What is seen of a block before anything is left out."""

    special: SpecialValues
    finite: int


@dataclass(frozen=True)
class _First:
    """The first pass: sums in units of `scales` and their squares, one `Counts` a worker; by which kernels."""

    blocks: Blocks
    counts: list[Counts]
    scales: tuple[float, float]
    compiled: bool
    single: bool = False

    def ulps(self, rung: Rung) -> Histogram:
        """Count errors in ulps; against a truth of the format, most are whole numbers: edges of bins."""
        window = SINGLE_ULPS if self.single else self._occupied(rung) if self.compiled else Window()
        halves = window.cut([part.ulp_bins.reshape(-1, 2) for part in self.counts])
        found = Histogram(window, halves.sum(axis=1), halves[:, 0].copy())
        return self._with_common(found) if self.single else found

    def _occupied(self, rung: Rung) -> Window:
        """Return the bins in which errors in ulps may lie, few of all: but for 0 from min|e|/ulp(max|T|) on."""
        least = int(np.min([part.sizes[0, 1] for part in self.counts])) + 1
        most = value_of(int(np.max([part.sizes[1, 0] for part in self.counts])))
        highest = float(self.blocks.extremes[:, 2].max())
        if highest == 0.0:
            return Window(1, 1)
        return Window(max(1, bin_of(value_of(least) / float(ulp(most, rung)))), bin_of(highest) + 1)

    def steps(self) -> Histogram:
        """Count distances: below 128 a bin holds one whole number, its lower edge."""
        window = SINGLE_STEPS if self.single else Window()
        bins = window.cut([part.step_bins for part in self.counts])
        edges = bins.copy()
        edges[max(_SEVERAL - window.first + 1, 1) :] = 0
        found = Histogram(window, bins, edges)
        return self._with_common(found) if self.single else found

    def _with_common(self, histogram: Histogram) -> Histogram:
        """Add the whole numbers that have a counter each."""
        common = functools.reduce(np.add, [part.common for part in self.counts])
        at = np.maximum((_COMMON_BITS >> BIN_SHIFT) - histogram.window.first + 1, 0)
        np.add.at(histogram.bins, at, common)
        np.add.at(histogram.edges, at, np.where(_AT_EDGE, common, 0))
        return histogram

    def correct(self, steps: Histogram | None) -> int:
        """Count the correctly rounded; of float32 pairs, those no step apart."""
        return int(steps.bins[0]) if self.single and steps else sum(part.correct for part in self.counts)

    def sum(self, column: int) -> float:
        return combine([float(value) for value in self.blocks.sums[:, column]], self.blocks.nodes)


class _Work:
    """One pair being measured."""

    def __init__(
        self,
        pair: TensorPair,
        rung: Rung,
        compiled: bool,
        single: bool,
        limit: int,
        workers: int,
        channel_count: int,
        every: int,
        wants_steps: bool,
    ) -> None:
        self._pair, self._rung, self._compiled, self._single = pair, rung, compiled, single
        self._limit, self._workers = limit, workers
        self._channels, self._every = channel_count, every
        self._wants_steps = wants_steps

    def measure(self) -> PairMetrics:
        counts, largest = self._counts(), [np.zeros(self._channels) for _ in range(self._workers)]
        whole = Blocks.empty(self._pair.reads)
        seen = self._share(
            self._pair.reads, lambda worker, at, node: self._look(node, largest[worker], whole, at, counts[worker])
        )
        finite = [part.finite for part in seen]
        total = sum(finite)
        channel_max = np.minimum(np.max(largest, axis=0), _LARGEST)
        special = _together(seen, self._pair)
        if total == 0:
            return PairMetrics(ErrorMetrics(), special, StepMetrics(), tuple(channel_max.tolist()))
        first: _First | None = _First(whole, counts, (1.0, 1.0), True, self._single)
        if total < self._pair.size:
            self._pair.leave_out(finite)
            first = self._first_compiled(total) if self._compiled else None
        if first is None or not self._compiled or not (self._single or _moderate(first.counts, self._rung)):
            first = self._first_plain(total)
        error, steps = self._finish(first, total)
        return PairMetrics(error, special, steps, tuple(channel_max.tolist()))

    # --- passes ---------------------------------------------------------------------------------------

    def _look(self, node: Block, largest: Array, whole: Blocks, at: int, counts: Counts) -> _Seen:
        """See to special values and channels of a block, and, as it is in the cache, to the first pass."""
        actual, truth = self._pair.raw(node.start, node.stop)
        reduced = self._reduce_single(actual, truth, whole, at, counts) if self._single else None
        seen = reduced or self._special(actual, truth)
        if self._channels:
            self._raise_channels(actual, truth, node, seen, largest)
        if self._compiled and not reduced and seen.finite == node.size:
            self._reduce(actual, truth, whole, at, counts)
        return seen

    def _raise_channels(self, actual: _Values, truth: _Values, node: Block, seen: _Seen, largest: Array) -> None:
        if self._compiled and seen.finite == node.size:
            from parity.metrics.engine import compiled

            compiled.channel_max(actual, truth, node.start, self._every, self._channels, largest)
        else:
            plain.channel_max(as_array(actual), as_array(truth), node.start, self._every, self._channels, largest)

    def _special(self, actual: _Values, truth: _Values) -> _Seen:
        if self._compiled and self._ordinary(actual) and self._ordinary(truth):
            return _Seen(SpecialValues(), actual.size)
        finite = int(np.count_nonzero(np.isfinite(actual) & np.isfinite(truth)))
        return _Seen(compare_special(as_array(actual), as_array(truth), self._rung), finite)

    def _ordinary(self, values: _Values) -> bool:
        from parity.metrics.engine import compiled

        integer = np.dtype(f"i{values.dtype.itemsize}").type
        # A narrow truth of a wide format has its own least normal number, and subnormal ones below that.
        least = max(self._rung.tiny, rung_of(values).tiny)
        tiny, infinity = np.array([least, np.inf], values.dtype).view(integer)
        return bool(compiled.ordinary(values.view(integer), np.iinfo(integer).max, tiny, infinity))

    def _reduce_single(self, actual: _Values, truth: _Values, into: Blocks, at: int, counts: Counts) -> _Seen | None:
        """Reduce a block of float32 pairs; None, and nothing of use counted, where one is not finite."""
        from parity.metrics.engine import single

        special = np.zeros(3, np.int64)
        counters = counts.ulp_bins, counts.step_bins, counts.common
        finite = single.first_pass(actual, truth, into.sums[at], into.extremes[at], counts.sizes, counters, special)
        zero, negative_zero, subnormal = special.tolist()
        found = SpecialValues(zero=zero, negative_zero=negative_zero, subnormal=subnormal)
        return _Seen(found, actual.size) if finite else None

    def _reduce(self, actual: _Values, truth: _Values, into: Blocks, at: int, counts: Counts) -> None:
        from parity.metrics.engine import compiled

        counts.correct += compiled.first_pass(
            actual,
            truth,
            tuple(form_of(self._rung)),
            into.sums[at],
            into.extremes[at],
            counts.sizes,
            counts.ulp_bins,
            counts.step_bins,
            self._wants_steps,
        )

    def _first_compiled(self, total: int) -> _First:
        into, counts = Blocks.empty(blocks(total, self._limit)), self._counts()

        def reduce(worker: int, at: int, node: Block) -> None:
            actual, truth = self._pair.finite_pairs(node.start, node.stop)
            (self._reduce_single if self._single else self._reduce)(actual, truth, into, at, counts[worker])

        self._share(into.nodes, reduce)
        return _First(into, counts, (1.0, 1.0), True, self._single)

    def _first_plain(self, total: int) -> _First:
        into, counts = Blocks.empty(blocks(total, NUMPY_BLOCK)), [Counts() for _ in range(self._workers)]
        most = self._share(into.nodes, lambda _, __, node: plain.largest(*self._numbers(node)))
        scales = power_of_two(max(error for error, _ in most)), power_of_two(max(truth for _, truth in most))

        def reduce(worker: int, at: int, node: Block) -> None:
            plain.first_pass(*self._numbers(node), self._rung, scales, into.sums[at], into.extremes[at], counts[worker])

        self._share(into.nodes, reduce)
        return _First(into, counts, scales, False)

    def _second(
        self, first: _First, scale: float, mean: float, wanted: Sequence[Target | None]
    ) -> tuple[float, list[Kept]]:
        """Return the sum of (e/scale - mean)**2, and what is kept of the bins that are wanted."""
        room = min(KEPT, max((target.count for target in wanted if target), default=0))
        kept = [Kept.empty(room) for _ in range(self._workers)]
        bins = np.array([target.bin if target else -1 for target in wanted])
        half, form = TARGETS // 2, tuple(form_of(self._rung))

        def reduce(worker: int, _: int, node: Block) -> float:
            if not first.compiled:
                return plain.second_pass(*self._numbers(node), self._rung, scale, mean, bins, kept[worker])
            from parity.metrics.engine import compiled

            actual, truth = self._pair.finite_pairs(node.start, node.stop)
            found = kept[worker]
            total = compiled.second_pass(
                actual, truth, form, mean * scale, bins[:half], bins[half:], found.values, found.states
            )
            return float(total) / scale / scale

        return combine(self._share(first.blocks.nodes, reduce), first.blocks.nodes), kept

    # --- what the passes give -------------------------------------------------------------------------

    def _finish(self, first: _First, total: int) -> tuple[ErrorMetrics, StepMetrics]:
        extremes = first.blocks.extremes
        high, low = float(extremes[:, 0].max()), float(extremes[:, 1].min())
        norm, truth = self._norms(first, max(high, -low), total)
        mean = first.sum(0) * (first.scales[0] / norm.scale) / total
        in_ulps = first.ulps(self._rung)
        in_steps = first.steps() if self._wants_steps or self._single else None
        found = targets(in_ulps) + (targets(in_steps) if in_steps else ())
        known = [target.at_edge() for target in found]
        wanted = [target if value is None else None for target, value in zip(found, known, strict=True)]
        wanted += [None] * (TARGETS - len(wanted))
        second = functools.cache(lambda: self._second(first, norm.scale, mean, wanted))
        quantiles = [
            value if value is not None else self._quantile(target, index, first, second()[1])
            for index, (target, value) in enumerate(zip(found, known, strict=True))
        ]
        squares = first.sum(1) * (first.scales[0] / norm.scale) * (first.scales[0] / norm.scale)
        # One value throughout has no spread, which the rounding of its mean would hide.
        z = 0.0 if high == low else z_score(total, mean, squares, lambda: second()[0])
        signed = Signed(norm, self._position(first, norm.largest), mean, z)
        error = ErrorMetrics(
            count=total,
            max_abs=norm.largest,
            max_abs_index=unravel(signed.position, self._pair.shape),
            rms=norm.rms,
            truth_rms=truth.rms,
            truth_max=truth.largest,
            rel_l2=norm.over(truth),
            ulp_p50=quantiles[0],
            ulp_p99=quantiles[1],
            ulp_max=float(extremes[:, 2].max()),
            bias=scaled_bias(signed, truth, self._rung),
            bias_z=z,
            correctly_rounded=first.correct(in_steps) / total,
            ulp_counts=in_ulps.between(ULP_EDGES),
        )
        if in_steps is None:
            return error, StepMetrics()
        steps = StepMetrics(quantiles[2], quantiles[3], float(extremes[:, 3].max()), in_steps.between(STEP_EDGES))
        return error, steps

    def _norms(self, first: _First, largest: float, total: int) -> tuple[Norm, Norm]:
        truth_max = float(np.max([part.sizes[1, 0] for part in first.counts]).view(np.float64))
        found = []
        for column, most, unit in ((1, largest, first.scales[0]), (2, truth_max, first.scales[1])):
            scale = power_of_two(most)
            root = math.sqrt(first.sum(column) * (unit / scale) * (unit / scale))
            found.append(Norm(total, most, scale, root))
        return found[0], found[1]

    def _position(self, first: _First, largest: float) -> int:
        """Find the first |e| that is the largest: in the first block that has it."""
        at = int(np.argmax(np.maximum(first.blocks.extremes[:, 0], -first.blocks.extremes[:, 1]) == largest))
        node = first.blocks.nodes[at]
        if first.compiled:
            from parity.metrics.engine import compiled

            return self._pair.position(
                node.start + compiled.first_of(*self._pair.finite_pairs(node.start, node.stop), largest)
            )
        return self._pair.position(node.start + int(np.argmax(np.abs(plain.errors(*self._numbers(node))) == largest)))

    def _quantile(self, target: Target, index: int, first: _First, kept: Sequence[Kept]) -> float:
        value = settle(target, index, kept)
        if value is not None:
            return value

        def ranked() -> Iterator[npt.NDArray[np.int64]]:
            for node in blocks(first.blocks.nodes[-1].stop, NUMPY_BLOCK):
                yield plain.ranked(*self._numbers(node), self._rung, index >= TARGETS // 2)

        return narrow(target, ranked)

    # --- threads --------------------------------------------------------------------------------------

    def _counts(self) -> list[Counts]:
        if self._wants_steps or self._single:
            return [Counts() for _ in range(self._workers)]
        return [Counts(step_bins=np.zeros(0, np.int64)) for _ in range(self._workers)]

    def _numbers(self, node: Block) -> tuple[Array, Array]:
        actual, truth = self._pair.finite_pairs(node.start, node.stop)
        return as_array(actual), as_array(truth)

    def _share(self, nodes: Sequence[Block], task: Callable[[int, int, Block], _Task]) -> list[_Task]:
        """Do a task for every block, each worker the next that waits; the answers come in the order of the blocks."""
        waiting, answers = iter(range(len(nodes))), dict[int, _Task]()

        def run(worker: int) -> None:
            for at in waiting:
                answers[at] = task(worker, at, nodes[at])

        if self._workers == 1 or len(nodes) == 1:
            run(0)
        else:
            with ThreadPoolExecutor(self._workers) as pool:
                for done in [pool.submit(run, worker) for worker in range(self._workers)]:
                    done.result()
        return [answers[at] for at in range(len(nodes))]


def _moderate(counts: Sequence[Counts], rung: Rung) -> bool:
    """Say whether no scale can change a bit, no inverse overflows and no rounded truth is infinite."""
    largest = np.max([part.sizes[:, 0] for part in counts], axis=0)
    least = np.min([part.sizes[:, 1] for part in counts], axis=0)
    for most, few in zip(largest, least, strict=True):
        if most == 0:
            continue
        high, low = (int(bits) >> _FRACTION for bits in (most, few))
        if high - _BIAS > MODERATE or _BIAS - low > MODERATE or high - low > MODERATE:
            return False
    return float(largest[1].view(np.float64)) <= rung.maximum / 2


def _together(seen: Sequence[_Seen], pair: TensorPair) -> SpecialValues:
    """Add up the special values of all blocks."""
    parts = [part.special for part in seen]
    return SpecialValues(
        nan=sum(part.nan for part in parts),
        inf=sum(part.inf for part in parts),
        zero=sum(part.zero for part in parts),
        negative_zero=sum(part.negative_zero for part in parts),
        subnormal=sum(part.subnormal for part in parts),
        nan_index=_first_index([part.nan_index for part in parts], pair),
        inf_index=_first_index([part.inf_index for part in parts], pair),
    )


def _first_index(found: Sequence[Index | None], pair: TensorPair) -> Index | None:
    for node, index in zip(pair.reads, found, strict=True):
        if index is not None:
            return unravel(node.start + index[0], pair.shape)
    return None
