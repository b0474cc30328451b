"""`parity extremes`: the classes of both sides' results on NaN, infinities, zeros, subnormals and overflow.

Frameworks are imported inside the command, after `MLX_ENABLE_TF32` is set.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.console import Console

from parity.plain import json_text


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command to `app`; `guarded` turns a user's mistake into one line and status 2."""

    @app.command()
    def extremes(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
        """Show what the primitives of both sides make of NaN, infinities, zeros, subnormals and overflow.

        A line for each primitive, question and rung: the classes of the results, and where the sides differ both of
        them with the reason. Exit status 1 if they differ where no reason is known.
        """
        raise typer.Exit(guarded(lambda: _extremes(as_json), "no question was answered"))


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
