"""From evidence to an answer: does the port mean what it should, and if not, what does it behave as?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from parity.attribution.alternative import Alternative, Probe
from parity.attribution.constants import number
from parity.attribution.evidence import Ground, RunPort, UnattributableError, applicable, run_the_port, survey
from parity.attribution.projection import Projection, apart, project
from parity.pairs import Pair
from parity.spec.arrays import Array
from parity.spec.precision import Rung
from parity.spec.profile import HyperProfile, load_profile, profile_names

Status = Literal["agrees", "explained", "unexplained", "impossible"]


@dataclass(frozen=True)
class Finding:
    """What the port's outputs say of one alternative.

    Args:
        name, says: The alternative's.
        beta, error: How much of its signature the residual has, fitted jointly, and the standard error.
        alone, alone_error: The same, fitted by itself.
        size: rms of the signature in units of the predicted rounding.
        closer: How many times closer the port is to this alternative than to its own meaning.
        gain: Gain in log-likelihood of this alternative over the own meaning, in nats, under the predicted rounding.
        collinear: Alternatives that a joint fit cannot part from this one on these cases (cross-talk).
    """

    name: str
    says: str
    beta: float
    error: float
    alone: float
    alone_error: float
    size: float
    closer: float
    gain: float
    collinear: tuple[str, ...] = ()

    @property
    def observable(self) -> bool:
        """Whether the cases can show it: the standard error of its beta is small enough for the gate."""
        return self.error < number("standard_error")


@dataclass(frozen=True)
class ProfileDistance:
    """A profile, and how many times closer the port is to its meaning than to the one it should have."""

    name: str
    closer: float


@dataclass(frozen=True)
class Attribution:
    """The answer for one port.

    Args:
        component, profile, rung: What was asked.
        status: `agrees`; `explained` by one alternative, or two at once; `unexplained`; `impossible`, with the reason.
        behaves_as: Names of the alternatives that explain the port.
        same_here: Others that cannot be told from the first on these cases.
        findings: All alternatives tried, by evidence, the best first.
        profiles: All profiles of the package, the nearest first.
        explained: Share of the squared residual that all alternatives together explain.
        residual: rms of the residual in units of the predicted rounding.
        elements: Numbers compared.
        reason: Why there is no answer.
    """

    component: str
    profile: str
    rung: str
    status: Status
    behaves_as: tuple[str, ...] = ()
    same_here: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    profiles: tuple[ProfileDistance, ...] = ()
    explained: float = 0.0
    residual: float = 0.0
    elements: int = 0
    reason: str = ""
    violations: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether the port shows its own meaning and nothing else."""
        return self.status == "agrees"

    def finding(self, name: str) -> Finding:
        """Return the finding of an alternative.

        Raises:
            KeyError: It was not tried.
        """
        return {each.name: each for each in self.findings}[name]


class Investigation:
    """One question: which meaning does the port of `pair` compute? Prepared once, answered for any number of ports.

    Args:
        pair: Reference and port.
        probes: Cases, each on a ladder that holds `rung`.
        profile: The meaning that the port should have.
        rung: Where the port runs.
        alternatives: The library; those that do not concern the pair are passed over.
    """

    def __init__(
        self,
        pair: Pair,
        probes: Sequence[Probe],
        profile: HyperProfile,
        rung: Rung,
        alternatives: Sequence[Alternative],
    ) -> None:
        self.pair, self.profile, self.rung = pair, profile, rung
        self.tried = applicable(alternatives, pair, profile)
        self.profiles = [load_profile(name) for name in profile_names()]
        self.ground = survey(pair, probes, profile, rung, self.tried, self.profiles)

    def attribute(self, port: RunPort = run_the_port) -> Attribution:
        """Run the port on the probes and say what its outputs show."""
        try:
            residual = self.ground.residual(port)
        except UnattributableError as error:
            return _impossible(self.pair, self.profile, self.rung, error)
        return self._answer(residual)

    def _answer(self, residual: Array) -> Attribution:
        ground, tried = self.ground, self.tried
        fit = project(residual, ground.signatures, ground.noise)
        ranked = [int(column) for column in np.argsort(fit.distance, kind="stable") if fit.norm[column] > 0]
        best = _explains(fit, residual, ground.signatures, ranked)
        violations = _violations(fit, tried)
        rms = fit.residual / math.sqrt(fit.elements)
        quiet = rms <= number("within_noise") and not violations
        return Attribution(
            component=self.pair.name,
            profile=self.profile.name,
            rung=self.rung.name,
            status="explained" if best else "agrees" if quiet else "unexplained",
            behaves_as=tuple(tried[column].name for column in best),
            same_here=_same_here(ground, best, tried),
            findings=tuple(_finding(fit, column, tried) for column in [*ranked, *_places(fit.norm == 0)]),
            profiles=_profile_distances(residual, ground.profiles, self.profiles),
            explained=fit.explained,
            residual=rms,
            elements=fit.elements,
            violations=violations,
        )


def attribute(
    pair: Pair,
    probes: Sequence[Probe],
    profile: HyperProfile,
    rung: Rung,
    alternatives: Sequence[Alternative],
    port: RunPort = run_the_port,
) -> Attribution:
    """Say which meaning the port of `pair` computes, from its outputs on `probes` alone; arguments as above.

    `port` says how to run the port; tests put something else in its place.
    """
    try:
        investigation = Investigation(pair, probes, profile, rung, alternatives)
    except UnattributableError as error:
        return _impossible(pair, profile, rung, error)
    return investigation.attribute(port)


def _impossible(pair: Pair, profile: HyperProfile, rung: Rung, error: UnattributableError) -> Attribution:
    return Attribution(pair.name, profile.name, rung.name, "impossible", reason=str(error))


def _finding(fit: Projection, column: int, tried: Sequence[Alternative]) -> Finding:
    same = [k for k, group in enumerate(fit.groups) if group == fit.groups[column] and k != column]
    return Finding(
        name=tried[column].name,
        says=tried[column].says,
        beta=float(fit.beta[column]),
        error=float(fit.error[column]),
        alone=float(fit.alone[column]),
        alone_error=float(fit.alone_error[column]),
        size=float(fit.norm[column]) / math.sqrt(fit.elements),
        closer=_quotient(fit.residual, float(fit.distance[column])),
        gain=(fit.residual**2 - float(fit.distance[column]) ** 2) / 2,
        collinear=tuple(tried[k].name for k in same),
    )


def _violations(fit: Projection, tried: Sequence[Alternative]) -> tuple[str, ...]:
    """Return the alternatives that count and whose beta is not within the gate around 0."""
    counts = fit.error < number("standard_error")
    return tuple(tried[k].name for k in _places(counts & (np.abs(fit.beta) > number("beta"))))


def _explains(fit: Projection, residual: Array, signatures: Array, ranked: Sequence[int]) -> tuple[int, ...]:
    """Return the closest alternative if it explains the port, else two that do together, else nothing.

    One explains it if its beta, by itself, is within the gate around 1, with a standard error that counts, and what
    is left is rounding. Where nothing leaves rounding alone, a hundredth of the squared residual may be left.
    """
    first = tuple(column for column in ranked[:1] if _is_one(fit.alone[column], fit.alone_error[column]))
    both = _explaining_pair(fit, residual, signatures, ranked)
    for enough in (_within_noise, _within_share):
        for columns in (first, both):
            rest = residual - signatures[:, columns].sum(axis=1)
            if columns and enough(fit, float(np.linalg.norm(rest))):
                return columns
    return ()


def _explaining_pair(fit: Projection, residual: Array, signatures: Array, ranked: Sequence[int]) -> tuple[int, ...]:
    """Return the two alternatives with a joint beta near 1 whose signatures together leave the least.

    Adding up holds for small departures alone, and those are the ones that hide in one another.
    """
    ones = [column for column in ranked if _is_one(fit.beta[column], fit.error[column])]
    pairs = [(first, second) for i, first in enumerate(ones) for second in ones[i + 1 :]]

    def left(columns: tuple[int, int]) -> float:
        return float(np.linalg.norm(residual - signatures[:, columns].sum(axis=1)))

    return min(pairs, key=left, default=())


def _places(mask: npt.NDArray[np.bool_]) -> list[int]:
    return [int(place) for place in np.flatnonzero(mask)]


def _is_one(beta: float, error: float) -> bool:
    return error < number("standard_error") and abs(beta - 1) <= number("beta")


def _within_noise(fit: Projection, left: float) -> bool:
    return left < fit.residual and left <= number("within_noise") * math.sqrt(fit.elements)


def _within_share(fit: Projection, left: float) -> bool:
    return left < fit.residual and 1 - (left / fit.residual) ** 2 >= number("share")


def _same_here(ground: Ground, best: tuple[int, ...], tried: Sequence[Alternative]) -> tuple[str, ...]:
    if not best:
        return ()
    far = apart(ground.signatures, ground.noise, best[0])
    return tuple(tried[k].name for k in _places(far < number("apart")) if k not in best)


def _profile_distances(
    residual: Array, signatures: Array, profiles: Sequence[HyperProfile]
) -> tuple[ProfileDistance, ...]:
    own = float(np.linalg.norm(residual))
    left = np.linalg.norm(residual[:, None] - signatures, axis=0)
    order = np.argsort(left, kind="stable")
    return tuple(ProfileDistance(profiles[k].name, _quotient(own, float(left[k]))) for k in order)


def _quotient(residual: float, left: float) -> float:
    if residual == left:
        return 1.0
    return residual / left if left > 0 else math.inf
