"""`parity laws`: every law put to both sides, a line for each law, component and side.

Frameworks are imported inside the command, after `MLX_ENABLE_TF32` is set.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from parity.errors import CaseError, TargetError
from parity.plain import json_text

if TYPE_CHECKING:
    from parity.cases import Case
    from parity.laws import Application, Law


class LawBudget(StrEnum):
    """Budgets as the command line spells them."""

    quick = "quick"
    standard = "standard"
    thorough = "thorough"


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command to `app`; `guarded` turns a user's mistake into one line and status 2."""

    @app.command()
    def laws(
        components: Annotated[
            list[str] | None,
            typer.Argument(metavar="COMPONENT", help="Components, for example `layer`. All if none is named."),
        ] = None,
        law: Annotated[list[str] | None, typer.Option(help="Only this law. Repeat it for more.")] = None,
        profile: Annotated[
            str | None, typer.Option(help="A profile's name or path. Default: $MLX_M2_PROFILE, else mlx_stable.")
        ] = None,
        budget: Annotated[
            LawBudget, typer.Option(help="How many cases are drawn for each law and component.")
        ] = LawBudget.quick,
        seed: Annotated[
            int | None,
            typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn. Default: 0 in CI, else random."),
        ] = None,
        case: Annotated[
            str | None, typer.Option(help="This one case of one COMPONENT and one --law, as a failure prints it.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Put laws that need no reference to both sides: silence, linearity, direct sums, order, causality, padding.

        One line for each law, component and side: cases checked, largest difference over allowance, ok or BROKEN with
        the case. A law of which nothing was checked is broken. Exit status 1 if any is, 3 if no law applies.
        """
        raise typer.Exit(
            guarded(
                lambda: _laws(components or [], law or [], profile, budget.value, seed, case, as_json),
                "not every law was checked",
            )
        )


def _laws(
    components: list[str],
    names: list[str],
    profile: str | None,
    budget: str,
    seed: int | None,
    case_json: str | None,
    as_json: bool,
) -> int:
    case = _case(components, names, case_json)
    import torch

    from parity.environment import warm_up
    from parity.laws import check_law
    from parity.spec.profile import DEFAULT_PROFILE, ENVIRONMENT_VARIABLE, load_profile
    from parity.suites import select_components
    from parity.suites.m2_bert_laws import LAWS

    torch.set_num_threads(1)
    warm_up()
    spelling = profile or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_PROFILE
    meaning = load_profile(spelling)
    wanted = {pair.name for pair in select_components(components, "parity laws")}
    unknown = sorted(set(names) - {law.name for law in LAWS})
    if unknown:
        raise TargetError(f"unknown law {unknown[0]!r}; allowed: {', '.join(law.name for law in LAWS)}")
    laws = [law for law in LAWS if not names or law.name in names]
    if case is None:
        drawn = _seed(seed)
        cases, source = _drawn_cases(budget, drawn), f"seed {drawn}"
    else:
        cases, source = _only(case, laws[0]), "the case that was given"
    out = Console(highlight=False, soft_wrap=True)
    outcomes = []
    for law in laws:
        for component in (name for name in law.components if name in wanted):
            made = check_law(law, component, meaning, cases)
            outcomes += made
            for outcome in made if not as_json else ():
                out.print(_line(outcome, spelling), markup=False)
    if as_json:
        sys.stdout.write(json_text([outcome.to_dict() for outcome in outcomes]))
    else:
        out.print(_summary(outcomes, source), markup=False)
    return 3 if not outcomes else 0 if all(outcome.passed for outcome in outcomes) else 1


def _case(components: list[str], names: list[str], case_json: str | None) -> Case | None:
    """Read the case that was given; before anything is run."""
    if case_json is None:
        return None
    if not len(components) == len(names) == 1:
        raise CaseError(f"--case needs exactly one COMPONENT and one --law; got {len(components)} and {len(names)}")
    from parity.cases import Case

    return Case.from_json(components[0], case_json)


def _drawn_cases(budget: str, seed: int) -> Callable[[Application], Sequence[Case]]:
    """Return what gives an application its corpus and drawn cases."""
    from parity.laws import LAW_BUDGETS, cases_of

    return lambda application: cases_of(application, LAW_BUDGETS[budget], seed)


def _only(case: Case, law: Law) -> Callable[[Application], Sequence[Case]]:
    """Return what gives the one case to those applications of the law that hold for its structure.

    Raises:
        CaseError: The case does not fit its component, or the law holds for none such.
    """
    from parity.laws import objections
    from parity.run import require_buildable

    applications = [application for application in law.applications if application.pair.name == case.component]
    for application in applications[:1]:
        require_buildable(application.pair, case)
    missing = [objections(application, case) for application in applications]
    if missing and all(missing):
        asked = " or ".join(dict.fromkeys(_asked(objection) for objection in missing))
        raise CaseError(
            f"law {law.name!r} does not hold for such a case of {case.component}: it would with {asked}; got "
            f"{case.to_json()}"
        )
    return lambda application: [] if objections(application, case) else [case]


def _asked(objection: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in objection.items())


def _seed(seed: int | None) -> int:
    if seed is not None:
        return seed
    import secrets

    drawn = 0 if os.environ.get("CI") else secrets.randbelow(2**32)
    sys.stderr.write(f"parity: seed {drawn}\n")
    return drawn


def _summary(outcomes: list[Any], source: str) -> str:
    broken = sum(not outcome.passed for outcome in outcomes)
    cases, elements = sum(outcome.cases for outcome in outcomes), sum(outcome.elements for outcome in outcomes)
    what = f"{len(outcomes)} laws of a component and a side: {broken} broken"
    return f"{what}; {cases} cases, {elements} elements, {source}"


def _line(outcome: Any, profile: str) -> str:
    worst = ", ".join(f"{rung} {ratio:.2g}" for rung, ratio in outcome.worst.items()) or "-"
    line = (
        f"{'ok    ' if outcome.passed else 'BROKEN'} {outcome.law:11} {outcome.component:23} {outcome.side:9} "
        f"{outcome.cases:4} cases, worst difference over allowance {worst}"
    )
    if outcome.passed:
        return line
    line += f": {outcome.reason}"
    if outcome.breach is None:
        return line
    words = [
        "parity",
        "laws",
        outcome.component,
        "--law",
        outcome.law,
        "--profile",
        profile,
        "--case",
        outcome.breach.case,
    ]
    return f"{line}\n  again: {shlex.join(words)}"
