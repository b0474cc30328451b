"""`parity replay`: run what a failure left behind again, and say what is the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from parity.plain import json_text

if TYPE_CHECKING:
    from parity.replay.again import ReplayResult, TensorReplay
    from parity.replay.bundle import Bundle


class SideChoice(StrEnum):
    """Sides as the command line spells them."""

    reference = "reference"
    port = "port"
    both = "both"


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command to `app`; `guarded` runs it and turns a user's mistake into one line and an exit status."""

    @app.command()
    def replay(
        bundle: Annotated[
            Path, typer.Argument(metavar="BUNDLE", help="A .parity.zip file, or the folder it was unpacked into.")
        ],
        side: Annotated[
            SideChoice, typer.Option(help="Which side runs; only `both` judges the port again.")
        ] = SideChoice.both,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Run the bundle of a failure again and compare: stored numbers, numbers of now, and what has changed since.

        Exit status: 0 the same bits and the same verdict, 1 something differs, 2 no bundle, or a damaged one.
        """
        raise typer.Exit(guarded(lambda: _replay(bundle, side, as_json), "the bundle was not compared"))


def _replay(path: Path, side: SideChoice, as_json: bool) -> int:
    import torch

    from parity.environment import warm_up
    from parity.replay.again import replay
    from parity.replay.bundle import read_bundle
    from parity.suites import select

    torch.set_num_threads(1)
    warm_up()
    bundle = read_bundle(path)
    (pair,) = select([bundle.record.component])
    result = replay(bundle, pair, side.value)
    if as_json:
        sys.stdout.write(json_text(_document(bundle, result), sort_keys=True))
    else:
        out = Console(highlight=False, soft_wrap=True)
        for line in _lines(bundle, result):
            out.print(line, markup=False)
    return 0 if result.same else 1


def _lines(bundle: Bundle, result: ReplayResult) -> Iterator[str]:
    from parity.replay.sides import show_side

    record = bundle.record
    yield f"{record.component} {record.profile.name} {record.rung}: {_verdict(result.first_bad, result.failed)} stored"
    if result.first_bad_now is not None and result.failed_now is not None:
        yield f"now: {_verdict(result.first_bad_now, result.failed_now)}"
    if result.raised:
        yield f"now: {result.raised}"
    for tensor in result.tensors:
        yield from _ratios(tensor)
        yield from show_side(tensor.sides)
    for change in result.environment:
        yield f"environment: {change.field} was {_absent(change.stored)}, is {_absent(change.now)}"
    if result.same:
        yield "SAME NUMBERS: every bit that was compared is the same"
    else:
        yield f"DIFFERENT NUMBERS: {_why(result)}"


def _verdict(first_bad: str, failed: int) -> str:
    return f"{failed} tensors fail, first bad {first_bad}" if failed else "no tensor fails"


def _ratios(tensor: TensorReplay) -> Iterator[str]:
    stored, now = tensor.stored, tensor.now
    if now is None:
        return
    yield f"{tensor.name}: error/allowed {stored.ratio:.9g} stored, {now.ratio:.9g} now"
    if stored.reason != now.reason:
        yield f"  stored {stored.reason or 'passes'}"
        yield f"  now    {now.reason or 'passes'}"


def _why(result: ReplayResult) -> str:
    moved = [side.moved for tensor in result.tensors for side in tensor.sides if side.moved is not None]
    far = f"tensors moved by up to {max(moved):.3g} u" if moved else "tensors cannot be compared"
    if result.failed and result.failed_now == 0:
        far = f"the case passes now; {far}"
    if result.environment:
        return f"{far}; {len(result.environment)} fields of the environment differ from those of the bundle"
    return f"{far}; the environment is that of the bundle, so the code has changed, or the result is not reproducible"


def _absent(value: str | None) -> str:
    return "absent" if value is None else value


def _document(bundle: Bundle, result: ReplayResult) -> dict[str, Any]:
    """Return the result as a dictionary."""
    record = bundle.record
    tensors = [
        {
            "name": tensor.name,
            "stored": tensor.stored.to_json(),
            "now": None if tensor.now is None else tensor.now.to_json(),
            "sides": [
                {
                    "side": side.side,
                    "same": side.same,
                    "moved_u": side.moved,
                    "stored": None if side.stored is None else side.stored.to_json(),
                    "now": None if side.now is None else side.now.to_json(),
                    "note": side.note,
                }
                for side in tensor.sides
            ],
        }
        for tensor in result.tensors
    ]
    return {
        "component": record.component,
        "profile": record.profile.name,
        "rung": record.rung,
        "case": record.case,
        "side": result.ran,
        "same": result.same,
        "stored": {"first_bad": result.first_bad, "failed": result.failed},
        "now": {"first_bad": result.first_bad_now, "failed": result.failed_now, "raised": result.raised},
        "tensors": tensors,
        "environment": [asdict(change) for change in result.environment],
    }
