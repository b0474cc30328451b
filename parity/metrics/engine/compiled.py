"""Kernels over one block, compiled by numba: they see each element while it is in the first cache.

Every sum is formed in the order of `parity.metrics.engine.tree`. A loop that writes an array element by element becomes
vector instructions; a reduction of floats does not, since that would reorder it: extremes are kept in as many lanes as
a leaf has elements, sums in NumPy's eight. Every quotient here is by a power of two and formed as a product with its
inverse, which gives the same bits so long as nothing leaves float64's range: the caller sees to that by `Extremes`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from parity.metrics.engine.jit import kernels_of
from parity.metrics.engine.lanes import lane_sums
from parity.metrics.engine.parts import ABOVE_EDGE, BIN_SHIFT, BINS, COPIES
from parity.metrics.engine.tree import LANES, LEAF

DEPTH: Final = 64
"""Halvings at most."""
_EXPONENT: Final = np.int64(0x7FF0_0000_0000_0000)
_INVERSE: Final = np.int64(2046 << 52)
"""Less the bits of a power of two: the bits of its inverse."""
_MAGNITUDE: Final = np.int64(0x7FFF_FFFF_FFFF_FFFF)
_ABOVE_EDGE: Final = np.int64(ABOVE_EDGE)
_ONE: Final = np.uint64(1)
_TWO: Final = np.uint64(2)

_jit = kernels_of(__file__, ("lanes.py", "parts.py", "tree.py"), "773feec794afe12f")


@_jit
def ordinary(bits: Any, magnitude: Any, tiny: Any, infinity: Any) -> Any:
    """Say whether a block, seen as integers, holds nothing but normal numbers: no zero, subnormal, infinity, NaN."""
    odd = 0
    for i in range(bits.size):
        size = bits[i] & magnitude
        odd += (size < tiny) | (size >= infinity)
    return odd == 0


@_jit
def channel_max(actual: Any, truth: Any, start: Any, every: Any, count: Any, largest: Any) -> None:
    """Raise `largest`, one entry a channel, to max|e| of a block of finite numbers at flat position `start`."""
    done = 0
    while done < actual.size:
        position = start + done
        channel = (position // every) % count
        if every == 1:
            size = min(count - channel, actual.size - done)
            _raise_each(actual[done : done + size], truth[done : done + size], largest[channel : channel + size])
        else:
            size = min(every - position % every, actual.size - done)
            _raise_one(actual[done : done + size], truth[done : done + size], largest[channel : channel + 1])
        done += size


@_jit
def _raise_each(actual: Any, truth: Any, largest: Any) -> None:
    for i in range(actual.size):
        error = abs(np.float64(actual[i]) - np.float64(truth[i]))
        largest[i] = error if error > largest[i] else largest[i]


@_jit
def _raise_one(actual: Any, truth: Any, largest: Any) -> None:
    most = largest[0]
    for i in range(actual.size):
        error = abs(np.float64(actual[i]) - np.float64(truth[i]))
        most = error if error > most else most
    largest[0] = most


@_jit
def first_pass(
    actual: Any,
    truth: Any,
    form: Any,
    sums: Any,
    extremes: Any,
    sizes: Any,
    ulp_bins: Any,
    step_bins: Any,
    wants_steps: Any,
) -> Any:
    """Reduce a block: sums of e, e**2, T**2; a row of `Blocks.extremes`; what `Counts` counts, of steps if wanted.

    Returns:
        How many elements are correctly rounded.
    """
    tiny_bits, _, grow, shrink, shift = form
    # Views are made once, since each is counted as a reference to its array.
    error, exact, inverse, ulps = np.empty(LEAF), np.empty(LEAF), np.empty(LEAF), np.empty(LEAF)
    rounded, scaled, steps = np.empty(LEAF), np.empty(LEAF), np.empty(LEAF)
    spread, ulps_high, steps_high = np.full(2 * LANES, -np.inf), np.zeros(LEAF), np.zeros(LEAF)
    spread[LANES:] = np.inf
    error_bits, exact_bits, inverse_bits = error.view(np.int64), exact.view(np.int64), inverse.view(np.int64)
    ulp_bits, scaled_bits, step_bits = ulps.view(np.int64), scaled.view(np.int64), steps.view(np.int64)
    waiting, values, depths = np.empty((DEPTH, 2), np.int64), np.empty((DEPTH, 3)), np.empty(DEPTH, np.int64)
    waiting[0, 0], waiting[0, 1], ahead, held, start, correct = actual.size, 0, 1, 0, 0, 0
    error_sizes, exact_sizes = sizes[0], sizes[1]
    while ahead:
        leaf, depth, ahead = next_leaf(waiting, ahead)
        # An index that may be negative keeps a loop from becoming vector instructions.
        begin, size = np.uint64(start), np.uint64(leaf)
        values[held, 0], values[held, 1], values[held, 2] = leaf_sums(actual, truth, start, leaf, spread)
        depths[held] = depth
        held = add_siblings(values, depths, held + 1)
        _errors(actual, truth, begin, size, error, exact)
        _range(error_bits, error_sizes, size)
        _range(exact_bits, exact_sizes, size)
        _inverses(exact_bits, size, inverse_bits, tiny_bits)
        correct += _ulps(actual, begin, size, exact, inverse, ulps, rounded, grow)
        raise_all(ulps, ulps_high, size)
        count_with_edges(ulp_bits, ulp_bins, size)
        if wants_steps:
            _scale(actual, begin, size, scaled, shrink)
            _steps(size, exact_bits, rounded, scaled_bits, steps, tiny_bits, shift)
            raise_all(steps, steps_high, size)
            count(step_bits, step_bins, size)
        start += leaf
    sums[0], sums[1], sums[2] = values[0, 0], values[0, 1], values[0, 2]
    extremes[0], extremes[1] = spread[:LANES].max(), spread[LANES:].min()
    extremes[2], extremes[3] = ulps_high.max(), steps_high.max()
    return correct


@_jit
def second_pass(
    actual: Any, truth: Any, form: Any, mean: Any, ulp_targets: Any, step_targets: Any, kept: Any, states: Any
) -> Any:
    """Sum (e - mean)**2 over a block, and keep the errors in ulps and the steps whose bins are wanted.

    `kept` has one row a target, `states` its fill, least and largest bits; two targets of ulps, then two of steps.
    """
    tiny_bits, _, grow, shrink, shift = form
    error, exact, inverse, ulps = np.empty(LEAF), np.empty(LEAF), np.empty(LEAF), np.empty(LEAF)
    rounded, scaled, steps, square = np.empty(LEAF), np.empty(LEAF), np.empty(LEAF), np.empty(LEAF)
    exact_bits, inverse_bits, scaled_bits = exact.view(np.int64), inverse.view(np.int64), scaled.view(np.int64)
    ulp_bits, step_bits = ulps.view(np.int64), steps.view(np.int64)
    waiting, values, depths = np.empty((DEPTH, 2), np.int64), np.empty((DEPTH, 3)), np.empty(DEPTH, np.int64)
    waiting[0, 0], waiting[0, 1], ahead, held, start = actual.size, 0, 1, 0, 0
    wants_ulps, wants_steps = ulp_targets.max() >= 0, step_targets.max() >= 0
    found = np.empty(LEAF, np.int64)
    while ahead:
        leaf, depth, ahead = next_leaf(waiting, ahead)
        begin, size = np.uint64(start), np.uint64(leaf)
        _errors(actual, truth, begin, size, error, exact)
        for i in range(size):
            apart = error[i] - mean
            square[i] = apart * apart
        values[held, 0], values[held, 1], values[held, 2] = _leaf_sum(square, leaf), 0.0, 0.0
        depths[held] = depth
        held = add_siblings(values, depths, held + 1)
        if wants_ulps or wants_steps:
            _inverses(exact_bits, size, inverse_bits, tiny_bits)
            _ulps(actual, begin, size, exact, inverse, ulps, rounded, grow)
            _keep(ulps, ulp_bits, ulp_targets, 0, found, kept, states, size)
        if wants_steps:
            _scale(actual, begin, size, scaled, shrink)
            _steps(size, exact_bits, rounded, scaled_bits, steps, tiny_bits, shift)
            _keep(steps, step_bits, step_targets, ulp_targets.size, found, kept, states, size)
        start += leaf
    return values[0, 0]


@_jit
def first_of(actual: Any, truth: Any, largest: Any) -> Any:
    """Return the position of the first |e| that is `largest` in a block that has it."""
    for i in range(actual.size):
        if abs(np.float64(actual[i]) - np.float64(truth[i])) == largest:
            return i
    return -1


@_jit
def next_leaf(waiting: Any, ahead: Any) -> Any:
    """Take the next leaf off the stack of runs that wait: NumPy's halving, first half first."""
    while waiting[ahead - 1, 0] > LEAF:
        size, depth = waiting[ahead - 1, 0], waiting[ahead - 1, 1]
        first = size // 2
        first -= first % LANES
        waiting[ahead - 1, 0], waiting[ahead - 1, 1] = size - first, depth + 1
        waiting[ahead, 0], waiting[ahead, 1] = first, depth + 1
        ahead += 1
    return waiting[ahead - 1, 0], waiting[ahead - 1, 1], ahead - 1


@_jit
def add_siblings(values: Any, depths: Any, held: Any) -> Any:
    """Add siblings that are both there."""
    while held > 1 and depths[held - 1] == depths[held - 2]:
        for i in range(3):
            values[held - 2, i] += values[held - 1, i]
        depths[held - 2] -= 1
        held -= 1
    return held


@_jit
def _leaf_sum(values: Any, size: Any) -> Any:
    """Add a leaf in NumPy's order."""
    total = 0.0
    if size < LANES:
        for i in range(size):
            total += values[i]
        return total
    r0, r1, r2, r3 = values[0], values[1], values[2], values[3]
    r4, r5, r6, r7 = values[4], values[5], values[6], values[7]
    whole = size - size % LANES
    for i in range(LANES, whole, LANES):
        r0 += values[i]
        r1 += values[i + 1]
        r2 += values[i + 2]
        r3 += values[i + 3]
        r4 += values[i + 4]
        r5 += values[i + 5]
        r6 += values[i + 6]
        r7 += values[i + 7]
    total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
    for i in range(whole, size):
        total += values[i]
    return total


@_jit
def leaf_sums(actual: Any, truth: Any, start: Any, size: Any, spread: Any) -> Any:
    """Sum e, e**2, T**2 of a leaf in NumPy's order, and raise the eight highest and the eight lowest e in `spread`."""
    whole = size - size % LANES
    error, square, exact = 0.0, 0.0, 0.0
    if whole:
        error, square, exact = lane_sums(actual, truth, start, whole, spread)
    for i in range(start + whole, start + size):
        value = np.float64(truth[i])
        apart = np.float64(actual[i]) - value
        error += apart
        square += apart * apart
        exact += value * value
        spread[0] = max(spread[0], apart)
        spread[LANES] = min(spread[LANES], apart)
    return error, square, exact


@_jit
def _errors(actual: Any, truth: Any, start: Any, size: Any, error: Any, exact: Any) -> None:
    for i in range(size):
        value = np.float64(truth[start + i])
        exact[i] = value
        error[i] = np.float64(actual[start + i]) - value


@_jit
def raise_all(values: Any, high: Any, size: Any) -> None:
    """Raise each of a leaf's highest values."""
    for i in range(size):
        high[i] = values[i] if values[i] > high[i] else high[i]


@_jit
def _range(bits: Any, sizes: Any, size: Any) -> None:
    largest, least = sizes[0], sizes[1]
    for i in range(size):
        magnitude = np.uint64(bits[i] & _MAGNITUDE)
        largest = max(largest, magnitude)
        # Zero less one is the largest of all.
        least = min(least, magnitude - _ONE)
    sizes[0], sizes[1] = largest, least


@_jit
def _inverses(exact_bits: Any, size: Any, inverse_bits: Any, tiny_bits: Any) -> None:
    """Write the inverse of the binade of T, that of the least normal number below it."""
    for i in range(size):
        inverse_bits[i] = _INVERSE - max(exact_bits[i] & _EXPONENT, tiny_bits)


@_jit
def _ulps(actual: Any, start: Any, size: Any, exact: Any, inverse: Any, ulps: Any, rounded: Any, grow: Any) -> Any:
    """Write |actual/q - T/q| and rint(T/q), and count where the latter is actual/q."""
    correct = 0
    for i in range(size):
        computed = np.float64(actual[start + i]) * inverse[i] * grow
        expected = exact[i] * inverse[i] * grow
        ulps[i] = abs(computed - expected)
        nearest = np.rint(expected)
        rounded[i] = nearest
        correct += nearest == computed
    return correct


@_jit
def _scale(actual: Any, start: Any, size: Any, scaled: Any, shrink: Any) -> None:
    for i in range(size):
        scaled[i] = np.float64(actual[start + i]) * shrink


@_jit
def _steps(size: Any, exact_bits: Any, rounded: Any, scaled_bits: Any, steps: Any, tiny_bits: Any, shift: Any) -> None:
    """Write the distance of `actual` from rint(T/q)*q in steps of the format.

    Multiplied by `shrink`, the format's subnormal numbers are float64's: the bits above its own digits are a position.
    """
    for i in range(size):
        here = (scaled_bits[i] & _MAGNITUDE) >> shift
        there = ((max(exact_bits[i] & _EXPONENT, tiny_bits) - tiny_bits) >> shift) + np.int64(abs(rounded[i]))
        alike = (scaled_bits[i] ^ exact_bits[i]) >= 0
        # A sum of two positions may need 64 bits.
        steps[i] = np.float64(np.uint64(abs(here - there) if alike else here + there))


@_jit
def count(bits: Any, bins: Any, size: Any) -> None:
    """Raise the bins of values by turns in the copies of a histogram."""
    for i in range(size):
        bins[(i % np.uint64(COPIES)) * np.uint64(BINS) + (np.uint64(bits[i]) >> np.uint64(BIN_SHIFT))] += 1


@_jit
def count_with_edges(bits: Any, bins: Any, size: Any) -> None:
    """Raise the bins of values, those that are a lower edge apart, by turns in the copies of a histogram."""
    for i in range(size):
        at = (np.uint64(bits[i]) >> np.uint64(BIN_SHIFT)) * _TWO + np.uint64((bits[i] & _ABOVE_EDGE) != 0)
        bins[(i % np.uint64(COPIES)) * np.uint64(2 * BINS) + at] += 1


@_jit
def _keep(values: Any, bits: Any, wanted: Any, first: Any, found: Any, kept: Any, states: Any, size: Any) -> None:
    """Keep the values in either of two wanted bins, as targets `first` and the next; -1 wants none."""
    one, other, matches = wanted[0], wanted[1], np.uint64(0)
    # Without a branch, which could not be foreseen.
    for i in range(size):
        found[matches] = i
        at = bits[i] >> BIN_SHIFT
        matches += np.uint64((at == one) | (at == other))
    for match in range(matches):
        place = np.uint64(found[match])
        for target in range(2):
            if bits[place] >> BIN_SHIFT == wanted[target]:
                state = states[first + target]
                if state[0] < kept.shape[1]:
                    kept[first + target, state[0]] = values[place]
                state[0] += 1
                state[1], state[2] = min(state[1], bits[place]), max(state[2], bits[place])
