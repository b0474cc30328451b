"""Sources of the fused long convolution: one body, a prelude for each language, and the calls that a length needs.

The body (`fused/body.inc`) is written once, in the words of a prelude: `prelude_cuda.inc`, `prelude_metal.inc`, and
`prelude_host.inc`, by which any C++ compiler makes of it a function that runs a block's threads one after the other.
Tests run that one on every machine, and the CUDA one where there is such a device. **The Metal prelude has been run on
no device so far.**

A row of L numbers is packed into N >= L complex ones, N the least number of factors 2, 3 and 5. As long as shared
memory holds them, a block transforms, multiplies and transforms back within it: one read of u, one write of y. The
kernel's spectrum is made by a launch of its own, or, for short rows, by every block, which then convolves some rows of
its channel. Longer rows are P columns by Q and take three kernels.
"""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Final, Literal

from mlx_impl.kernels.roots import root

Language = Literal["cuda", "metal", "host"]

FACTORS: Final = (2, 3, 5)
LEAST_POINTS: Final = 2
SHORT: Final = 8
"""Up to here powers of two, which round less often than the factors 3 and 5."""

SHARED_BYTES: Final = {"cuda": 72 * 1024, "metal": 32 * 1024, "host": 72 * 1024}
"""What a block may hold. A processor of an H100 has 228 KiB: three blocks of 72 KiB run at once on it."""

THREADS: Final = {False: 512, True: 256}
"""Most threads of a block, for float32 and for double-float32: so many that their registers suffice."""

TOGETHER: Final = 256
"""Up to so many points a launch costs more than making the kernel's spectrum again for every few rows."""

ROWS: Final = 4
"""Rows of a channel that such a block convolves."""

WARP: Final = 32
ELEMENTS: Final = 8
"""Complex numbers that a thread holds."""

WIDEST: Final = 16
"""Columns of a block at most: as many neighbouring numbers are read at once."""

EMPTY: Final = 16
"""After so many elements one place of shared memory is left empty; `place` in the body."""


@dataclass(frozen=True)
class Plan:
    """How rows of one length are convolved.

    Args:
        length: L, the numbers of a row.
        points: N, the complex numbers that a row is packed into.
        double: Whether every number is a pair of float32.
        columns: P where a row takes three kernels, else 1.
        wide: Columns of a block, which divide Q.
    """

    length: int
    points: int
    double: bool
    columns: int = 1
    wide: int = 1

    @property
    def rows(self) -> int:
        """Q, the length of the transforms between the columns', or N."""
        return self.points // self.columns

    @property
    def floats(self) -> int:
        """float32 numbers of a complex one."""
        return 4 if self.double else 2


def plan(length: int, double: bool = False, language: Language = "cuda") -> Plan:
    """Return the plan for rows of `length` numbers: one kernel if they fit, else as square as they can be cut.

    Raises:
        ValueError: There is nothing to convolve, or rows and columns do not fit either.
    """
    if length < 1:
        raise ValueError(f"a row has at least one number; got a length of {length}")
    room = room_of(language, double)
    points = smooth(length)
    if points <= room:
        return Plan(length, points, double)
    while points <= room * room // 2:
        columns = max(p for p in range(1, math.isqrt(points) + 1) if points % p == 0)
        if 2 * (points // columns) <= room:
            return in_columns(length, points, columns, double, room)
        points = smooth(points + 1)
    raise ValueError(f"rows of {length} numbers do not fit a block of {language} in {room} parts of {room // 2}")


def room_of(language: Language, double: bool) -> int:
    """Return the most complex numbers that a block holds."""
    most = SHARED_BYTES[language] // shared_bytes(1, double)
    return next(n for n in range(most, 0, -1) if with_empty(n) <= most)


def in_columns(length: int, points: int, columns: int, double: bool, room: int) -> Plan:
    """Return the plan of three kernels, as many columns a block as divide the rows' length and fit into `room`."""
    rows = points // columns
    wide = max(w for w in range(1, WIDEST + 1) if rows % w == 0 and (w == 1 or w * columns <= room))
    return Plan(length, points, double, columns, wide)


def smooth(length: int) -> int:
    """Return the least N >= `length` and 2 of no other factors than 2, 3 and 5; up to 8, than 2."""
    points = max(length, LEAST_POINTS)
    if points <= SHORT:
        return 1 << (points - 1).bit_length()
    while functools.reduce(_divided_out, FACTORS, points) != 1:
        points += 1
    return points


def _divided_out(number: int, factor: int) -> int:
    while number % factor == 0:
        number //= factor
    return number


def with_empty(elements: int) -> int:
    """Return the places of shared memory that so many complex numbers take, empty ones included."""
    return elements + elements // EMPTY + 1


def shared_bytes(places: int, double: bool) -> int:
    """Return the bytes of so many places."""
    return places * (16 if double else 8)


def threads(elements: int, double: bool) -> int:
    """Return the threads of a block that transforms so many complex numbers."""
    return min(THREADS[double], max(WARP, -(-elements // (ELEMENTS * WARP)) * WARP))


def radices(points: int) -> list[int]:
    """Factorise into 8, then 4, 5, 3, 2: the largest first, since a pass costs a way through shared memory."""
    found = []
    for radix in (8, 4, 5, 3, 2):
        while points % radix == 0 and points > 1:
            found.append(radix)
            points //= radix
    return found


# --- tables ---------------------------------------------------------------------------------------------------


def table(found: Plan) -> list[tuple[float, float]]:
    """Return all roots of unity that a plan needs, as cos and -sin in double precision, in the body's order.

    One kernel: exp(-2 pi i k / 2N), and the twiddles of the passes forth and back. Three: those by [k1][k2], the turns
    exp(-2 pi i k1 m2 / N), and the twiddles of columns and of rows.
    """
    n, p, q = found.points, found.columns, found.rows
    if p == 1:
        return [*(_turn(k, 2 * n) for k in range(n)), *_twiddles(radices(n)), *_twiddles(radices(n)[::-1])]
    roots = [_turn(k1 + p * k2, 2 * n) for k1 in range(p) for k2 in range(q)]
    turns = [_turn(k1 * m2, n) for k1 in range(p) for m2 in range(q)]
    return [*roots, *turns, *_twiddles(radices(p)), *_twiddles(radices(q))]


def _turn(k: int, n: int) -> tuple[float, float]:
    cos, sin = root(k % n, n)
    return cos, -sin


def _twiddles(passes: list[int]) -> list[tuple[float, float]]:
    """Twiddle k of element r of the pass that begins at DONE, at place r DONE + k; below the first radix nothing."""
    found = [(1.0, 0.0)] * math.prod(passes)
    for done, after in pairwise(_lengths(passes)):
        if done > 1:
            for r in range(1, after // done):
                found[r * done : (r + 1) * done] = [_turn(k * r, after) for k in range(done)]
    return found


def _lengths(passes: list[int]) -> list[int]:
    return [math.prod(passes[:i]) for i in range(len(passes) + 1)]


# --- calls ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switches:
    """What a convolution is, beside its length.

    Args:
        conjugated: The adjoint: the conjugate of the kernel's spectrum.
        gated: The result is multiplied by a gate.
        reverse: The first lag of the reverse kernel, 0 or -1; None without one.
        scale: Factor of the kernel's spectrum: the 1/2N of the transforms with the 4 of packing, halved for `avg`.
        after: Factor of the result, before the skip term.
    """

    conjugated: bool = False
    gated: bool = False
    reverse: int | None = None
    scale: float = 1.0
    after: float = 1.0


@dataclass(frozen=True)
class Kernel:
    """One kernel: its name, what it reads and writes, the calls of its body, and how it is launched.

    Args:
        name: Of the function.
        inputs, output: Names of arrays, which the calls use.
        calls: Calls of the body, one a line; `block` is the block's number, `at` the thread's.
        blocks: Blocks to a row of the output.
        threads: Threads of a block.
        elements: Complex numbers in shared memory, without the spectrum.
        spectrum: Complex numbers of a spectrum that the block keeps there too.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    calls: tuple[str, ...]
    blocks: int
    threads: int
    elements: int
    spectrum: int = 0

    @property
    def places(self) -> int:
        """Complex numbers of shared memory, empty places included."""
        return with_empty(self.elements) + self.spectrum

    def launched(self, batch: int, channels: int) -> int:
        """Return the blocks that convolve (batch, channels) rows."""
        if self.spectrum:
            return channels * -(-batch // ROWS)
        return batch * channels * self.blocks


def spectrum_kernels(found: Plan, switches: Switches) -> list[Kernel]:
    """Return the kernels, in order, that make half a spectrum of every row of taps: N + 1 complex numbers."""
    n, p, q, l = found.points, found.columns, found.rows, found.length
    reverse = _reverse(switches)
    scale = _number(switches.scale)
    if n <= TOGETHER and p == 1:
        return []
    if p == 1:
        t = threads(n, found.double)
        return [
            Kernel(
                "fftconv_spectrum",
                ("k", "reverse", "table"),
                "h",
                (
                    *_tables(found),
                    f"load_taps<{n}, {t}, {l}, {reverse}>(s, {_row('k', l)}, {_row('reverse', l)}, at);",
                    *_passes(radices(n), t, 1, False, "forth"),
                    f"store_spectrum<{n}, {t}>(s, roots, {_complex('h', n + 1)}, {scale}, at);",
                ),
                1,
                t,
                n,
            )
        ]
    w = found.wide
    columns, pairs = _threads_of_columns(found), _threads_of_rows(found)
    return [
        Kernel(
            "fftconv_tap_columns",
            ("k", "reverse", "table"),
            "between",
            (
                *_tables(found),
                *_column(found),
                f"load_tap_columns<{p}, {q}, {columns}, {w}, {l}, {reverse}>"
                f"(s, {_row('k', l)}, {_row('reverse', l)}, column, at);",
                *_passes(radices(p), columns, w, False, "by_column"),
                f"store_columns<{p}, {q}, {columns}, {w}>(s, turns, {_complex('between', n)}, column, at);",
            ),
            q // w,
            columns,
            p * w,
        ),
        Kernel(
            "fftconv_spectrum_rows",
            ("between", "table"),
            "h",
            (
                *_tables(found),
                *_pair(found),
                f"load_rows<{p}, {q}, {pairs}>(s, {_complex('between', n, True)}, k1, at);",
                *_passes(radices(q), pairs, 2, False, "by_row"),
                f"store_spectrum_rows<{p}, {q}, {pairs}>(s, roots, {_complex('h', n + 1)}, {scale}, k1, at);",
            ),
            p // 2 + 1,
            pairs,
            2 * q,
        ),
    ]


def convolution_kernels(found: Plan, switches: Switches, channels: int) -> list[Kernel]:
    """Return the kernels that convolve every row of u (b, channels, L), one after the other."""
    n, p, q, l = found.points, found.columns, found.rows, found.length
    kind = f"{_c(switches.after != 1.0)}, {_c(switches.gated)}"
    after = _number(switches.after)
    gate = ("gate",) if switches.gated else ()
    gates = _row("gate" if switches.gated else "u", l)
    spectrum = _complex("h", n + 1, True, f"(row % {channels})")
    if n <= TOGETHER and p == 1:
        return [_of_channels(found, switches, channels)]
    if p == 1:
        calls = (*_tables(found), *_row_calls(found, switches, channels, spectrum))
        return [
            Kernel("fftconv_row", ("u", "h", "skip", *gate, "table"), "y", calls, 1, threads(n, found.double), n),
        ]
    w = found.wide
    columns, pairs = _threads_of_columns(found), _threads_of_rows(found)
    return [
        Kernel(
            "fftconv_columns",
            ("u", "table"),
            "between",
            (
                *_tables(found),
                *_column(found),
                f"load_columns<{p}, {q}, {columns}, {w}, {l}>(s, {_row('u', l)}, column, at);",
                *_passes(radices(p), columns, w, False, "by_column"),
                f"store_columns<{p}, {q}, {columns}, {w}>(s, turns, {_complex('between', n)}, column, at);",
            ),
            q // w,
            columns,
            p * w,
        ),
        Kernel(
            "fftconv_rows",
            ("between", "h", "table"),
            "after",
            (
                *_tables(found),
                *_pair(found),
                f"load_rows<{p}, {q}, {pairs}>(s, {_complex('between', n, True)}, k1, at);",
                *_passes(radices(q), pairs, 2, False, "by_row"),
                f"multiply_rows<{p}, {q}, {pairs}, {_c(switches.conjugated)}>(s, {spectrum}, roots, k1, at);",
                *_passes(radices(q), pairs, 2, True, "by_row"),
                f"store_rows<{p}, {q}, {pairs}>(s, turns, {_complex('after', n)}, k1, at);",
            ),
            p // 2 + 1,
            pairs,
            2 * q,
        ),
        Kernel(
            "fftconv_columns_back",
            ("after", "u", "skip", *gate, "table"),
            "y",
            (
                *_tables(found),
                *_column(found),
                f"fetch_columns<{p}, {q}, {columns}, {w}>(s, {_complex('after', n, True)}, column, at);",
                *_passes(radices(p), columns, w, True, "by_column"),
                f"finish_columns<{p}, {q}, {columns}, {w}, {l}, {kind}>"
                f"(s, {_row('u', l)}, skip[row % {channels}], {gates}, {_row('y', l)}, {after}, column, at);",
            ),
            q // w,
            columns,
            p * w,
        ),
    ]


def _of_channels(found: Plan, switches: Switches, channels: int) -> Kernel:
    """Short rows: a block makes its channel's spectrum, and convolves `ROWS` rows by it."""
    n, l, t = found.points, found.length, threads(found.points, found.double)
    gate = ("gate",) if switches.gated else ()
    calls = (
        *_tables(found),
        f"const int channel = block % {channels}, first = block / {channels} * {ROWS};",
        f"SHARED_ Number* h = s + {with_empty(n)};",
        f"load_taps<{n}, {t}, {l}, {_reverse(switches)}>"
        f"(s, {_row('k', l, 'channel')}, {_row('reverse', l, 'channel')}, at);",
        *_passes(radices(n), t, 1, False, "forth"),
        f"store_spectrum<{n}, {t}>(s, roots, h, {_number(switches.scale)}, at);",
        f"for (int sequence = first; sequence < first + {ROWS} && sequence < batch; ++sequence) {{",
        f"const int row = sequence * {channels} + channel;",
        *_row_calls(found, switches, channels, "h"),
        "}",
    )
    inputs = ("u", "k", "reverse", "skip", *gate, "table")
    return Kernel("fftconv_channel", inputs, "y", calls, 1, t, n, n + 1)


def _row_calls(found: Plan, switches: Switches, channels: int, spectrum: str) -> tuple[str, ...]:
    """Convolve row `row` by a spectrum."""
    n, l, t, passes = found.points, found.length, threads(found.points, found.double), radices(found.points)
    kept = -(-(n // passes[0]) // t) * passes[0]
    kind = f"{_c(switches.after != 1.0)}, {_c(switches.gated)}"
    return (
        f"PRIVATE(Pair, kept, {kept}, {t});",
        f"enter<{n}, {t}, {passes[0]}, {l}>(s, {_row('u', l)}, kept, at);",
        *_passes(passes, t, 1, False, "forth")[1:],
        f"multiply<{n}, {t}, {_c(switches.conjugated)}>(s, {spectrum}, roots, at);",
        *_passes(passes[::-1], t, 1, True, "back")[:-1],
        f"leave<{n}, {t}, {passes[0]}, {l}, {kind}>(s, back, kept, skip[row % {channels}], "
        f"{_row('gate' if switches.gated else 'u', l)}, {_row('y', l)}, {_number(switches.after)}, at);",
    )


def _reverse(switches: Switches) -> str:
    """Whether there is a reverse kernel, and which lag comes first, negated."""
    return f"{_c(switches.reverse is not None)}, {-(switches.reverse or 0)}"


def _threads_of_columns(found: Plan) -> int:
    return threads(found.columns * found.wide, found.double)


def _threads_of_rows(found: Plan) -> int:
    return threads(2 * found.rows, found.double)


def _tables(found: Plan) -> tuple[str, ...]:
    n, p = found.points, found.columns
    parts = {"forth": n, "back": 2 * n} if p == 1 else {"turns": n, "by_column": 2 * n, "by_row": 2 * n + p}
    first = "GLOBAL_ const Number* roots = reinterpret_cast<GLOBAL_ const Number*>(table);"
    return (first, *(f"GLOBAL_ const Number* {name} = roots + {at};" for name, at in parts.items()))


def _column(found: Plan) -> tuple[str, ...]:
    blocks = found.rows // found.wide
    return (f"const int row = block / {blocks}, column = block % {blocks} * {found.wide};",)


def _pair(found: Plan) -> tuple[str, ...]:
    blocks = found.columns // 2 + 1
    return (f"const int row = block / {blocks}, k1 = block % {blocks};",)


def _passes(passes: list[int], t: int, wide: int, inverse: bool, twiddles: str) -> list[str]:
    n = math.prod(passes)
    return [
        f"pass<{n}, {t}, {radix}, {done}, {wide}, {_c(inverse)}>(s, {twiddles}, at);"
        for radix, done in zip(passes, _lengths(passes), strict=False)
    ]


def _row(name: str, length: int, row: str = "row") -> str:
    return f"{name} + (size_t){row} * {length}"


def _complex(name: str, length: int, constant: bool = False, row: str = "row") -> str:
    return f"reinterpret_cast<GLOBAL_ {'const ' if constant else ''}Number*>({name}) + (size_t){row} * {length}"


def _number(value: float) -> str:
    high = _float32(value)
    return f"from({high.hex()}f, {_float32(value - high).hex()}f, Real())"


def _float32(value: float) -> float:
    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


def _c(flag: bool) -> str:
    return "true" if flag else "false"


# --- languages ------------------------------------------------------------------------------------------------


def header(language: Language, double: bool) -> str:
    """Return what stands before every kernel: the prelude, the body, and the numbers that are meant."""
    folder = files("mlx_impl.kernels") / "fused"
    texts = [(folder / f"{name}.inc").read_text(encoding="utf-8") for name in (f"prelude_{language}", "body")]
    return "\n".join([*texts, f"typedef {'Double' if double else 'Single'} Real;", "typedef Complex<Real> Number;", ""])


def source(kernel: Kernel, language: Language) -> str:
    """Return the statements of a kernel's function."""
    places = kernel.places
    begin = {
        "cuda": (
            "extern __shared__ float4 memory[];",
            "Number* s = reinterpret_cast<Number*>(memory);",
            "const int at = threadIdx.x, block = blockIdx.x;",
        ),
        "metal": (
            f"threadgroup Number s[{places}];",
            "const int at = thread_position_in_threadgroup.x, block = threadgroup_position_in_grid.x;",
        ),
        "host": (f"static thread_local Number s[{places}];", "const int at = 0;"),
    }[language]
    row = () if any("const int row" in call for call in kernel.calls) else ("const int row = block;",)
    batch = ("const int batch = u_shape[0];",) if kernel.spectrum else ()
    return "\n".join([*begin, *row, *batch, *kernel.calls])
