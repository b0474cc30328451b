"""Rounding or meaning: what kind a failure is, from the two finest rungs.

The same port run in float64 tells: rounding falls by 2^29, a step left in float32 stays as large as float32 makes it
there, and another meaning stays where it was. Three measures say so: the plateau (the error at f64), the slope between
the rungs,

    s = log2(e_f32 / e_f64) / (53 - 24),   1 for rounding, 0 for a difference of meaning,

and, where float32 could have made the plateau, its roughness: how much of the error changes when all numbers are moved
by a few units of float32's last place. Rounding to float32 begins anew then, another meaning hardly notices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from parity.spec.precision import RUNGS, RungName
from parity.tolerance import constant

Kind = Literal["rounding", "precision leak", "different meaning", "not comparable"]

SLOPE_BITS: Final = RUNGS["f64"].digits - RUNGS["f32"].digits


@dataclass(frozen=True)
class Meaning:
    """Classification of one failing tensor.

    Args:
        kind: The word for it.
        plateau: Relative error at `finest`; None where nothing could be measured.
        slope: Between f32 and f64; None where one of them has no error or was not measured.
        kappa: Conditioning of the tensor.
        f32_noise: Relative error that float32 is predicted to make in it.
        roughness: Share of the error at f64 that changes with float32's last places; None where it was not needed.
        finest: The finest rung at which the port is built.
        only_at: The coarser rung at which the tensor fails while the finer ones are within their allowances, or "".
        reason: Why there is nothing to measure, for `not comparable`.
        leaks: Operations of MLX that computed in a coarser format than they were given, seen while the port ran at f64.
    """

    kind: Kind
    plateau: float | None
    slope: float | None
    kappa: float
    f32_noise: float = 0.0
    roughness: float | None = None
    finest: RungName = "f64"
    only_at: RungName | Literal[""] = ""
    reason: str = ""
    leaks: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """One line for a report."""
        if self.plateau is None:
            return f"not comparable: {self.reason or f'the port cannot be measured at {self.finest}'}"
        slope = "" if self.slope is None else f", slope {self.slope:.2f}"
        roughness = "" if self.roughness is None else f", roughness {self.roughness:.2g}"
        measured = f"error at {self.finest} {self.plateau:.2g}{slope}{roughness}, kappa {self.kappa:.2g}"
        return f"{self.kind}{self._confinement}{self._constant}: {measured}{self._leaks}"

    @property
    def _leaks(self) -> str:
        """The operations that are known to have leaked, whatever kind the error is of."""
        return f"; precision leak in {', '.join(self.leaks)}" if self.leaks else ""

    @property
    def _confinement(self) -> str:
        """What the finer rungs say, where they have nothing against the port."""
        if not self.only_at:
            return ""
        finer = " and ".join(finer_rungs(self.only_at))
        agree = "agrees" if self.only_at == "f32" else "agree"
        own = f"the fault is {self.only_at}'s own"
        return f", but only at {self.only_at}: {finer} {agree}, {own}, too few digits or a kernel"

    @property
    def _constant(self) -> str:
        """The other reading of a smooth error that is as small as one number rounded to float32."""
        small = self.plateau is not None and self.plateau <= RUNGS["f32"].u
        smooth = self.kind == "different meaning" and self.roughness is not None
        return ", or a constant rounded to float32" if small and smooth else ""


def finer_rungs(than: RungName) -> tuple[RungName, ...]:
    """Return the rungs whose verdicts say whether a failure at `than` is its alone: f64 and f32, if finer."""
    return tuple(name for name in ("f64", "f32") if RUNGS[name].digits > RUNGS[than].digits)


def classify(
    finest_error: float | None,
    f32_error: float | None,
    kappa: float,
    f32_noise: float,
    roughness: Callable[[], float | None] = lambda: None,
    finest: RungName = "f64",
    reason: str = "",
) -> Meaning:
    """Classify a failing tensor.

    * plateau <= 100 u max(kappa, 1), u of the finest rung: rounding;
    * no larger than the allowance of float32's predicted error, and rough: precision leak;
    * else: different meaning. A rung that is itself float32 holds no leak that could be told.

    Args:
        finest_error: Relative error of the port at `finest`, None if it could not be measured.
        f32_error: The same at f32.
        kappa: From jitter, `parity.backends.conditioning`.
        f32_noise: Relative error that float32 is predicted to make, `parity.backends.noise`.
        roughness: Measures it, `parity.backends.roughness`; asked for where it decides. None: the plateau alone does.
        finest: The finest rung at which the port is built.
        reason: Why there is no error, if so.
    """
    if finest_error is None or math.isnan(finest_error):
        return Meaning("not comparable", None, None, kappa, f32_noise, finest=finest, reason=reason)
    slope = None
    if finest == "f64" and f32_error and finest_error and math.isfinite(f32_error) and math.isfinite(finest_error):
        slope = math.log2(f32_error / finest_error) / SLOPE_BITS
    kind: Kind = "different meaning"
    rough = None
    if finest_error <= constant("rounding_plateau") * RUNGS[finest].u * max(kappa, 1.0):
        kind = "rounding"
    elif finest == "f64" and finest_error <= constant("propagated_rms") * f32_noise:
        rough = roughness()
        kind = "precision leak" if rough is None or rough > constant("leak_roughness") else "different meaning"
    return Meaning(kind, finest_error, slope, kappa, f32_noise, rough, finest)
