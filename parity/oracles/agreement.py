"""How far float64 results lie from exact ones, in units in the last place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import mpmath
import numpy as np

from parity.oracles.carried import Carried, Floats, floats

ALLOWED_ULP: Final = 4.0
"""Acceptance bound: ulps of float64, of the reach of roundings and, where nothing is lost, of the result itself."""

WELL_CONDITIONED: Final = 4.0
"""A result is well-conditioned if the reach of roundings is at most this many times the result: two bits can be lost.

A few operations keep such a result within 4 ulp of itself. A sum of many terms does not: of 16 terms that cancel by a
factor of 4 the result errs by 5 ulp when it is computed as well as float64 allows. Then the bound is `NO_LOSS`.
"""

NO_LOSS: Final = 1 + 2.0**-40
"""Bound for sums: no term cancels another, and the reach, rounded to float64, is the result."""

NO_CONDITION: Final = 0.0
"""Bound for transforms: they mix the roundings of all positions, so no result has a conditioning of its own."""


@dataclass(frozen=True)
class Agreement:
    """Distance of float64 results from exact ones.

    Attributes:
        elements: Elements compared.
        scale_ulp: Largest |y - t| / ulp(reach); gated.
        well: Elements that are well-conditioned.
        well_ulp: Largest |y - t| / ulp(t) among those; gated.
        fair_ulp: The same among those with reach <= 4 |t|, whatever the bound.
        any_ulp: The same among all that are not 0: what cancellation makes of it.
    """

    elements: int
    scale_ulp: float
    well: int
    well_ulp: float
    fair_ulp: float
    any_ulp: float

    @property
    def passed(self) -> bool:
        """Whether something was compared and both gated distances are within 4 ulp."""
        return self.elements > 0 and self.scale_ulp <= ALLOWED_ULP and self.well_ulp <= ALLOWED_ULP


def agreement(actual: Floats, exact: Carried, well_conditioned: float = WELL_CONDITIONED) -> Agreement:
    """Compare float64 results with exact ones.

    The difference is taken exactly: rounding the truth to float64 first would hide half an ulp.

    Args:
        actual: Results, any shape.
        exact: Exact values and reach of the same shape.
        well_conditioned: Bound of reach / |t| up to which 4 ulp of the result itself are demanded.

    Raises:
        ValueError: The shapes differ.
    """
    if actual.shape != exact.shape:
        raise ValueError(f"results have shape {actual.shape}, the exact values {exact.shape}: both must be equal")
    if not np.isfinite(actual).all():
        return Agreement(actual.size, math.inf, 0, math.inf, math.inf, math.inf)
    subtract = np.frompyfunc(lambda y, t: mpmath.fabs(mpmath.fsub(mpmath.mpf(y), t, exact=True)), 2, 1)
    error = floats(np.asarray(subtract(actual.astype(object), exact.value), dtype=object))
    size = exact.size
    of_result = _over(error, size)
    well, fair = ((exact.reach <= bound * size) & (size > 0) for bound in (well_conditioned, WELL_CONDITIONED))
    return Agreement(
        actual.size,
        float(_over(error, exact.reach).max(initial=0.0)),
        int(well.sum()),
        float(of_result[well].max(initial=0.0)),
        float(of_result[fair].max(initial=0.0)),
        float(of_result[size > 0].max(initial=0.0)),
    )


def _over(error: Floats, scale: Floats) -> Floats:
    """Return error / ulp(scale), 0 where there is no error; a scale of 0 allows none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = error / np.where(scale > 0, np.spacing(scale), 0.0)
    return np.where(error == 0, 0.0, ratio)


def together(parts: list[Agreement]) -> Agreement:
    """Return the agreement over several cases."""
    return Agreement(
        sum(part.elements for part in parts),
        max((part.scale_ulp for part in parts), default=0.0),
        sum(part.well for part in parts),
        max((part.well_ulp for part in parts), default=0.0),
        max((part.fair_ulp for part in parts), default=0.0),
        max((part.any_ulp for part in parts), default=0.0),
    )
