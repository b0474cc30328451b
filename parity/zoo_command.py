"""`parity zoo`: architectures of `transformers` against their ports in `mlx_lm`, a row each.

Frameworks are imported inside the command, after `MLX_ENABLE_TF32` is set.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.errors import TargetError
from parity.files import write_whole
from parity.plain import json_text
from parity.scheduling import schedule_as_batch
from parity.terminal import progress_bar

if TYPE_CHECKING:
    from parity.suites.zoo import ZooRow
    from parity.suites.zoo_sides import Architecture

_WIDTH = 200
_COLUMNS = ("architecture", "port", "verdict", "f64", "f32, bits", "kind of error", "blame table", "cause")


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def zoo(
        names: Annotated[
            list[str] | None,
            typer.Argument(metavar="[NAME]...", help="Rows by name or glob, for example `'qwen2*'`. Default: all."),
        ] = None,
        seeds: Annotated[
            int | None,
            typer.Option(min=2, help="Draw no more sets of weights than this. Default: until the verdict is settled."),
        ] = None,
        initial: Annotated[
            bool, typer.Option("--initial", help="Leave the weights as the library initialises them.")
        ] = False,
        jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
        markdown: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write the table and the causes as a page.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print every row as JSON.")] = False,
        only_list: Annotated[bool, typer.Option("--list", help="Print the names of the rows, and run none.")] = False,
    ) -> None:
        """Compare tiny random models of `transformers` with their ports in `mlx_lm`: is each row as it is known to be?

        A green row agrees at float64 and loses no more bits at float32 than the reference. A red one names its cause:
        the blame table must name the same module, and the least that puts the cause right must turn the row green.

        Exit status 0 if every row is explained, 1 if one is not, 2 if a row or a library is missing.
        """
        choice = _Choice(tuple(names or ()), seeds, initial, jobs, markdown, as_json)
        raise typer.Exit(guarded(lambda: _list(choice) if only_list else _zoo(choice), "no table was printed"))


@dataclasses.dataclass(frozen=True)
class _Choice:
    names: tuple[str, ...]
    seeds: int | None
    initial: bool
    jobs: int
    markdown: Path | None
    as_json: bool


def _list(choice: _Choice) -> int:
    for architecture in _chosen(choice.names):
        typer.echo(f"{'green' if architecture.red is None else 'red':5}  {architecture.name}")
    return 0


def _zoo(choice: _Choice) -> int:
    from parity.suites.zoo import requirements
    from parity.suites.zoo_table import markdown, summary

    architectures = _chosen(choice.names)
    if reason := requirements():
        raise TargetError(reason)
    rows = _measured(choice, [architecture.name for architecture in architectures])
    if choice.markdown is not None:
        _write(choice.markdown, markdown(rows, shlex.join(["parity", *sys.argv[1:]])))
    if choice.as_json:
        sys.stdout.write(json_text({"versions": rows[0].versions, "rows": [row.to_dict() for row in rows]}))
    else:
        _print(rows, summary(rows))
    return 0 if all(row.explained for row in rows) else 1


def _chosen(names: Sequence[str]) -> list[Architecture]:
    """Return the rows that the names mean, in the order of the table.

    Raises:
        TargetError: A name or glob means none.
    """
    from parity.suites.zoo_architectures import ARCHITECTURES

    known = [architecture.name for architecture in ARCHITECTURES]
    for name in names:
        if not any(fnmatchcase(row, name) for row in known):
            near = ", ".join(difflib.get_close_matches(name, known, cutoff=0.4)) or "; `parity zoo --list` has them all"
            raise TargetError(f"no row of the zoo is called {name!r}; nearest: {near}")
    return [row for row in ARCHITECTURES if not names or any(fnmatchcase(row.name, name) for name in names)]


def _measured(choice: _Choice, names: list[str]) -> list[ZooRow]:
    from parity.workers import work_here_or_in

    one = partial(_one, choice.seeds, choice.initial)
    found: dict[str, ZooRow] = {}
    with progress_bar() as progress:
        task = progress.add_task("zoo", total=len(names))
        with closing(work_here_or_in(one, names, choice.jobs)) as rows:
            for row in rows:
                found[row.name] = row
                progress.update(task, advance=1, description=row.name)
    return [found[name] for name in names]


def _one(seeds: int | None, initial: bool, name: str) -> ZooRow:
    """Measure one row, in a process that may be new: switches and warm-up first."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    schedule_as_batch()
    import torch

    from parity.environment import warm_up
    from parity.suites.zoo import SEEDS, run_zoo
    from parity.suites.zoo_architectures import named

    torch.set_num_threads(1)
    warm_up()
    (row,) = run_zoo(named(name), SEEDS[:seeds], initial=initial)
    return row


def _print(rows: Sequence[ZooRow], summary: str) -> None:
    from parity.suites.zoo_table import measured

    table = Table(box=box.MARKDOWN)
    for heading in _COLUMNS:
        table.add_column(heading)
    for row in rows:
        verdict, f64, f32, error, blamed, _ = measured(row)
        cause = f"{row.kind}: {row.cause} ({row.source})" if row.kind else row.given.problem or "-"
        table.add_row(*map(Text, (row.name, row.port, verdict, f64, f32, error, blamed, cause)))
    out = Console(highlight=False, width=_WIDTH)
    out.print(table)
    out.print(", ".join(f"{name} {version}" for name, version in rows[0].versions.items()), markup=False)
    out.print(f"{'PASS' if all(row.explained for row in rows) else 'FAIL'}: {summary}", markup=False, soft_wrap=True)


def _write(path: Path, page: str) -> None:
    write_whole(path, page, "choose another with --markdown")
