"""As accurate as the reference: a non-inferiority test per stratum, over cases.

A case gives r = log2(port error / reference error), both against the truth and no smaller than the error of rounding
the truth itself. A stratum (component, profile, rung, length class, input family) passes if the upper confidence bound
of its mean r is within the margin, and no single case lies beyond the margin by two bits more.

The cases come in looks, planned beforehand: after the first few, a bound within the margin ends the test; else more
cases are added to the same sample. Only the last look can fail, or a case beyond. Each look spends an equal part of
the error probability (Bonferroni), so the bound holds at its level however many looks there were.

It is a margin that is tested, never a difference: two deterministic libraries always differ significantly. The
probability of no difference is reported and gates nothing.

A single case may have r large because the reference was lucky: where a single direction is amplified, the ratio of two
equally good errors is Cauchy's. So a case counts as beyond only if the port's error is also larger than what faithful
arithmetic makes there (`parity.backends.noise`).

Source: Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority (2010), chapter 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from parity.spec.precision import RungName
from parity.tolerance import constant

LOOKS: Final = (6, 12, 24, 48, 96)
"""Cases of a stratum after which its bound is formed."""

FEWEST_CASES: Final = 16
"""Cases that all strata of a component, profile and rung have together after the first look.

A fault that shows in a quarter of the cases then stays unseen with a probability of 0.75**16 = 1 %.
"""

LEVEL: Final = 1e-3
"""Probability that a stratum whose true mean lies at the margin passes."""

LARGEST_GAIN: Final = 8.0
"""Bits by which one case may speak for the port: an exact result must not outweigh a hundred poor ones."""

LARGEST_LOSS: Final = 8.0
"""Bits that a finite error counts for where the reference is exact and nothing was to be rounded."""

SMALLEST_SPREAD: Final = 1e-3
"""Standard deviation in bits below which a spread is taken to be this: six equal ratios prove no certainty."""


@dataclass(frozen=True)
class Stratum:
    """What is held fixed while cases vary."""

    component: str
    profile: str
    rung: RungName
    length_class: str
    family: str


@dataclass(frozen=True)
class Ratio:
    """One case of a stratum: r in bits, whether the port's error exceeds the predicted one, and that error in u."""

    bits: float
    exceeds_prediction: bool
    case: str
    port_bits: float = 0.0


@dataclass(frozen=True)
class Assessment:
    """Verdict on a stratum.

    Args:
        stratum: The stratum.
        margin: How many bits the port may lose on average.
        cases: How many were compared; 0 is a failure.
        mean, spread: Of r, in bits.
        bound: Upper confidence bound of the mean.
        largest: Largest r of a case.
        p_no_difference: Two-sided probability of such a mean where the true one is 0; reported only.
        beyond: Cases beyond the margin by two bits more whose error the prediction does not explain.
        passed: Whether both gates hold.
        reason: Which does not.
        worst_case: The case of the largest r.
        skipped: Why no case could be compared at this rung, if so; it is then neither passed nor failed.
        cases_skipped: How many cases were drawn and not compared, being out of the rung's range.
        bits: r of every case in the order of their numbers, None for one that was not compared.
        port_bits: log2 of the port's own relative error in units of u, by case as `bits`: what the reference's library
            makes of this machine has no part in it.
    """

    stratum: Stratum
    margin: float
    cases: int
    mean: float
    spread: float
    bound: float
    largest: float
    p_no_difference: float
    beyond: int
    passed: bool
    reason: str
    worst_case: str
    skipped: str = ""
    cases_skipped: int = 0
    bits: tuple[float | None, ...] = ()
    port_bits: tuple[float | None, ...] = ()


def looks(strata: int) -> tuple[int, ...]:
    """Return the looks of a component with so many strata a profile and rung: `LOOKS`, the first one raised.

    The first is no smaller than `FEWEST_CASES` / strata, so that few strata have as many cases together as many do.
    """
    first = max(LOOKS[0], math.ceil(FEWEST_CASES / max(strata, 1)))
    return tuple(dict.fromkeys(max(first, look) for look in LOOKS))


def skipped_stratum(stratum: Stratum, margin: float, reason: str, cases: int) -> Assessment:
    """Return the assessment of a stratum none of whose cases could be compared; `cases` were drawn."""
    return Assessment(
        stratum,
        margin,
        0,
        0.0,
        0.0,
        0.0,
        0.0,
        1.0,
        0,
        passed=True,
        reason="",
        worst_case="",
        skipped=reason,
        cases_skipped=cases,
    )


def error_bits(ratio: float) -> float:
    """Return log2 of an error ratio, no less than -`LARGEST_GAIN`; `LARGEST_LOSS` where it is infinite."""
    if ratio <= 2.0**-LARGEST_GAIN:
        return -LARGEST_GAIN
    return math.log2(ratio) if math.isfinite(ratio) else LARGEST_LOSS


def settled(assessment: Assessment) -> bool:
    """Whether no further look is needed: the bound is within the margin, or a case lies beyond."""
    return assessment.passed or assessment.beyond > 0


def judge_ratios(stratum: Stratum, margin: float, ratios: Sequence[Ratio], cases_skipped: int = 0) -> Assessment:
    """Judge a sample of ratios against `margin` bits; `cases_skipped` others could not be compared."""
    bits = np.array([ratio.bits for ratio in ratios])
    mean, spread = _moments(bits)
    bound = _bound(mean, spread, bits.size)
    limit = margin + constant("margin_beyond")
    beyond = [ratio for ratio in ratios if not ratio.bits <= limit and ratio.exceeds_prediction]
    worst = max(ratios, key=lambda ratio: ratio.bits, default=None)
    reason = ""
    if bits.size < 2:
        reason = f"only {bits.size} cases could be compared: no bound can be formed"
    elif beyond:
        reason = (
            f"{len(beyond)} of {len(ratios)} cases lose more than {limit:g} bits against the reference, the worst "
            f"{max(ratio.bits for ratio in beyond):.2f}"
        )
    elif not bound <= margin:
        reason = (
            f"less accurate than the reference: {mean:.2f} bits lost on average over {bits.size} cases, upper bound "
            f"{bound:.2f}, margin {margin:g}"
        )
    return Assessment(
        stratum=stratum,
        margin=margin,
        cases=int(bits.size),
        mean=mean,
        spread=spread,
        bound=bound,
        largest=worst.bits if worst else math.inf,
        p_no_difference=_p_no_difference(mean, spread, bits.size),
        beyond=len(beyond),
        passed=not reason,
        reason=reason,
        worst_case=worst.case if worst else "",
        cases_skipped=cases_skipped,
    )


def _moments(bits: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation; infinite where they do not exist."""
    if bits.size < 2 or not np.isfinite(bits).all():
        return math.inf, math.inf
    return float(bits.mean()), float(bits.std(ddof=1))


def _bound(mean: float, spread: float, cases: int) -> float:
    """mean + t s / sqrt(n), t Student's quantile at the level of one look."""
    if cases < 2 or not math.isfinite(mean):
        return math.inf
    return mean + _quantile(cases) * max(spread, SMALLEST_SPREAD) / math.sqrt(cases)


@functools.cache
def _quantile(cases: int) -> float:
    """Student's t at the level of one look."""
    return float(stats.t.ppf(1 - LEVEL / len(LOOKS), cases - 1))


def _p_no_difference(mean: float, spread: float, cases: int) -> float:
    if cases < 2 or not math.isfinite(mean):
        return 0.0
    return float(2 * stats.t.sf(abs(mean) / (max(spread, SMALLEST_SPREAD) / math.sqrt(cases)), cases - 1))


def false_alarm(mean: float, spread: float, margin: float) -> float:
    """Return the probability that a stratum with these true values fails at its last look.

    The bound exceeds the margin when Student's statistic of (margin - mean) falls below its quantile: noncentral t.
    """
    cases = LOOKS[-1]
    distance = (margin - mean) * math.sqrt(cases) / max(spread, SMALLEST_SPREAD)
    return float(stats.nct.cdf(_quantile(cases), cases - 1, distance)) if distance < 35 else 0.0
