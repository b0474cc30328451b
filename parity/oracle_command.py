"""`parity oracle`: the float64 reference against 50-digit arithmetic, a line for each leaf operation.

Frameworks are imported inside the command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from parity.plain import json_text


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command to `app`; `guarded` turns a user's mistake into one line and status 2."""

    @app.command()
    def oracle(
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 0,
        draws: Annotated[int, typer.Option(min=1, max=1000, help="How often each case is drawn.")] = 4,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Put the float64 truth on trial: every leaf operation of the reference against mpmath at 50 digits.

        Largest distance in ulps of float64: of the reach of roundings (allowed 4), and of the result itself where it is
        well-conditioned (allowed 4), where it loses up to two bits, and anywhere. Exit status 1 if any leaf misses.
        """
        raise typer.Exit(guarded(lambda: _oracle(seed, draws, as_json), "not every leaf was tried"))


def _oracle(seed: int, draws: int, as_json: bool) -> int:
    import torch

    from parity.environment import warm_up
    from parity.oracles.agreement import ALLOWED_ULP
    from parity.suites.m2_bert_oracles import LEAVES, try_leaf

    torch.set_num_threads(1)
    warm_up()
    out = Console(highlight=False, soft_wrap=True)
    rows, passed = [], True
    for leaf in LEAVES:
        cases, agreement = try_leaf(leaf, seed, draws)
        passed &= agreement.passed
        rows.append(
            {
                "leaf": leaf.name,
                "formula": leaf.formula,
                "cases": cases,
                **asdict(agreement),
                "allowed": ALLOWED_ULP,
                "passed": agreement.passed,
            }
        )
        if not as_json:
            out.print(_line(leaf.name, cases, agreement, ALLOWED_ULP), markup=False)
    if as_json:
        sys.stdout.write(json_text(rows))
    return 0 if passed else 1


def _line(leaf: str, cases: int, agreement: Any, allowed: float) -> str:
    results = f"{agreement.well_ulp:.2f} of {agreement.well} well-conditioned results"
    well = results if agreement.well else "no well-conditioned result"
    return (
        f"{'ok  ' if agreement.passed else 'MISS'} {leaf:18} {cases:4} cases {agreement.elements:6} elements  worst "
        f"{agreement.scale_ulp:.2f} ulp of scale, {well}, allowed {allowed:g}  "
        f"(two bits lost {agreement.fair_ulp:.2f}, any {agreement.any_ulp:.2g})"
    )
