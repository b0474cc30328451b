"""Architectures of `transformers` against the ports of the same name in `mlx_lm`, tiny, random, nothing downloaded.

A row builds the model of `transformers` from a small configuration, draws its weights, hands configuration and
checkpoint to the port as its own loader would (`ModelArgs.from_dict`, `sanitize`, strict loading) and compares the
logits of a batch at every position: at float64, where both must agree, and at float32, where the port may lose no more
bits against the truth than the reference does. Truth is the reference in float64, its requests for float32 redirected.

A red row names its cause, and how little puts it right: that is run too, and must turn the row green. Which module errs
is measured (`parity.suites.zoo_blame`), and the stated culprit must lie in it.
Neither library is imported before a row is run: `requirements` says what is missing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from parity.accuracy import LOOKS, Assessment, Ratio, Stratum, error_bits, judge_ratios, settled
from parity.errors import TargetError
from parity.meaning import Meaning, classify
from parity.metrics.error import error_ratio, quantisation_error
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS
from parity.suites.zoo_blame import Blamed, blame, least_that_answers
from parity.suites.zoo_sides import (
    LENGTH,
    NO_REMEDY,
    REFUSALS,
    Architecture,
    Exhibit,
    Remedy,
    exhibit,
    port_logits,
    relative,
)
from parity.tolerance import constant

SEEDS: Final = tuple(range(LOOKS[-1]))
"""As many as the accuracy test's last look has cases; most rows are settled by the first."""

REQUIRED: Final = ("transformers", "mlx_lm")
DISTRIBUTIONS: Final = ("transformers", "mlx-lm", "mlx", "torch")


@dataclass(frozen=True)
class Figures:
    """What was measured of one port over the seeds of one or more looks.

    Attributes:
        seeds: How many sets of weights and inputs were drawn until the verdict was settled.
        f64: Largest relative L2 error of the port's float64 logits; None where the port refuses.
        f32: Largest relative L2 error of its float32 logits.
        reference_f32: The same of the reference's float32.
        bits: Mean of log2(port's error / reference's) at float32.
        bound: Upper confidence bound of that mean.
        largest: Largest of them.
        refusal: What the port said when it refused, else ''.
        problem: Why it is red, else ''.
        leaks: Precision leaks of the port at float64, by operation.
    """

    seeds: int
    f64: float | None
    f32: float | None
    reference_f32: float | None
    bits: float | None
    bound: float | None
    largest: float | None
    refusal: str
    problem: str
    leaks: tuple[str, ...]

    @property
    def green(self) -> bool:
        """Whether the port agrees at float64 and is no less accurate at float32."""
        return not self.problem

    @property
    def meaning(self) -> Meaning:
        """What kind of error it is, by the figures of both precisions.

        The reference's own error at float32 says what rounding amounts to, and, in units of u, how far it is carried.
        """
        noise = 0.0 if self.reference_f32 is None else self.reference_f32
        return classify(self.f64, self.f32, noise / RUNGS["f32"].u, noise, reason=self.refusal)


@dataclass(frozen=True)
class ZooRow:
    """One architecture, measured.

    Attributes:
        name: Of the architecture.
        reference: The reference's class.
        port: Module of `mlx_lm.models`.
        given: The port as it is.
        remedied: The port with the remedy of a known cause; None if it is thought to be green.
        idle: Parts of the remedy without which the row is green as well: there should be none.
        blamed: Modules of the port that the blame table found to err by themselves; none if the row is green.
        granted: The parts of the remedy without which there is no port to blame.
        reference_leak: Largest relative L2 error of the reference's own float64, its requests for float32 granted.
        reference_leaks: Where the reference asks for float32: function and line, how often.
        expected: 'green' or 'red'.
        culprits, kind, cause, source: As in `Red`; none and '' if it is green.
        versions: Of the libraries.
    """

    name: str
    reference: str
    port: str
    given: Figures
    remedied: Figures | None
    idle: tuple[str, ...]
    blamed: tuple[Blamed, ...]
    granted: tuple[str, ...]
    reference_leak: float
    reference_leaks: tuple[str, ...]
    expected: Literal["green", "red"]
    culprits: tuple[str, ...]
    kind: str
    cause: str
    source: str
    versions: Mapping[str, str]

    @property
    def verdict(self) -> Literal["green", "red"]:
        """Of the port as it is."""
        return "green" if self.given.green else "red"

    @property
    def located(self) -> bool:
        """Whether every module that was blamed holds a stated culprit, and every stated culprit lies in one of them.

        None may be blamed where the row is green, or where the port refuses and does nothing wrong once it is built.
        """
        if not self.blamed and not self.given.green and not self.given.refusal:
            return False
        return all(any(each.holds(stated) for stated in self.culprits) for each in self.blamed) and all(
            any(each.holds(stated) for each in self.blamed) for stated in self.culprits
        )

    @property
    def explained(self) -> bool:
        """Whether the row is as expected; if red, where it is stated to be, and green by its remedy and no less."""
        remedied = self.remedied is None or self.remedied.green
        return self.verdict == self.expected and remedied and not self.idle and self.located

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and what is concluded from them as JSON knows them."""
        return {
            **asdict(self),
            "verdict": self.verdict,
            "classification": self.given.meaning.kind,
            "located": self.located,
            "explained": self.explained,
        }


def requirements() -> str:
    """Return which of the two libraries are not installed, as a reason to skip; '' if none is missing."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: `pip install --group zoo`" if missing else ""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that a row depends on."""
    return {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}


def run_zoo(
    architectures: Sequence[Architecture],
    seeds: Sequence[int] = SEEDS,
    spoil: Callable[[Any], None] | None = None,
    initial: bool = False,
) -> list[ZooRow]:
    """Measure architectures, as they are and by the remedies of their known causes.

    Args:
        architectures: Rows of `parity.suites.zoo_architectures.ARCHITECTURES`, or others.
        seeds: One set of weights and inputs each, used up in the looks of `parity.accuracy`: further ones are drawn
            while the verdict at float32 is open. The confidence bound needs two or more.
        spoil: Changes every port after its weights are loaded: a fault planted in it, for the tests.
        initial: Leave the weights as the library initialises them: nearly nothing then depends on most of them.

    Raises:
        TargetError: One of the libraries is not installed.
    """
    if reason := requirements():
        raise TargetError(reason)
    return [_row(architecture, Exhibits(architecture, seeds, initial), spoil) for architecture in architectures]


def _row(architecture: Architecture, exhibits: Exhibits, spoil: Callable[[Any], None] | None) -> ZooRow:
    red = architecture.red
    given = _figures(architecture, exhibits, NO_REMEDY, spoil)
    remedied = None if red is None else _figures(architecture, exhibits, red.remedy, spoil)
    blamed, granted = _blamed(architecture, exhibits.first(1)[0], given, spoil)
    return ZooRow(
        name=architecture.name,
        reference=architecture.model_class,
        port=architecture.port,
        given=given,
        remedied=remedied,
        idle=() if red is None else _idle(architecture, exhibits.first(1)[0], red.remedy),
        blamed=blamed,
        granted=granted,
        reference_leak=max(relative(each.reference_f64, each.truth) for each in exhibits.drawn),
        reference_leaks=tuple(sorted({leak for each in exhibits.drawn for leak in each.leaks})),
        expected="green" if red is None else "red",
        culprits=red.culprits if red else (),
        kind=red.kind if red else "",
        cause=red.cause if red else "",
        source=red.source if red else "",
        versions=versions(),
    )


# --- the exhibits ---------------------------------------------------------------------------------------------------


class Exhibits:
    """The exhibits of an architecture, each built when it is first asked for.

    Attributes:
        drawn: Those built so far, in the order of the seeds.
    """

    def __init__(self, architecture: Architecture, seeds: Sequence[int], initial: bool = False) -> None:
        self.drawn: list[Exhibit] = []
        self._architecture, self._seeds, self._initial = architecture, seeds, initial

    def first(self, count: int) -> list[Exhibit]:
        """Return the first `count` of them, fewer if there are fewer seeds."""
        for seed in self._seeds[len(self.drawn) : count]:
            self.drawn.append(exhibit(self._architecture, seed, self._initial))
        return self.drawn[:count]

    def looks(self) -> Iterator[list[Exhibit]]:
        """Yield those of the first look, of the first and second, and so on until the seeds are used up."""
        for count in LOOKS:
            yield self.first(count)
            if count >= len(self._seeds):
                return


# --- figures --------------------------------------------------------------------------------------------------------


def _figures(
    architecture: Architecture, exhibits: Exhibits, remedy: Remedy, spoil: Callable[[Any], None] | None
) -> Figures:
    doubles: list[float] = []
    singles: list[float] = []
    ratios: list[Ratio] = []
    leaks: dict[str, None] = {}
    for look in exhibits.looks():
        try:
            for place, shown in enumerate(look[len(doubles) :], start=len(doubles)):
                logits, found = port_logits(architecture, shown, "float64", remedy, spoil)
                leaks |= dict.fromkeys(found)
                doubles.append(relative(logits, shown.truth))
                logits, _ = port_logits(architecture, shown, "float32", remedy, spoil)
                singles.append(relative(logits, shown.truth))
                ratios.append(Ratio(_bits(logits, shown), exceeds_prediction=True, case=str(place)))
        except REFUSALS as refusal:
            words = f"{type(refusal).__name__}: {' '.join(str(refusal).split())}"
            return Figures(len(look), None, None, None, None, None, None, words, f"the port refuses: {words}", ())
        judged = judge_ratios(
            Stratum(architecture.name, "zoo", "f32", str(LENGTH), "normal"), constant("margin"), ratios
        )
        problem = _problem(max(doubles), tuple(leaks), judged)
        if settled(judged) or problem != judged.reason:
            break
    return Figures(
        seeds=len(look),
        f64=max(doubles),
        f32=max(singles),
        reference_f32=max(relative(shown.reference_f32, shown.truth) for shown in look),
        bits=judged.mean,
        bound=judged.bound,
        largest=judged.largest,
        refusal="",
        problem=problem,
        leaks=tuple(leaks),
    )


def _idle(architecture: Architecture, shown: Exhibit, remedy: Remedy) -> tuple[str, ...]:
    def agrees(less: Remedy) -> bool:
        try:
            logits, _ = port_logits(architecture, shown, "float64", less)
        except REFUSALS:
            return False
        return relative(logits, shown.truth) <= constant("zoo_float64")

    return tuple(part for part, less in remedy.lessened().items() if agrees(less))


def _blamed(
    architecture: Architecture, shown: Exhibit, given: Figures, spoil: Callable[[Any], None] | None
) -> tuple[tuple[Blamed, ...], tuple[str, ...]]:
    """Blame a red port's modules, at f32 if it agrees at f64; one that refuses is given what it takes to be built."""
    if given.green:
        return (), ()
    remedy = NO_REMEDY if architecture.red is None else architecture.red.remedy
    least = least_that_answers(architecture, shown, remedy)
    if least is None:
        return (), ()
    agrees = given.f64 is not None and given.f64 <= constant("zoo_float64")
    found = blame(architecture, shown, "f32" if agrees else "f64", least, spoil)
    return found, tuple(least.lessened())


def _problem(f64: float, leaks: tuple[str, ...], judged: Assessment) -> str:
    bound = constant("zoo_float64")
    if not f64 <= bound:
        return f"differs at float64: relative L2 error {f64:.1e}, allowed {bound:.0e}"
    if leaks:
        return f"precision leaks at float64: {', '.join(leaks)}"
    return judged.reason


def _bits(logits: Array, shown: Exhibit) -> float:
    """log2 of the error ratio at float32, neither error taken below that of rounding the truth."""
    if logits.shape != shown.truth.shape or not np.isfinite(logits).all():
        return error_bits(math.inf)
    rounded = quantisation_error(shown.truth, RUNGS["f32"])
    port, reference = (float(np.linalg.norm(side - shown.truth)) for side in (logits, shown.reference_f32))
    return error_bits(error_ratio(port, reference, rounded))
