"""`parity extremes`: the classes of both sides' results on NaN, infinities, zeros, subnormals and overflow.

Frameworks are imported inside the command, after `MLX_ENABLE_TF32` is set.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.console import Console

from parity.errors import ConfigError
from parity.plain import json_text
from parity.spec.precision import rung_called


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command to `app`; `guarded` turns a user's mistake into one line and status 2."""

    @app.command()
    def extremes(
        targets: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[TARGET]...",
                help="Components, or your own pairs as FILE.py, FILE.py::NAME or MODULE:ATTR. Default: the primitives.",
            ),
        ] = None,
        profile: Annotated[
            str | None, typer.Option(help="A profile's name, or the path of a JSON file. Targets alone have one.")
        ] = None,
        rung: Annotated[str, typer.Option(help="Where both sides of a target run.")] = "f64",
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn for a target.")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Show what the primitives of both sides make of NaN, infinities, zeros, subnormals and overflow.

        A line for each primitive, question and rung: the classes of the results, and where the sides differ both of
        them with the reason. Exit status 1 if they differ where no reason is known.

        With a TARGET: NaN and infinities in one element of each of its inputs, and whether they come out of the port
        where they come out of the reference. Exit status 3 if it has no input of floats.
        """

        def run() -> int:
            return _targets(targets, profile, rung, seed, as_json) if targets else _extremes(as_json)

        raise typer.Exit(guarded(run, "no question was answered"))


def _targets(targets: list[str], name: str | None, rung_name: str, seed: int, as_json: bool) -> int:
    from parity.spec.profile import load_profile, require_built

    profile, rung = load_profile(name), rung_called(rung_name)
    require_built(profile)
    import torch

    from parity.environment import warm_up
    from parity.special_values import ask_pair
    from parity.suites import select

    torch.set_num_threads(1)
    warm_up()
    pairs = select(targets)
    for pair in pairs:
        if rung.name not in pair.only_rungs:
            raise ConfigError(f"{pair.name} has no rung {rung.name}: {pair.only_rungs_reason}")
    answers = [answer for pair in pairs for answer in ask_pair(pair, profile, rung, seed)]
    differing = [answer for answer in answers if answer.differs]
    if as_json:
        sys.stdout.write(json_text([dataclasses.asdict(answer) for answer in answers]))
    else:
        out = Console(highlight=False, soft_wrap=True)
        for answer in answers:
            out.print(f"{'new ' if answer.differs else 'same'}  {answer.line}", markup=False)
        out.print(f"{len(answers)} values planted: {len(differing)} come out elsewhere in the port", markup=False)
    return 3 if not answers else 1 if differing else 0


def _extremes(as_json: bool) -> int:
    import torch

    from parity.environment import warm_up
    from parity.suites.m2_bert_extremes import EXTREME_RUNGS, QUESTIONS, ask

    torch.set_num_threads(1)
    warm_up()
    answers = [ask(question, rung) for question in QUESTIONS for rung in EXTREME_RUNGS]
    if as_json:
        sys.stdout.write(json_text([_row(answer) for answer in answers]))
    else:
        out = Console(highlight=False, soft_wrap=True)
        for answer in answers:
            out.print(_line(answer), markup=False)
        counts = {status: sum(answer.status == status for answer in answers) for status in ("same", "known", "new")}
        out.print(
            f"{len(answers)} questions: {counts['same']} same, {counts['known']} differ for a known reason, "
            f"{counts['new']} differ without one",
            markup=False,
        )
    return 3 if not answers else 1 if any(answer.status == "new" for answer in answers) else 0


def _row(answer: Any) -> dict[str, Any]:
    reference, port = answer.classes
    question = answer.question
    return {
        "primitive": question.primitive,
        "question": question.what,
        "rung": answer.rung,
        "reference": list(reference),
        "port": list(port),
        "status": answer.status,
        "why": answer.why,
    }


def _line(answer: Any) -> str:
    reference, port = answer.classes
    question = answer.question
    line = f"{answer.status:5} {question.primitive:20} {question.what:26} {answer.rung}  {_runs(reference)}"
    if reference == port:
        return line
    return f"{line} | port: {_runs(port)}" + (f" ({answer.why})" if answer.why else "")


def _runs(classes: Iterable[str]) -> str:
    """Write equal neighbours once, with their number."""
    runs = ((name, len(list(group))) for name, group in itertools.groupby(classes))
    return " ".join(name if count == 1 else f"{name} x{count}" for name, count in runs)
