"""Rounding or meaning: what kind a failure is, from the two finest rungs.

The same port run in float64 tells: rounding falls by 2^29, a step left in float32 stays at 1e-9 to 1e-7, and another
meaning stays where it was. Two measures say so, the plateau (the error at f64) and the slope between the rungs,

    s = log2(e_f32 / e_f64) / (53 - 24),   1 for rounding, 0 for a difference of meaning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from parity.spec.precision import RUNGS
from parity.tolerance import constant

Kind = Literal["rounding", "precision leak", "different meaning", "not comparable"]

SLOPE_BITS: Final = RUNGS["f64"].digits - RUNGS["f32"].digits


@dataclass(frozen=True)
class Meaning:
    """Classification of one failing tensor.

    Args:
        kind: The word for it.
        plateau: rel L2 at f64; None where nothing could be measured.
        slope: Between f32 and f64; None where one of them has no error or was not measured.
        kappa: Conditioning of the tensor.
    """

    kind: Kind
    plateau: float | None
    slope: float | None
    kappa: float

    @property
    def sentence(self) -> str:
        """One line for a report."""
        if self.plateau is None:
            return "not comparable: the port's tensor cannot be measured at f64"
        slope = "" if self.slope is None else f", slope {self.slope:.2f}"
        return f"{self.kind}: error at f64 {self.plateau:.2g}{slope}, kappa {self.kappa:.2g}"


def classify(f64_error: float | None, f32_error: float | None, kappa: float) -> Meaning:
    """Classify a failing tensor.

    * plateau <= 100 u64 max(kappa, 1): rounding;
    * below 1e-7: precision leak;
    * above: different meaning.

    Args:
        f64_error: rel L2 of the port at f64, None if it could not be measured.
        f32_error: The same at f32.
        kappa: From jitter, `parity.backends.conditioning`.
    """
    if f64_error is None or math.isnan(f64_error):
        return Meaning("not comparable", None, None, kappa)
    slope = None
    if f32_error and f64_error and math.isfinite(f32_error) and math.isfinite(f64_error):
        slope = math.log2(f32_error / f64_error) / SLOPE_BITS
    kind: Kind = "different meaning"
    if f64_error <= constant("rounding_plateau") * RUNGS["f64"].u * max(kappa, 1.0):
        kind = "rounding"
    elif f64_error < constant("leak_plateau"):
        kind = "precision leak"
    return Meaning(kind, f64_error, slope, kappa)
