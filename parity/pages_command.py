"""`parity report` and `parity compare`: pages and files for continuous integration, made of runs' files alone."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

import typer


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the commands to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def report(
        run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, for example reports/latest.")],
        html: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Write the page here. Default, if nothing else is asked for: report.html in RUN_DIR.",
            ),
        ] = None,
        junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
        comment: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write Markdown of fewer than 60,000 characters, for a pull request."),
        ] = None,
        annotations: Annotated[
            bool,
            typer.Option(
                "--annotations", help="Print workflow commands that pin each failure to its pair's source line."
            ),
        ] = False,
    ) -> None:
        """Build pages from a finished run's files: nothing is run again.

        Examples:

        * `parity report reports/latest` builds its report.html anew
        * `parity report reports/latest --junit junit.xml --comment comment.md --annotations` for continuous integration

        Files that are missing, of another version, or not of one run are refused. Exit status 0, or 2.
        """
        raise typer.Exit(guarded(lambda: _report(run, html, junit, comment, annotations), "no page was written"))

    @app.command()
    def compare(
        runs: Annotated[
            list[Path], typer.Argument(metavar="RUN_A [RUN_B]", help="Folders of two runs; or one, with --by.")
        ],
        by: Annotated[
            Varied | None, typer.Option(help="Compare the profiles, or the rungs, of one run with each other.")
        ] = None,
        base: Annotated[
            str, typer.Option(metavar="NAME", help="What the others are compared with. Default: the first.")
        ] = "",
        rung: Annotated[
            list[str] | None, typer.Option(help="Compare these rungs alone. Repeat it or join by commas.")
        ] = None,
        markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the comparison as Markdown.")] = None,
        html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page.")] = None,
    ) -> None:
        """Say what changed beyond noise between two profiles, machines, versions or branches.

        Examples:

        * `parity compare before after --html changes.html` two runs
        * `parity compare reports/latest --by profile --base canonical` the profiles of one run
        * `parity compare reports/latest --by rung --base f32 --rung f32,bf16,f16` what sixteen bits cost

        Errors are paired by case where both sides have the same cases; p is corrected for the number of strata. It
        judges nothing: exit status 0 if any stratum was tested, or is the same in every case; 3 if not.
        """
        choice = _Comparison(runs, None if by is None else by.value, base, rung or [], markdown, html)
        raise typer.Exit(guarded(lambda: _compare(choice), "nothing was written"))


class Varied(StrEnum):
    """What a comparison within one run varies."""

    profile = "profile"
    rung = "rung"


@dataclass(frozen=True)
class _Comparison:
    runs: list[Path]
    by: Literal["profile", "rung"] | None
    base: str
    rungs: list[str]
    markdown: Path | None
    html: Path | None


def _compare(choice: _Comparison) -> int:
    from parity.files import write_whole
    from parity.pages import read_run
    from parity.pages.compare import compare, sides_of
    from parity.pages.compare_report import comparison_markdown, comparison_page, headline, signed
    from parity.pages.html import encodable
    from parity.spec.precision import rung_called

    rungs = [rung_called(name).name for entry in choice.rungs for name in map(str.strip, entry.split(","))]
    contrasts = sides_of([read_run(folder) for folder in choice.runs], choice.by, choice.base, rungs)
    found = compare(contrasts, rungs, shlex.join(["parity", *sys.argv[1:]]))
    for path, render in ((choice.markdown, comparison_markdown), (choice.html, comparison_page)):
        if path is not None:
            write_whole(path, render(found), "name another file")
            typer.echo(f"wrote {path}")
    for change in found.significant[:SHOWN]:
        interval = f"{signed(change.low)} to {signed(change.high)}"
        place = f"{change.component} {change.profile} {change.rung}"
        figures = f"p {change.adjusted:.2g}, {change.cases} cases"
        typer.echo(encodable(f"{signed(change.bits)} bits ({interval})  {place}  {figures}"))
    if len(found.significant) > SHOWN:
        typer.echo(f"and {len(found.significant) - SHOWN} more: --markdown FILE has them all")
    for line in found.only:
        typer.echo(encodable(f"not compared: {line}"))
    if found.code:
        typer.echo(encodable(found.code))
    typer.echo(headline(found))
    return 0 if found.tested or found.same else 3


SHOWN: Final = 20
"""Changes that are printed on a terminal."""


def _report(folder: Path, html: Path | None, junit: Path | None, comment: Path | None, annotations: bool) -> int:
    from parity.files import write_whole
    from parity.pages import PAGE, read_run, render_page
    from parity.pages.checks import annotation_lines, comment_markdown, junit_xml

    run = read_run(folder)
    if html is None and junit is None and comment is None and not annotations:
        html = folder / PAGE
    for path, render in ((html, render_page), (junit, junit_xml), (comment, comment_markdown)):
        if path is not None:
            write_whole(path, render(run), "name another file")
            typer.echo(f"wrote {path}", err=annotations)
    if annotations:
        sys.stdout.write("".join(f"{line}\n" for line in annotation_lines(run)))
    return 0
