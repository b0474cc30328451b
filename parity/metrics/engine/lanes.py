"""Vector instructions over a run of elements, for kernels whose loops the compiler would leave scalar.

A compiler may not reorder a sum of floats, and does not see that NumPy's eight lanes are one vector; nor does it turn
a histogram of small numbers into comparisons. These intrinsics say both in vectors that LLVM cuts to what the processor
has.

Arguments are contiguous arrays, `start` an index into the first two. What numba has cached of a caller does not see a
change of this file: change the caller with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from parity.metrics.engine.tree import LANES

CHUNK: Final = 128
"""Elements that `chunk_bits` looks at."""
WORDS: Final = 16
"""Lanes of 32 bits."""
SMALL: Final = 8
"""Distances below it are counted by comparisons."""
TALLY: Final = 64
"""Bytes that count one distance."""

_intrinsic: Any = intrinsic
"""Numba gives the first argument; it says of these functions what they are called with, which its types do not."""

_F32, _F64 = ir.FloatType(), ir.DoubleType()
_I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
_MAGNITUDE: Final = 0x7FFF_FFFF
_TINY: Final = 0x0080_0000
_INFINITY: Final = 0x7F80_0000
_BINADE: Final = 0xFF80_0000
_WORD: Final = 0xFFFF_FFFF


@_intrinsic
def lane_sums(_context: Any, actual: Any, truth: Any, start: Any, size: Any, spread: Any) -> Any:
    """Sum e, e**2 and T**2 of a run in NumPy's eight lanes, and raise the extremes of e in `spread`.

    Args:
        actual: float32 or float64.
        truth: the same.
        start: Where the run begins.
        size: Its elements, a multiple of 8, not 0.
        spread: float64, eight highest and eight lowest e so far.

    Returns:
        The three sums, the lanes added as NumPy adds them.
    """
    kind = types.UniTuple(types.float64, 3)
    signature = kind(actual, truth, start, size, spread)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        computed, exact, _, _, held = _pointers(context, builder, signature, arguments)
        elements = [_F32 if kind.dtype == types.float32 else _F64 for kind in signature.args[:2]]
        begin, count = arguments[2], arguments[3]
        wide = ir.VectorType(_F64, LANES)
        spreads = [_load(builder, held, _index(LANES * part), wide) for part in range(2)]
        terms = _lane_terms(builder, (computed, exact), elements, begin)
        first = [*terms, *(_better(builder, sign, terms[0], old) for sign, old in zip("><", spreads, strict=True))]

        def step(at: Any, values: Sequence[Any]) -> list[Any]:
            terms = _lane_terms(builder, (computed, exact), elements, builder.add(begin, at))
            sums = [builder.fadd(value, term) for value, term in zip(values[:3], terms, strict=True)]
            return sums + [
                _better(builder, sign, terms[0], value) for sign, value in zip("><", values[3:], strict=True)
            ]

        found = _loop(builder, LANES, count, first, step)
        for part in range(2):
            _store(builder, found[3 + part], held, _index(LANES * part))
        return context.make_tuple(builder, signature.return_type, [_added(builder, value) for value in found[:3]])

    return signature, generate


@_intrinsic
def chunk_bits(_context: Any, actual: Any, truth: Any, start: Any, state: Any, tallies: Any) -> Any:
    """Count the distances in steps of 128 pairs that share a binade each and are no more than 7 steps apart.

    Args:
        actual: int32, the bits of float32.
        truth: int32.
        start: Where the chunk begins.
        state: int32, sixteen largest bits of |T| so far; raised where the chunk is counted.
        tallies: uint8, 64 for each distance from 0 to 7, raised by 2 at most: they count distances where the chunk is
            such a one, and stay as they are elsewhere.

    Returns:
        Whether all are normal numbers, the two of each pair have the same sign and exponent, and none are more than 7
        steps apart.
    """
    signature = types.boolean(actual, truth, start, state, tallies)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        computed, exact, start, held, into = _pointers(context, builder, signature, arguments)
        words = ir.VectorType(_I32, WORDS)
        zero = _all(words, 0)
        largest, apart, distances = zero, zero, []
        for offset in range(0, CHUNK, WORDS):
            at = builder.add(start, _index(offset))
            one, other = (_load(builder, pointer, at, words) for pointer in (computed, exact))
            size = builder.and_(other, _all(words, _MAGNITUDE))
            # Less the least normal number, zeros and subnormal numbers come after infinity.
            largest = _larger(builder, largest, builder.sub(size, _all(words, _TINY)))
            apart = builder.or_(apart, builder.xor(one, other))
            difference = builder.sub(one, other)
            below = builder.icmp_signed("<", difference, zero)
            distances.append(builder.select(below, builder.sub(zero, difference), difference))
        far = builder.and_(_folded(distances, builder.or_), _all(words, ~(SMALL - 1) & _WORD))
        crossed = builder.and_(apart, _all(words, _BINADE))
        strange = builder.icmp_unsigned(">=", largest, _all(words, _INFINITY - _TINY))
        other = builder.icmp_unsigned("!=", builder.or_(far, crossed), zero)
        bits = builder.bitcast(builder.or_(strange, other), _I16)
        small = builder.icmp_unsigned("==", bits, ir.Constant(_I16, 0))
        with builder.if_then(small):
            before = _load(builder, held, _index(0), words)
            _store(builder, _larger(builder, before, builder.add(largest, _all(words, _TINY))), held, _index(0))
            _tally(builder, distances, into)
        return small

    return signature, generate


def _tally(builder: Any, distances: Sequence[Any], into: Any) -> None:
    """Count distances below 8: four vectors of words go into one of bytes, in whatever order."""
    run = ir.VectorType(_I8, TALLY)
    packed = []
    for first in range(0, len(distances), 4):
        shifted = [
            builder.shl(distance, _all(distance.type, 8 * place)) if place else distance
            for place, distance in enumerate(distances[first : first + 4])
        ]
        packed.append(builder.bitcast(_folded(shifted, builder.or_), run))
    for value in range(SMALL):
        tally = _load(builder, into, _index(value * TALLY), run)
        for part in packed:
            equal = builder.icmp_unsigned("==", part, _all(run, value))
            tally = builder.select(equal, builder.add(tally, _all(run, 1)), tally)
        _store(builder, tally, into, _index(value * TALLY))


def _lane_terms(builder: Any, pointers: Sequence[Any], elements: Sequence[Any], at: Any) -> list[Any]:
    """Return e, e**2 and T**2 of eight elements."""
    wide, values = ir.VectorType(_F64, LANES), []
    for pointer, element in zip(pointers, elements, strict=True):
        value = _load(builder, pointer, at, ir.VectorType(element, LANES))
        values.append(value if element is _F64 else builder.fpext(value, wide))
    error = builder.fsub(*values)
    return [error, builder.fmul(error, error), builder.fmul(values[1], values[1])]


def _loop(
    builder: Any, stride: int, stop: Any, first: Sequence[Any], step: Callable[[Any, Sequence[Any]], list[Any]]
) -> list[Any]:
    """Carry values from `stride` up to `stop`, and return the last; `first` are those that 0 gave."""
    before = builder.block
    head, body, after = (builder.append_basic_block(name) for name in ("lanes.head", "lanes.body", "lanes.after"))
    builder.branch(head)
    builder.position_at_end(head)
    at = builder.phi(_I64)
    carried = [builder.phi(value.type) for value in first]
    at.add_incoming(_index(stride), before)
    for phi, value in zip(carried, first, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", at, stop), body, after)
    builder.position_at_end(body)
    for phi, value in zip(carried, step(at, carried), strict=True):
        phi.add_incoming(value, builder.block)
    at.add_incoming(builder.add(at, _index(stride)), builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def _added(builder: Any, vector: Any) -> Any:
    """Add eight lanes as NumPy does: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))."""
    count = vector.type.count
    while count > 1:
        halves = [ir.Constant(ir.VectorType(_I32, count // 2), list(range(first, count, 2))) for first in range(2)]
        even, odd = (builder.shuffle_vector(vector, vector, half) for half in halves)
        vector, count = builder.fadd(even, odd), count // 2
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _better(builder: Any, sign: str, value: Any, old: Any) -> Any:
    return builder.select(builder.fcmp_ordered(sign, value, old), value, old)


def _larger(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", one, other), one, other)


def _folded(values: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = combine(total, value)
    return total


def _pointers(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Return a pointer to the elements of each argument that is an array, the argument itself elsewhere."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def _load(builder: Any, pointer: Any, at: Any, kind: Any) -> Any:
    place = builder.bitcast(builder.gep(pointer, [at]), kind.as_pointer())
    return builder.load(place, align=_bytes(kind))


def _store(builder: Any, value: Any, pointer: Any, at: Any) -> None:
    place = builder.bitcast(builder.gep(pointer, [at]), value.type.as_pointer())
    builder.store(value, place, align=_bytes(value.type))


def _bytes(kind: Any) -> int:
    """Return what NumPy aligns an array to: its element's bytes."""
    element = kind.element
    return {_F32: 4, _F64: 8}.get(element) or int(element.width) // 8


def _all(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _index(value: int) -> Any:
    return ir.Constant(_I64, value)
