"""The first pass over a pair of float32 tensors: every value is a number of the format, its own rounding.

So a distance in steps is a difference of bits, and an error in ulps that same number where both numbers share a
binade, as nearly all do in a good port: a chunk of such pairs is a few vector instructions. Any other chunk is
looked at element by element, which is where zeros, subnormal numbers and what is not finite are seen.

No scale can change a bit here, and none is watched: errors lie between 2**-149 and 2**129, so that no square, nor the
square of a difference from their mean, leaves float64's normal range.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from parity.metrics.engine.compiled import DEPTH, add_siblings, count, count_with_edges, leaf_sums, next_leaf, raise_all
from parity.metrics.engine.jit import kernels_of
from parity.metrics.engine.lanes import CHUNK, SMALL, TALLY, WORDS, chunk_bits
from parity.metrics.engine.parts import COMMON
from parity.metrics.engine.tree import LANES

_CHUNKS: Final = 127
"""Chunks that a byte can count: two elements of each at most."""
_MAGNITUDE: Final = np.int32(0x7FFF_FFFF)
_SIZE: Final = np.int64(0x7FFF_FFFF)
_TINY: Final = np.int32(0x0080_0000)
_INFINITY: Final = np.int32(0x7F80_0000)
_BINADE: Final = np.int32(~0x007F_FFFF)
_LEAST: Final = np.int32(-0x8000_0000)
_FRACTION: Final = np.int64(23)
_ONE_ULP: Final = np.int64(1023 + 127 + 23)
"""Float64's exponent of the inverse of ulp(T), and float32's of T, add up to this."""

_INFINITE: Final = 0
_COMMON: Final = 1
_ANY: Final = 2
"""What a chunk holds: something not finite, pairs of one binade each that have a counter, any numbers."""

_jit = kernels_of(__file__, ("compiled.py", "lanes.py", "parts.py", "tree.py"), "2632c8de96d84e9c")


@_jit
def first_pass(actual: Any, truth: Any, sums: Any, extremes: Any, sizes: Any, counters: Any, special: Any) -> Any:
    """Reduce a block: sums of e, e**2, T**2; a row of `Blocks.extremes`; what `Counts` counts.

    Args:
        actual: float32, not empty.
        truth: float32.
        sums: Three numbers to be written.
        extremes: Four numbers to be written.
        sizes: `Counts.sizes`; only the largest |T| is kept.
        counters: `Counts.ulp_bins`, `step_bins` and `common`.
        special: int64: mismatches of zeros, negative zeros and subnormal numbers, to be raised.

    Returns:
        Whether all are finite; elsewhere everything written is void.
    """
    actual_bits, truth_bits = actual.view(np.int32), truth.view(np.int32)
    spread, state, largest = np.full(2 * LANES, -np.inf), np.zeros(WORDS, np.int32), np.zeros(1, np.int64)
    spread[LANES:] = np.inf
    most, ulps_high, steps_high = np.zeros(1, np.int32), np.zeros(CHUNK), np.zeros(CHUNK)
    tallies, since = np.zeros(SMALL * TALLY, np.uint8), 0
    # Made once, since every slice of an array is counted as a reference to it.
    ulp_bins, step_bins, common = counters
    inverse, ulps, distances = np.empty(CHUNK), np.empty(CHUNK), np.empty(CHUNK)
    inverse_bits, ulp_bits, distance_bits = inverse.view(np.int64), ulps.view(np.int64), distances.view(np.int64)
    waiting, values, depths = np.empty((DEPTH, 2), np.int64), np.empty((DEPTH, 3)), np.empty(DEPTH, np.int64)
    waiting[0, 0], waiting[0, 1], ahead, held, start, done = actual.size, 0, 1, 0, 0, 0
    while ahead:
        leaf, depth, ahead = next_leaf(waiting, ahead)
        values[held, 0], values[held, 1], values[held, 2] = leaf_sums(actual, truth, start, leaf, spread)
        depths[held] = depth
        held = add_siblings(values, depths, held + 1)
        start += leaf
        # Chunks follow leaves, whose elements are in the first cache.
        while done < start and (done + CHUNK <= start or start == actual.size):
            stop = min(done + CHUNK, start)
            if stop - done == CHUNK and chunk_bits(actual_bits, truth_bits, done, state, tallies):
                since += 1
                if since == _CHUNKS:
                    _settle(tallies, common, largest)
                    since = 0
            else:
                # An index that may be negative keeps a loop from becoming vector instructions.
                begin, size = np.uint64(done), np.uint64(stop - done)
                kind = _kind(actual_bits, truth_bits, begin, size, most)
                if kind == _INFINITE:
                    return False
                if kind == _COMMON:
                    _count_common(actual_bits, truth_bits, begin, size, common, largest)
                else:
                    _special(actual_bits, truth_bits, begin, size, special)
                    _scales(actual_bits, truth_bits, begin, size, inverse_bits, distances)
                    _errors(actual, truth, begin, size, inverse, ulps)
                    count_with_edges(ulp_bits, ulp_bins, size)
                    raise_all(ulps, ulps_high, size)
                    count(distance_bits, step_bins, size)
                    raise_all(distances, steps_high, size)
            done = stop
    _settle(tallies, common, largest)
    sums[0], sums[1], sums[2] = values[0, 0], values[0, 1], values[0, 2]
    extremes[0], extremes[1] = spread[:LANES].max(), spread[LANES:].min()
    extremes[2], extremes[3] = max(largest[0], ulps_high.max()), max(largest[0], steps_high.max())
    most[0] = max(most[0], state.max())
    sizes[1, 0] = max(sizes[1, 0], np.float64(most.view(np.float32)[0]).view(np.uint64))
    return True


@_jit
def _settle(tallies: Any, common: Any, largest: Any) -> None:
    """Add up the tallies, and begin them anew."""
    for value in range(SMALL):
        count = 0
        for i in range(value * TALLY, (value + 1) * TALLY):
            count += tallies[i]
            tallies[i] = 0
        if count:
            common[value] += count
            largest[0] = max(largest[0], value)


@_jit
def _kind(computed: Any, exact: Any, start: Any, size: Any, most: Any) -> Any:
    """Say what a chunk holds, and raise `most` to the bits of its largest |T|."""
    high, low, top, apart, far = np.int32(0), _MAGNITUDE, most[0], np.int32(0), np.int32(0)
    for i in range(size):
        here, there = np.int32(computed[start + i] & _MAGNITUDE), np.int32(exact[start + i] & _MAGNITUDE)
        high = max(high, here)
        low = min(low, there)
        top = max(top, there)
        apart = np.int32(apart | np.int32(computed[start + i] ^ exact[start + i]))
        far = max(far, np.int32(abs(np.int32(computed[start + i] - exact[start + i]))))
    if max(high, top) >= _INFINITY:
        return _INFINITE
    most[0] = top
    return _COMMON if low >= _TINY and (apart & _BINADE) == 0 and far < COMMON else _ANY


@_jit
def _count_common(computed: Any, exact: Any, start: Any, size: Any, common: Any, largest: Any) -> None:
    """Count pairs that share a binade each: the error in ulps is the distance."""
    most = np.int32(0)
    for i in range(size):
        distance = np.int32(abs(np.int32(computed[start + i] - exact[start + i])))
        most = max(most, distance)
        common[np.uint32(distance)] += 1
    largest[0] = max(largest[0], most)


@_jit
def _scales(computed: Any, exact: Any, start: Any, size: Any, inverse_bits: Any, distances: Any) -> None:
    """Write the inverse of ulp(T) and the distance in steps."""
    for i in range(size):
        here, there = np.int64(computed[start + i]) & _SIZE, np.int64(exact[start + i]) & _SIZE
        # A subnormal number has the spacing of the least normal one.
        inverse_bits[i] = (_ONE_ULP - max(there >> _FRACTION, np.int64(1))) << 52
        distances[i] = abs(here - there) if (computed[start + i] ^ exact[start + i]) >= 0 else here + there


@_jit
def _errors(actual: Any, truth: Any, start: Any, size: Any, inverse: Any, ulps: Any) -> None:
    for i in range(size):
        ulps[i] = abs(np.float64(actual[start + i]) - np.float64(truth[start + i])) * inverse[i]


@_jit
def _special(computed: Any, exact: Any, start: Any, size: Any, special: Any) -> None:
    """Raise the mismatches of zeros, negative zeros and subnormal numbers."""
    zero, negative, subnormal = 0, 0, 0
    for i in range(size):
        here, there = np.int32(computed[start + i] & _MAGNITUDE), np.int32(exact[start + i] & _MAGNITUDE)
        zero += (here == 0) != (there == 0)
        negative += (computed[start + i] == _LEAST) != (exact[start + i] == _LEAST)
        subnormal += ((here < _TINY) & (here != 0)) != ((there < _TINY) & (there != 0))
    special[0] += zero
    special[1] += negative
    special[2] += subnormal
