"""The bounds that the figures are held against: held, or missed by how much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from parity.bench.cells import Cell
from parity.bench.growth import LONGEST, SHORTEST, Growth


@dataclass(frozen=True)
class Bound:
    """A bound on the median of one figure.

    Args:
        what: What is bounded, as a line says it.
        part, figure: The cell.
        at: What the cell's place must hold.
        allowed: The bound.
        at_most: Whether the figure must not exceed it, or must not stay below it.
    """

    what: str
    part: str
    figure: str
    at: tuple[tuple[str, str | int], ...]
    allowed: float
    at_most: bool = True

    def matches(self, cell: Cell) -> bool:
        """Whether the bound is about `cell`."""
        place = cell.place
        return (cell.part, cell.figure) == (self.part, self.figure) and all(place.get(k) == v for k, v in self.at)


@dataclass(frozen=True)
class Verdict:
    """Whether a bound is held: `measured`, with its range over the rounds, against `allowed`."""

    what: str
    measured: float
    least: float
    largest: float
    allowed: float
    at_most: bool

    @property
    def held(self) -> bool:
        """Whether the median keeps the bound."""
        return self.measured <= self.allowed if self.at_most else self.measured >= self.allowed

    def line(self) -> str:
        """Return it as a line."""
        side = "at most" if self.at_most else "at least"
        missed = "" if self.held else f", missed by {abs(self.measured - self.allowed):.3g}"
        spread = "" if self.least == self.largest else f" ({self.least:.3g} to {self.largest:.3g})"
        outcome = "held" if self.held else "MISSED"
        return f"{outcome}: {self.what}: {self.measured:.3g}{spread}, {side} {self.allowed:g}{missed}"


CLOCK: Final = "wall"
"""Clock of the metrics' bounds: a bandwidth is bytes a second, however many processors move them."""

BOUNDS: Final = (
    Bound(
        "time of numpy.testing.assert_allclose over that of the metric set",
        "metrics",
        "over engine",
        (("contender", "numpy"), ("clock", CLOCK)),
        1.0,
        at_most=False,
    ),
    Bound(
        "Polygraphy's time over that of the metric set",
        "metrics",
        "over engine",
        (("contender", "polygraphy"), ("clock", CLOCK)),
        6.0,
        at_most=False,
    ),
    Bound(
        "speed of the metric set over that of a copy, bytes a second",
        "metrics",
        "share",
        (("clock", CLOCK),),
        0.4,
        at_most=False,
    ),
    Bound("MiB that the metric set adds", "metrics", "extra memory", (), 64.0),
    *(
        Bound(
            f"what an examination adds to the three bare passes, in units of them, predictions {predictions}",
            "harness",
            "overhead",
            (("predictions", predictions),),
            1.3,
        )
        for predictions in ("made", "kept")
    ),
    Bound("standard budget with 2 workers, seconds", "budget", "time", (("jobs", 2),), 240.0),
    Bound("standard budget, 1 worker over 2", "budget", "speed-up", (), 1.7, at_most=False),
    Bound("standard budget with 2 workers, MiB at the peak", "budget", "peak memory", (("jobs", 2),), 4096.0),
)

GROWTH_BOUND: Final = 0.1
"""How far the layer's exponent may lie from that of theory, either way."""

BOUNDED_GROWTH: Final = "layer"
LAYER: Final = f"exponent of the {BOUNDED_GROWTH} in the length"


def verdicts(cells: Iterable[Cell], growths: Sequence[Growth]) -> list[Verdict]:
    """Judge every bound whose figure was measured; the layer's growth where it was fitted over the whole range."""
    known = list(cells)
    found = [_judged(bound, cell) for bound in BOUNDS for cell in known if bound.matches(cell)]
    whole = [growth for growth in growths if _is_bounded(growth)]
    return found + [_growth(growth) for growth in whole]


def _is_bounded(growth: Growth) -> bool:
    ends = growth.lengths[0], growth.lengths[-1]
    return growth.at["component"] == BOUNDED_GROWTH and ends == (SHORTEST, LONGEST)


def _judged(bound: Bound, cell: Cell) -> Verdict:
    spread = cell.spread
    return Verdict(bound.what, spread.median, spread.least, spread.largest, bound.allowed, bound.at_most)


def _growth(growth: Growth) -> Verdict:
    at = growth.at
    off = abs(growth.excess)
    what = f"{LAYER}, {at['pass']}, {at['side']}, BLAS {at['blas']}, off theory"
    return Verdict(what, off, off, off, GROWTH_BOUND, True)
