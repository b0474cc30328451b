"""`parity gate`: whether a run may pass, against what was accepted."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from parity.errors import NothingToJudgeError, TargetError
from parity.plain import json_text, one_line

BASELINE: Final = Path("reports/baseline.json")
LEDGER: Final = Path("reports/ledger.json")


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command `gate` to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def gate(
        run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of `parity run`.")],
        baseline: Annotated[Path, typer.Option(help="What was accepted.")] = BASELINE,
        ledger: Annotated[Path, typer.Option(help="Who answers for it.")] = LEDGER,
        other_bits: Annotated[
            bool,
            typer.Option(
                "--allow-other-bits", help="Let other bits be a warning where the accuracy is within its margins."
            ),
        ] = False,
        markdown: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write the decision as Markdown, ledger and proposals too.")
        ] = None,
        html: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write the run's page with the decision in it.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
    ) -> None:
        """Stop a run whose numerics drifted from the accepted baseline: docs/gate.md.

        Three tiers: in the baseline's environment, with its seed, the same bits; everywhere, upper confidence bounds of
        the drift of every stratum and group within stated margins; and the absolute allowances of the run itself.

        Exit status 0 if it may pass, 1 for drift or a ledger out of order, 2 for a file that is missing or broken, 3 if
        there is nothing to judge: an empty, partial or stale run, or no baseline that fits.
        """
        raise typer.Exit(
            guarded(
                lambda: _gate(run, baseline, ledger, not other_bits, _Outputs(markdown, html, as_json)),
                "nothing was decided",
            )
        )


@dataclass(frozen=True)
class _Outputs:
    """Where the decision goes besides the terminal."""

    markdown: Path | None
    html: Path | None
    as_json: bool


def _gate(folder: Path, baseline: Path, ledger: Path, bits_stop: bool, outputs: _Outputs) -> int:
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    from parity.code import code_hash
    from parity.files import write_whole
    from parity.gate.baseline import read_baseline
    from parity.gate.decide import Today, decide
    from parity.gate.ledger import read_ledger
    from parity.gate.render import decision_document, decision_lines, decision_markdown, page_section
    from parity.gate.runs import read_run
    from parity.pages import read_run as read_files
    from parity.pages import render_page

    try:
        run = read_run(folder)
        accepted = read_baseline(baseline)
    except NothingToJudgeError as error:
        sys.stdout.write(f"NOTHING TO JUDGE: {one_line(error)}\n")
        return 3
    today = Today(datetime.date.today(), code_hash(), _own(run.own))
    decision = decide(run, accepted, read_ledger(ledger), today, bits_stop)
    if outputs.markdown is not None:
        write_whole(outputs.markdown, decision_markdown(decision), "choose another with --markdown")
    if outputs.html is not None:
        page = render_page(read_files(folder), page_section(decision))
        write_whole(outputs.html, page, "choose another with --html")
    if outputs.as_json:
        sys.stdout.write(json_text(decision_document(decision)))
    else:
        out = Console(highlight=False, soft_wrap=True)
        for line in decision_lines(decision):
            out.print(line, markup=False)
    return decision.exit_code


def _own(recorded: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of the code of the run's own pairs as it is now; without one that is gone there is none."""
    from parity.own_code import own_code
    from parity.suites import select

    try:
        select(list(recorded))
        return own_code(list(recorded))
    except TargetError:
        return {}
