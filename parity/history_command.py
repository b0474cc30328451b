"""`parity history`: a component's error over commits, and since when it is other."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.errors import GateError
from parity.plain import json_text, one_line

HISTORY: Final = Path("reports/history.sqlite")
_WIDTH: Final = 140


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command `history` to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def history(
        component: Annotated[str, typer.Argument(metavar="COMPONENT", help="A component, for example `fftconv`.")],
        store: Annotated[Path, typer.Option("--history", help="What `parity baseline accept` appends to.")] = HISTORY,
        profile: Annotated[str | None, typer.Option(help="Only this profile.")] = None,
        rung: Annotated[str | None, typer.Option(help="Only this rung.")] = None,
        plot: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write a plot as one HTML file that needs no network.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Tabulate and plot a component's error against the reference's over the accepted commits.

        Each line is the mean number of bits lost against the reference, with its standard error; an onset is a commit
        since which that mean is another, by change-point detection.

        Exit status 2 if the store is missing or broken, or has no run of the component.
        """
        raise typer.Exit(guarded(lambda: _history(component, store, profile, rung, plot, as_json), "nothing was shown"))


def _history(
    component: str, store: Path, profile: str | None, rung: str | None, plot: Path | None, as_json: bool
) -> int:
    from parity.files import write_whole
    from parity.history import courses, read_moments

    found = [
        course
        for course in courses(read_moments(store, component))
        if profile in (None, course.group[1]) and rung in (None, course.group[2])
    ]
    if not found:
        raise GateError(
            f"history {str(store)!r} has no error of {component!r} to compare under that profile and rung: where "
            "rounding the output makes all of the error, there is none"
        )
    if as_json:
        sys.stdout.write(json_text([asdict(course) for course in found]))
    else:
        _print(found)
    if plot is not None:
        write_whole(plot, _page(component, found), "choose another with --plot")
    return 0


def _print(courses: Sequence[Any]) -> None:
    out = Console(highlight=False, width=_WIDTH)
    for course in courses:
        table = Table(box=box.MARKDOWN)
        for heading in ("commit", "accepted", "runs", "bits lost", "standard error", "onset", "reason"):
            table.add_column(heading)
        for point in course.points:
            cells = (
                point.revision,
                point.accepted,
                str(point.runs),
                f"{point.mean:+.3f}",
                f"{point.error:.3f}",
                "ONSET" if point.onset else "",
                point.reason,
            )
            table.add_row(*(Text(one_line(cell)) for cell in cells))
        out.print(f"{one_line(' '.join(course.group))} in {one_line(course.key)}", markup=False)
        out.print(table)


def _page(component: str, courses: Sequence[Any]) -> str:
    """Return the plot as a page of its own; names are escaped, since the library takes some markup in labels."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for course in courses:
        points = course.points
        name = _label(" ".join((*course.group, course.key)))
        figure.add_trace(
            go.Scatter(
                x=[_label(f"{point.revision} {point.accepted}") for point in points],
                y=[point.mean for point in points],
                error_y={"type": "data", "array": [point.error for point in points]},
                mode="lines+markers",
                name=name,
                text=[_label(f"{'ONSET: ' if point.onset else ''}{point.reason}") for point in points],
                marker={
                    "symbol": ["diamond" if point.onset else "circle" for point in points],
                    "size": [14 if point.onset else 8 for point in points],
                },
            )
        )
    figure.update_layout(
        title=f"{_label(component)}: bits lost against the reference, over accepted commits; diamonds are onsets",
        xaxis={"title": "commit and date of acceptance", "type": "category"},
        yaxis_title="mean log2(port error / reference error)",
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page


def _label(text: str) -> str:
    return html.escape(one_line(text))
