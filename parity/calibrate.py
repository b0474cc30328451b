"""False alarms of a port that is known to be right: the strata of many runs, and the examination of fresh cases.

Each run has a seed of its own. It tests every stratum as `parity run` does, and puts one freshly drawn case to the
absolute gates: of one component after the other, at one rung after the other. What fails is a false alarm. Beside the
count stands what follows from the pooled sample: for every stratum the probability that its last look fails, by the
noncentral t distribution.

Source of the bound on the rate that was counted: Clopper, Pearson, Biometrika 26 (1934), 404.
"""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from parity.accuracy import Assessment, Stratum, false_alarm
from parity.cases import STRATUM_FAMILIES, draw_cases
from parity.examine import Bench, examine, first_bad
from parity.pairs import Pair
from parity.spec.precision import RUNGS
from parity.spec.profile import HyperProfile
from parity.strata import StrataPlan, assess_pair

CONFIDENCE: Final = 0.95
"""Level of the upper bound of the rate of runs with a false alarm."""


@dataclass(frozen=True, slots=True)
class StratumFigures:
    """What one run found of a stratum: `parity.accuracy.Assessment` without its cases.

    Thousands of runs are held at once. `skipped` says why no case could be compared, if so.
    """

    stratum: Stratum
    margin: float
    cases: int
    mean: float
    spread: float
    largest: float
    skipped: str = ""


@dataclass(frozen=True)
class CalibrationRun:
    """What one seed found."""

    seed: int
    strata: tuple[StratumFigures, ...]
    cases: int
    tensors: int
    alarms: tuple[str, ...]


@dataclass(frozen=True)
class StratumSummary:
    """A stratum over all runs: means and spreads are pooled, `alarm` is the probability that a run fails in it.

    A stratum with an infinite r, or of fewer than two cases, has an infinite mean: it fails for certain.
    """

    stratum: Stratum
    margin: float
    runs: int
    cases: int
    mean: float
    spread: float
    largest: float
    alarm: float


@dataclass(frozen=True)
class Calibration:
    """Finished runs."""

    runs: Sequence[CalibrationRun]

    @property
    def alarms(self) -> list[str]:
        """Every false alarm."""
        return [alarm for run in self.runs for alarm in run.alarms]

    def strata(self) -> list[StratumSummary]:
        """Pool every stratum over the runs; those of which no case could be compared are left out."""
        found: dict[Stratum, list[StratumFigures]] = defaultdict(list)
        for run in self.runs:
            for figures in run.strata:
                if not figures.skipped:
                    found[figures.stratum].append(figures)
        return [_pooled(stratum, figures) for stratum, figures in found.items()]

    def never_compared(self) -> list[Stratum]:
        """Return the strata of which no run could compare a case."""
        skipped = dict.fromkeys(figures.stratum for run in self.runs for figures in run.strata if figures.skipped)
        compared = {figures.stratum for run in self.runs for figures in run.strata if not figures.skipped}
        return [stratum for stratum in skipped if stratum not in compared]

    @property
    def probability(self) -> float:
        """What the probability that a run fails in any stratum is at most, at the pooled means and spreads.

        The strata share cases, so their probabilities are added: a union bound.
        """
        return min(1.0, math.fsum(summary.alarm for summary in self.strata()))

    @property
    def rate_bound(self) -> float:
        """Exact upper bound, at `CONFIDENCE`, of the rate of runs with a false alarm.

        Of k such runs among n it is the rate p with P(Binomial(n, p) <= k) = 1 - `CONFIDENCE`; 1 - 0.05^(1/n) for
        k = 0, and 1 where there was no run.
        """
        if not self.runs:
            return 1.0
        accused = sum(bool(run.alarms) for run in self.runs)
        counted = stats.binomtest(accused, len(self.runs), alternative="less")
        return float(counted.proportion_ci(CONFIDENCE, method="exact").high)


def _pooled(stratum: Stratum, found: Sequence[StratumFigures]) -> StratumSummary:
    """Pool by cases: the mean of all, and their spread around it."""
    counts = np.array([figures.cases for figures in found], dtype=np.float64)
    means = np.array([figures.mean for figures in found])
    spreads = np.array([figures.spread for figures in found])
    cases, margin = float(counts.sum()), found[0].margin
    mean = spread = math.inf
    alarm = 1.0
    if np.isfinite(means).all() and np.isfinite(spreads).all() and cases > 0:
        mean = float((counts * means).sum() / cases)
        squares = float(((counts - 1) * spreads**2 + counts * (means - mean) ** 2).sum())
        spread = math.sqrt(squares / max(cases - 1, 1))
        alarm = false_alarm(mean, spread, margin)
    largest = max(figures.largest for figures in found)
    return StratumSummary(stratum, margin, len(found), int(cases), mean, spread, largest, alarm)


def calibrate_seed(
    pairs: Sequence[Pair], profiles: Sequence[HyperProfile], seed: int, check: Callable[[], object] = bool
) -> CalibrationRun:
    """Run one seed: every stratum, and one drawn case of the pair whose turn it is."""
    assessments = [
        assessment
        for pair in pairs
        for assessment in assess_pair(StrataPlan(pair, profiles, list(RUNGS), tuple(STRATUM_FAMILIES), seed), check)
    ]
    alarms = [f"seed {seed}: {a.stratum}: {a.reason}" for a in assessments if not a.passed]
    check()
    turn, pair = seed // len(pairs), pairs[seed % len(pairs)]
    tensors, failing = _examination(pair, profiles[0], seed, turn)
    return CalibrationRun(seed, tuple(map(_figures, assessments)), 1, tensors, (*alarms, *failing))


def _figures(assessment: Assessment) -> StratumFigures:
    return StratumFigures(
        stratum=assessment.stratum,
        margin=assessment.margin,
        cases=assessment.cases,
        mean=assessment.mean,
        spread=assessment.spread,
        largest=assessment.largest,
        skipped=assessment.skipped,
    )


def _examination(pair: Pair, profile: HyperProfile, seed: int, turn: int) -> tuple[int, list[str]]:
    """Return (tensors judged, what failed) of the last of a few drawn cases, at the rung whose turn it is."""
    case = draw_cases(pair, 3, seed)[-1]
    rungs = [rung for rung in case.ladder if rung in pair.only_rungs]
    if not rungs:
        return 0, []
    rung = rungs[turn % len(rungs)]
    judgements = examine(Bench(pair, case, profile), profile, RUNGS[rung]).judgements
    bad = first_bad(judgements)
    again = shlex.join([*shlex.split(case.command(profile.name, rung, pair.spelling)), *pair.words])
    return len(judgements), [] if bad is None else [f"seed {seed}: {again}: {bad}"]
