"""A law put to both sides over drawn cases, and what came of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from parity.cases import Case, corpus_cases, draw_cases
from parity.laws.law import Application, Law
from parity.laws.subject import SIDES, Ground, Side, Subject
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import HyperProfile

LAW_RUNGS: Final[tuple[RungName, ...]] = ("f64", "f32")
"""Laws ask for the meaning, so float64 comes first; in sixteen bits a law would measure nothing but rounding."""

LAW_BUDGETS: Final = {"quick": 2, "standard": 10, "thorough": 60}
"""Cases that Hypothesis draws for an application beside its corpus."""


@dataclass(frozen=True)
class Breach:
    """A case in which a law does not hold: the first of a side, on its finest rung."""

    rung: str
    case: str
    what: str
    ratio: float
    detail: str = ""


@dataclass
class Outcome:
    """What came of one law, for one component and one side.

    Attributes:
        law, component, side: Which.
        cases: Cases checked, each on every rung.
        elements: Elements compared.
        worst: Largest difference over allowance, by rung.
        breach: The first case in which the law does not hold, or None.
    """

    law: str
    component: str
    side: str
    cases: int = 0
    elements: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    breach: Breach | None = None

    @property
    def passed(self) -> bool:
        """Whether something was compared and every claim held."""
        return self.breach is None and self.cases > 0 and self.elements > 0

    @property
    def reason(self) -> str:
        """Why not, in words; empty when passed."""
        if self.breach is not None:
            return f"{self.breach.what} ({self.breach.ratio:.3g} times what is allowed at {self.breach.rung})"
        return "" if self.passed else "nothing was checked"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it, non-finite numbers excepted."""
        return {**asdict(self), "passed": self.passed, "reason": self.reason}


def cases_of(application: Application, count: int, seed: int) -> list[Case]:
    """Return the application's corpus and `count` drawn cases, repeats removed."""
    pair = application.pair
    return list(dict.fromkeys([*corpus_cases(pair, seed), *draw_cases(pair, count, seed)]))


def objections(application: Application, case: Case) -> dict[str, Any]:
    """Return what the application asks of the structure and `case` does not have, by key; empty if the law applies.

    The case's structure has every size that the pair needs.
    """
    given = case.options
    narrowed = application.pair.narrow(dict(given))
    return {key: value for key, value in narrowed.items() if key not in given or given[key] != value}


def check_law(
    law: Law,
    component: str,
    profile: HyperProfile,
    cases: Callable[[Application], Sequence[Case]],
    on_case: Callable[[], object] = lambda: None,
) -> list[Outcome]:
    """Put `law` to both sides of `component`.

    Args:
        law: The law.
        component: One of its components.
        profile: The profile under which both sides run.
        cases: The cases of an application.
        on_case: Called after each case.

    Returns:
        One outcome for each side, reference first.
    """
    outcomes = {side: Outcome(law.name, component, side) for side in SIDES}
    for application in law.applications:
        if application.pair.name == component:
            for case in cases(application):
                _check_case(application, case, profile, outcomes)
                on_case()
    return list(outcomes.values())


def _check_case(application: Application, case: Case, profile: HyperProfile, outcomes: dict[Side, Outcome]) -> None:
    ground = Ground(application.pair, case, profile)
    for side, outcome in outcomes.items():
        before = outcome.elements
        for rung in LAW_RUNGS:
            _ask(application, Subject(ground, side, RUNGS[rung]), outcome)
        outcome.cases += outcome.elements > before


def _ask(application: Application, subject: Subject, outcome: Outcome) -> None:
    rung, case = subject.rung.name, subject.ground.case.to_json()
    try:
        claims = list(application.check(subject))
    except Exception as error:  # noqa: BLE001 - a side that raises breaks the law, whatever it raises
        _break(
            outcome, Breach(rung, case, f"raised {type(error).__name__}: {error}", float("inf"), traceback.format_exc())
        )
        return
    for claim in claims:
        ratio = claim.ratio
        outcome.elements += claim.elements
        outcome.worst[rung] = max(outcome.worst.get(rung, 0.0), ratio)
        if ratio > 1:
            _break(outcome, Breach(rung, case, claim.what, ratio))


def _break(outcome: Outcome, breach: Breach) -> None:
    if outcome.breach is None or (breach.rung == "f64" and outcome.breach.rung != "f64"):
        outcome.breach = breach
