"""How time grows with the length: the exponent p of c L^p, beside that which the same fit gives for counted steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from parity.bench.cells import Cell
from parity.errors import ConfigError

SHORTEST: Final = 1024
LONGEST: Final = 32768
"""Lengths between which exponents are fitted: shorter calls measure what a call costs whatever its length."""

FEWEST: Final = 3
"""Lengths below which there is nothing to fit."""

STEPS: Final[Mapping[str, Callable[[int], float]]] = {
    "L": float,
    "L log L": lambda length: length * math.log2(2 * length),
    "L^2": lambda length: float(length * length),
}
"""Steps that theory counts for a length: a transform of 2 L numbers takes L log2(2 L), up to a factor."""


@dataclass(frozen=True)
class Growth:
    """Exponents of one component on one side.

    Args:
        at: Component, pass, blas and side.
        theory: Which of `STEPS` it takes.
        lengths: Those that were fitted.
        measured: Exponent of the median times.
        of_least: Exponent of the least times, which other work on the machine disturbs least.
        expected: Least and largest exponent that the same fit gives for the steps of `theory`: of what takes L steps
            beside L log L, the share of either decides where it lies.
    """

    at: dict[str, str]
    theory: tuple[str, ...]
    lengths: tuple[int, ...]
    measured: float
    of_least: float
    expected: tuple[float, float]

    @property
    def excess(self) -> float:
        """How far the exponent lies above those of theory, or, negative, below them; 0 between them."""
        least, most = self.expected
        return self.measured - min(max(self.measured, least), most)


def exponent(values: Mapping[int, float]) -> float:
    """Return the p of the line log v = log c + p log L through (L, v), by least squares.

    Raises:
        ConfigError: There are fewer than two lengths, or a value is not positive.
    """
    if len(values) < 2 or min(values.values()) <= 0:
        raise ConfigError(f"an exponent needs positive values at two lengths or more; got {dict(values)}")
    points = [(math.log(length), math.log(value)) for length, value in values.items()]
    centre = [sum(axis) / len(points) for axis in zip(*points, strict=True)]
    moved = [(x - centre[0], y - centre[1]) for x, y in points]
    return float(sum(x * y for x, y in moved) / sum(x * x for x, _ in moved))


def growths(cells: Iterable[Cell], theories: Mapping[str, tuple[str, ...]]) -> list[Growth]:
    """Fit every component, pass, library and side that was timed at `FEWEST` lengths or more within the range.

    Args:
        cells: Cells of the part `models`.
        theories: By component the keys of `STEPS`.
    """
    times: dict[tuple[str, str, str, str], dict[int, Cell]] = {}
    for cell in cells:
        if cell.part == "models" and cell.figure == "time":
            place = cell.place
            if SHORTEST <= int(place["L"]) <= LONGEST:
                key = str(place["component"]), str(place["pass"]), str(place["blas"]), str(place["side"])
                times.setdefault(key, {})[int(place["L"])] = cell
    return [_fitted(key, found, theories) for key, found in times.items() if len(found) >= FEWEST]


def _fitted(
    key: tuple[str, str, str, str], found: Mapping[int, Cell], theories: Mapping[str, tuple[str, ...]]
) -> Growth:
    theory = theories[key[0]]
    expected = [exponent({length: STEPS[steps](length) for length in found}) for steps in theory]
    return Growth(
        dict(zip(("component", "pass", "blas", "side"), key, strict=True)),
        theory,
        tuple(sorted(found)),
        exponent({length: cell.spread.median for length, cell in found.items()}),
        exponent({length: cell.spread.least for length, cell in found.items()}),
        (min(expected), max(expected)),
    )
