"""Whether a port's accuracy drifted: mean r of a run's strata against that of accepted runs, with stated margins.

r = log2(port error / reference error) of a case (`parity.accuracy`). Two kinds of tests share a run's false alarms:

* of every stratum: D = mean r now - mean r accepted, its standard error s sqrt(1/n + 1/N) from the spread s of the N
  accepted cases;
* of every group (component, profile, rung): D = sum of w D_stratum over its strata whose r is not exact, w ~ 1/s^2. All
  cases of one number share a seed, over length classes and families, so their errors are not independent: the standard
  error comes from the sums over all strata of each number, which holds whatever the correlation.

A test fails if D + t_pass SE > margin: the upper confidence bound of the drift. The margin is what the accepted runs
can resolve, (t_pass + t_alarm) SE, and no less than `drift_floor`: a drift as large as the margin passes with a
probability of `LEVEL` at most, and no drift at all fails with one of `drift_alarm`, shared out over all tests
(Bonferroni).

Source: Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority (2010), chapter 2; of the standard
error of a group, Liang and Zeger, Biometrika 73 (1986) 13, and for estimated weights Meier, Biometrics 9 (1953) 59.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from parity.accuracy import LEVEL, SMALLEST_SPREAD, Stratum
from parity.tolerance import constant

Group = tuple[str, str, str]
"""Component, profile and rung."""

Bits = Sequence[float | None]
"""r of every case of a stratum by number, None for one that was not compared."""

Sample = Mapping[Stratum, Bits]
"""What one run found."""

EXACT: Final = 0.01
"""Spread in bits below which the r of a stratum is exact: rounding the output makes all of the error on both sides."""

LEAST_SHARE: Final = 3.0
"""A spread counts for no less than the group's median over this: one estimated too small must not outweigh the rest."""


@dataclass(frozen=True)
class StratumBaseline:
    """The accepted r of a stratum.

    Args:
        stratum: The stratum.
        cases: Cases compared over all accepted runs.
        fewest: The fewest of one run.
        mean, spread: Of r over all of them, in bits.
    """

    stratum: Stratum
    cases: int
    fewest: int
    mean: float
    spread: float

    @property
    def group(self) -> Group:
        """The group that the stratum belongs to."""
        return self.stratum.component, self.stratum.profile, self.stratum.rung

    @property
    def exact(self) -> bool:
        """Whether the stratum has no part in the group's mean."""
        return self.spread < EXACT


@dataclass(frozen=True)
class GroupBaseline:
    """How the mean r of a group varies from run to run: standard deviation in bits, and its degrees of freedom."""

    group: Group
    spread: float
    degrees: int


@dataclass(frozen=True)
class Accepted:
    """The accepted runs of one environment.

    Args:
        runs: How many.
        strata, groups: Their pooled figures.
    """

    runs: int
    strata: Sequence[StratumBaseline]
    groups: Sequence[GroupBaseline]

    @property
    def strata_alarm(self) -> float:
        """Probability of a false alarm that each stratum may have."""
        return constant("drift_alarm") / 2 / max(len(self.strata), 1)

    @property
    def groups_alarm(self) -> float:
        """The same of each group."""
        return constant("drift_alarm") / 2 / max(len(self.groups), 1)

    def strata_of(self, group: Group) -> list[StratumBaseline]:
        """Return the strata whose mean is that of the group: those with an error of their own."""
        return [stratum for stratum in self.strata if stratum.group == group and not stratum.exact]


@dataclass(frozen=True)
class Drift:
    """One test.

    Args:
        where: The group, or the stratum.
        cases: Cases compared now.
        drift: How many bits less accurate than accepted, on average.
        error: Standard error of that.
        lower, upper: Confidence bounds of the drift.
        margin: What it may be.
    """

    where: Group | Stratum
    cases: int
    drift: float
    error: float
    lower: float
    upper: float
    margin: float

    @property
    def grew(self) -> bool:
        """Whether the error grew by more than the margin, as far as can be excluded; a NaN counts as grown."""
        return not self.upper <= self.margin

    @property
    def shrank(self) -> bool:
        """Whether it shrank by more than the margin, by the same measure."""
        return not self.lower >= -self.margin

    @property
    def significance(self) -> float:
        """The drift in standard errors."""
        return self.drift / self.error if self.error > 0 else math.copysign(math.inf, self.drift)

    @property
    def percent(self) -> float:
        """The drift of the error in percent."""
        return 100 * math.expm1(self.drift * math.log(2))


def pool(samples: Sequence[Sample]) -> Accepted:
    """Pool the strata of accepted runs; those of which a run has fewer than two cases are left out.

    Raises:
        ValueError: An r is infinite: a port that cannot be compared is nothing to accept.
    """
    strata = [
        _pooled(stratum, [compared(sample.get(stratum, ())) for sample in samples])
        for stratum in dict.fromkeys(stratum for sample in samples for stratum in sample)
        if all(len(compared(sample.get(stratum, ()))) > 1 for sample in samples)
    ]
    groups = [
        _varying(group, [stratum for stratum in strata if stratum.group == group and not stratum.exact], samples)
        for group in dict.fromkeys(stratum.group for stratum in strata if not stratum.exact)
    ]
    return Accepted(len(samples), strata, groups)


def compared(bits: Bits) -> list[float]:
    """Return r of the cases that were compared."""
    return [value for value in bits if value is not None]


def _pooled(stratum: Stratum, found: Sequence[Sequence[float]]) -> StratumBaseline:
    values = np.array([value for run in found for value in run])
    if not np.isfinite(values).all():
        raise ValueError(f"{stratum} has an infinite ratio of errors")
    return StratumBaseline(
        stratum, int(values.size), min(map(len, found)), float(values.mean()), float(values.std(ddof=1))
    )


def _varying(group: Group, strata: Sequence[StratumBaseline], samples: Sequence[Sample]) -> GroupBaseline:
    """Estimate the variance of a run's group mean: the squared sums over strata of each number, averaged over runs."""
    shares = weights(strata)
    squares = 0.0
    for sample in samples:
        sums: dict[int, float] = defaultdict(float)
        for stratum, share in zip(strata, shares, strict=True):
            bits = sample[stratum.stratum]
            cases = len(compared(bits))
            for number, value in enumerate(bits):
                if value is not None:
                    sums[number] += share * (value - stratum.mean) / cases
        squares += math.fsum(value**2 for value in sums.values())
    numbers = len(samples) * min(stratum.fewest for stratum in strata)
    # The weights rest on estimated spreads: they are a little worse than they look.
    chosen = 1 + 4 * math.fsum(
        share * (1 - share) / (stratum.cases - 1) for share, stratum in zip(shares, strata, strict=True)
    )
    variance = squares / len(samples) * numbers / (numbers - 1) * chosen
    return GroupBaseline(group, math.sqrt(variance), numbers - 1)


def weights(strata: Sequence[StratumBaseline]) -> list[float]:
    """Return the share of each stratum in the group's mean, 1/s^2, none resting on a spread that is small by luck."""
    least = float(np.median([stratum.spread for stratum in strata])) / LEAST_SHARE
    inverse = [1 / max(stratum.spread, least, SMALLEST_SPREAD) ** 2 for stratum in strata]
    return [value / math.fsum(inverse) for value in inverse]


def stratum_drift(accepted: Accepted, baseline: StratumBaseline, bits: Bits) -> Drift:
    """Test one stratum; `bits` has at least one case."""
    now = compared(bits)
    spread = max(baseline.spread, SMALLEST_SPREAD)
    error, planned = (spread * math.sqrt(1 / cases + 1 / baseline.cases) for cases in (len(now), baseline.fewest))
    drift = math.fsum(now) / len(now) - baseline.mean
    return _drift(baseline.stratum, len(now), drift, error, planned, baseline.cases - 1, accepted.strata_alarm)


def stratum_margin(accepted: Accepted, baseline: StratumBaseline) -> float:
    """Return the margin of a stratum in bits."""
    error = max(baseline.spread, SMALLEST_SPREAD) * math.sqrt(1 / baseline.fewest + 1 / baseline.cases)
    return _margin(error, baseline.cases - 1, accepted.strata_alarm)


def group_drift(accepted: Accepted, baseline: GroupBaseline, sample: Sample) -> Drift:
    """Test one group; `sample` has at least one case of each of its strata."""
    strata = accepted.strata_of(baseline.group)
    found = [compared(sample[stratum.stratum]) for stratum in strata]
    drift = math.fsum(
        share * (math.fsum(now) / len(now) - stratum.mean)
        for share, stratum, now in zip(weights(strata), strata, found, strict=True)
    )
    planned = _group_error(accepted, baseline)
    # A run that compares fewer cases than planned knows less.
    fewer = max(stratum.fewest / len(now) for stratum, now in zip(strata, found, strict=True))
    error = planned * math.sqrt(max(fewer, 1.0))
    cases = sum(map(len, found))
    return _drift(baseline.group, cases, drift, error, planned, baseline.degrees, accepted.groups_alarm)


def group_margin(accepted: Accepted, baseline: GroupBaseline) -> float:
    """Return the margin of a group in bits."""
    return _margin(_group_error(accepted, baseline), baseline.degrees, accepted.groups_alarm)


def _group_error(accepted: Accepted, baseline: GroupBaseline) -> float:
    return max(baseline.spread, SMALLEST_SPREAD) * math.sqrt(1 + 1 / accepted.runs)


def _drift(
    where: Group | Stratum, cases: int, drift: float, error: float, planned: float, degrees: int, alarm: float
) -> Drift:
    reach = _quantile(LEVEL, degrees) * error
    return Drift(where, cases, drift, error, drift - reach, drift + reach, _margin(planned, degrees, alarm))


def _margin(error: float, degrees: int, alarm: float) -> float:
    return max(constant("drift_floor"), (_quantile(LEVEL, degrees) + _quantile(alarm, degrees)) * error)


@functools.cache
def _quantile(probability: float, degrees: int) -> float:
    """Student's t that is exceeded with this probability."""
    return float(stats.t.isf(probability, degrees))
