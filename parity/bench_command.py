"""`parity bench`: what models, harness and metrics cost here, and whether that became more.

The benchmark is imported inside the command, and a framework in its child processes alone.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from parity.blas import torch_library
from parity.files import write_whole
from parity.terminal import progress_bar

if TYPE_CHECKING:
    from parity.bench.cells import Cell
    from parity.bench.compare import Comparison
    from parity.bench.report import Report

SLOWER = 4
"""Exit status where something is slower than in the earlier report."""


class Part(StrEnum):
    """Parts of the benchmark as the command line spells them."""

    models = "models"
    harness = "harness"
    metrics = "metrics"
    budget = "budget"


class Blas(StrEnum):
    """Who multiplies MLX's matrices, as the command line spells it."""

    torch = "torch"
    bundled = "bundled"


USUAL_PARTS = (Part.models, Part.harness, Part.metrics)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the command line asks for, each option under its name."""

    parts: tuple[Part, ...]
    components: tuple[str, ...]
    blas: tuple[Blas, ...]
    longest: int | None
    longest_bundled: int | None
    all_lengths: bool
    quick: bool
    threads: int
    seed: int
    json: Path | None
    markdown: Path | None
    compare: Path | None
    reports: tuple[Path, ...]


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def bench(
        part: Annotated[
            list[Part] | None,
            typer.Option(help="What to measure; repeat it. Default: all but budget, which takes some ten minutes."),
        ] = None,
        component: Annotated[
            list[str] | None, typer.Option(help="Of part models: this component alone; repeat it. Default: all.")
        ] = None,
        mlx_blas: Annotated[
            list[Blas] | None,
            typer.Option(
                "--mlx-blas",
                help="Who multiplies MLX's matrices on Linux; repeat it. Default: both, each in processes of its own; "
                "the harness by the first.",
            ),
        ] = None,
        longest: Annotated[
            int | None, typer.Option(min=128, metavar="L", help="Positions at most. Default: 32768.")
        ] = None,
        longest_bundled: Annotated[
            int | None,
            typer.Option(
                min=128, metavar="L", help="The same where MLX multiplies by its wheel's slow library. Default: 256."
            ),
        ] = None,
        all_lengths: Annotated[
            bool,
            typer.Option("--all-lengths", help="Lift the limits of components that take much time or memory."),
        ] = False,
        quick: Annotated[
            bool,
            typer.Option("--quick", help="A trial at small sizes, torch's BLAS alone; no bound is judged."),
        ] = False,
        threads: Annotated[
            int | None,
            typer.Option(min=1, help="Threads of either framework in part models. Default: as many as processors."),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 0,
        json_file: Annotated[
            Path | None, typer.Option("--json", metavar="FILE", help="Write every figure with its spread.")
        ] = None,
        markdown_file: Annotated[
            Path | None, typer.Option("--markdown", metavar="FILE", help="Write verdicts and tables.")
        ] = None,
        compare: Annotated[
            Path | None,
            typer.Option(metavar="OLD", help="A report that --json wrote before: what became slower since?"),
        ] = None,
        reports: Annotated[
            list[Path] | None,
            typer.Option(
                "--from", metavar="FILE", help="Measure nothing: take a report that --json wrote; repeat it for parts."
            ),
        ] = None,
    ) -> None:
        """Measure the models, MLX beside torch, what the harness costs, and its metrics beside other people's.

        Contenders take turns, so that a ratio compares neighbours: docs/bench.md. Leave the machine alone meanwhile.

        Examples:

        * `parity bench --quick` does it work here? Two minutes
        * `parity bench --json bench.json --markdown bench.md` everything but the budget, about 40 minutes
        * `parity bench --part models --component layer --longest 4096` one component
        * `parity bench --part metrics --compare reports/bench.json` are the metrics slower than they were?
        * `parity bench --from a.json --from b.json --markdown FILE` one report of parts that were measured apart

        Exit status 0 if every bound that was judged is held, 1 if one is missed, 2 if an option or a file is wrong,
        3 if nothing was measured or --compare finds no figure to compare or another machine, 4 if something is slower
        than in OLD: the ranges of its rounds are disjoint and the medians' ratio is above 1.1.
        """
        given = Choice(
            parts=tuple(dict.fromkeys(part or USUAL_PARTS)),
            components=tuple(component or ()),
            blas=tuple(dict.fromkeys(mlx_blas or _usual_blas())),
            longest=longest,
            longest_bundled=longest_bundled,
            all_lengths=all_lengths,
            quick=quick,
            threads=threads or os.cpu_count() or 1,
            seed=seed,
            json=json_file,
            markdown=markdown_file,
            compare=compare,
            reports=tuple(reports or ()),
        )
        raise typer.Exit(guarded(lambda: _bench(given), "no report was written"))


def _usual_blas() -> tuple[Blas, ...]:
    """Return both choices where there are two: on Linux."""
    both = platform.system() == "Linux" and torch_library() is not None
    return (Blas.torch, Blas.bundled) if both else (Blas.bundled,)


def _bench(choice: Choice) -> int:
    from parity.bench.compare import compared, comparison_lines
    from parity.bench.machine import require_tools
    from parity.bench.markdown import markdown
    from parity.bench.report import merged, read_report

    # Read before anything is measured: a file that is none should not cost an hour.
    earlier = None if choice.compare is None else read_report(choice.compare)
    if choice.reports:
        report = merged([read_report(path) for path in choice.reports])
    else:
        require_tools()
        report = _measured(choice)
    comparison = None if earlier is None else compared(earlier, report)
    lines = [] if comparison is None else comparison_lines(comparison)
    page = markdown(report, lines)
    for path, text in ((choice.json, report.to_json()), (choice.markdown, page)):
        if path is not None:
            write_whole(path, text, "choose another with --json or --markdown", make_folder=True)
    _print(report, lines, page if choice.json is None and choice.markdown is None else "")
    return _status(report, comparison)


def _status(report: Report, comparison: Comparison | None) -> int:
    if comparison is not None:
        if not comparison.changes or comparison.unlike:
            return 3
        if comparison.having("slower"):
            return SLOWER
    if not report.cells:
        return 3
    return 0 if all(verdict.held for verdict in report.verdicts()) else 1


def _print(report: Report, lines: list[str], page: str) -> None:
    out = Console(highlight=False, soft_wrap=True)
    if page:
        sys.stdout.write(page)
    else:
        for line in [*(verdict.line() for verdict in report.verdicts()), *lines]:
            out.print(line, markup=False)
    judged = report.verdicts()
    held = sum(verdict.held for verdict in judged)
    out.print(f"{len(report.cells)} figures; {held} of {len(judged)} bounds held", markup=False)


def _measured(choice: Choice) -> Report:
    from parity.bench.plan import Settings, measure
    from parity.gate.provenance import revision

    settings = Settings(
        tuple(part.value for part in choice.parts),
        choice.components,
        tuple(blas.value for blas in choice.blas),
        choice.longest,
        choice.longest_bundled,
        choice.all_lengths,
        choice.quick,
        choice.threads,
        choice.seed,
    )
    with progress_bar() as progress:
        task = progress.add_task("starting", total=settings.steps())

        def on_step(found: list[Cell]) -> None:
            done = " ".join(str(value) for _, value in found[0].at) if found else ""
            progress.update(task, advance=1, description=done[:26])

        return measure(settings, shlex.join(["parity", *sys.argv[1:]]), revision(), on_step)
