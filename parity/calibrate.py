"""False alarms of a port that is known to be right: the strata of many runs, and the examination of fresh cases.

Each run has a seed of its own. It tests every stratum as `parity run` does, and puts one freshly drawn case of every
component to the absolute gates, at a rung that changes with the seed. What fails is a false alarm. Beside the count
stands what follows from the pooled sample: for every stratum the probability that its last look fails, by the
noncentral t distribution.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.accuracy import Assessment, Stratum, false_alarm
from parity.cases import STRATUM_FAMILIES, draw_cases
from parity.examine import Bench, examine, first_bad
from parity.pairs import Pair
from parity.spec.precision import RUNGS
from parity.spec.profile import HyperProfile
from parity.strata import StrataPlan, assess_pair


@dataclass(frozen=True)
class CalibrationRun:
    """What one seed found."""

    seed: int
    assessments: tuple[Assessment, ...]
    cases: int
    tensors: int
    alarms: tuple[str, ...]


@dataclass(frozen=True)
class StratumSummary:
    """A stratum over all runs: means and spreads are pooled, `alarm` is the probability that a run fails in it."""

    stratum: Stratum
    margin: float
    runs: int
    cases: int
    mean: float
    spread: float
    largest: float
    alarm: float


@dataclass
class Calibration:
    """All runs so far."""

    runs: list[CalibrationRun] = field(default_factory=list)

    @property
    def alarms(self) -> list[str]:
        """Every false alarm."""
        return [alarm for run in self.runs for alarm in run.alarms]

    def strata(self) -> list[StratumSummary]:
        """Pool every stratum over the runs."""
        found: dict[Stratum, list[Assessment]] = defaultdict(list)
        for run in self.runs:
            for assessment in run.assessments:
                if not assessment.skipped:
                    found[assessment.stratum].append(assessment)
        return [_pooled(stratum, assessments) for stratum, assessments in found.items()]

    @property
    def probability(self) -> float:
        """Probability that a run fails in any stratum, at the pooled means and spreads."""
        return math.fsum(summary.alarm for summary in self.strata())


def _pooled(stratum: Stratum, assessments: Sequence[Assessment]) -> StratumSummary:
    """Pool by cases: the mean of all, and their spread around it."""
    counts = np.array([a.cases for a in assessments], dtype=np.float64)
    means, spreads = np.array([a.mean for a in assessments]), np.array([a.spread for a in assessments])
    cases = float(counts.sum())
    mean = float((counts * means).sum() / cases)
    squares = float(((counts - 1) * spreads**2 + counts * (means - mean) ** 2).sum())
    spread = math.sqrt(squares / max(cases - 1, 1))
    margin = assessments[0].margin
    largest = max(a.largest for a in assessments)
    alarm = false_alarm(mean, spread, margin)
    return StratumSummary(stratum, margin, len(assessments), int(cases), mean, spread, largest, alarm)


def calibrate_seed(
    pairs: Sequence[Pair], profiles: Sequence[HyperProfile], seed: int, check: Callable[[], object] = bool
) -> CalibrationRun:
    """Run one seed: every stratum, and one drawn case of every pair at one of its rungs."""
    assessments = [
        assessment
        for pair in pairs
        for assessment in assess_pair(StrataPlan(pair, profiles, list(RUNGS), tuple(STRATUM_FAMILIES), seed), check)
    ]
    alarms = [f"seed {seed}: {a.stratum}: {a.reason}" for a in assessments if not a.passed]
    cases = tensors = 0
    for pair in pairs:
        check()
        judged, failing = _examination(pair, profiles[0], seed)
        cases, tensors = cases + 1, tensors + judged
        alarms += failing
    return CalibrationRun(seed, tuple(assessments), cases, tensors, tuple(alarms))


def _examination(pair: Pair, profile: HyperProfile, seed: int) -> tuple[int, list[str]]:
    """Return (tensors judged, what failed) of the last of a few drawn cases, at the rung whose turn it is."""
    case = draw_cases(pair, 3, seed)[-1]
    rungs = [rung for rung in case.ladder if rung in pair.only_rungs]
    rung = rungs[seed % len(rungs)]
    judgements = examine(Bench(pair, case, profile), profile, RUNGS[rung]).judgements
    bad = first_bad(judgements)
    return len(judgements), [] if bad is None else [f"seed {seed}: {case.command(profile.name, rung)}: {bad}"]
