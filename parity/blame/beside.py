"""Blame backwards where a derivative is a matter of choice: at a tie or a kink, calls are judged a little beside it.

As in a run (`parity.gradients`): what errs by a finite amount at the case and agrees beside it meets a tie or a kink.
At f32 it is f64 that says so, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from parity.backends.port import arithmetic
from parity.blame.backward import MISPLACED, trace_backward
from parity.blame.links import Links
from parity.blame.table import BlameRow, BlameTable
from parity.examine import Bench
from parity.gradients import GRADIENT_RUNGS, aside, varied_inputs
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import HyperProfile

BESIDE: Final = "judged beside a tie or a kink in the case, where the derivative is a matter of choice"
"""Note of a call whose row is not that of the case."""

Trace = Callable[[Bench, Rung], BlameTable]


def trace_backward_beside(
    bench: Bench,
    profile: HyperProfile,
    rung: Rung,
    links: Links,
    seed: int = 0,
    on_row: Callable[[BlameRow], object] = bool,
) -> BlameTable:
    """Blame every paired call for its gradients; one that errs at a tie or a kink alone has its row beside it.

    Args:
        bench: The case.
        profile: The profile of the port.
        rung: Where the port runs; in sixteen bits there is no number near enough, and every row is the case's.
        links: Which calls are partners.
        seed: Of the noise.
        on_row: Called with every row, those beside the case included.
    """

    def traced(place: Bench, at: Rung) -> BlameTable:
        pair, port = place.pair, place.modules.port(profile, at)
        return trace_backward(pair, place.module, port, place.inputs, at, links, seed, on_row=on_row)

    table = traced(bench, rung)
    suspects = _suspected(bench, rung, table, traced) if rung.name in GRADIENT_RUNGS else set()
    if not suspects:
        return table
    beside = traced(aside(bench, varied_inputs(bench), rung), rung)
    agreeing = _agreeing(beside)
    chosen = {key: replace(agreeing[key], notes=(*agreeing[key].notes, BESIDE)) for key in suspects & agreeing.keys()}
    # What is called outside of modules is judged where no module errs: beside the case, where all that did are here.
    shown = beside if all(_key(row) in chosen for row in table.rows if row.exceeds) else table
    return replace(shown, rows=tuple(chosen.get(_key(row), row) for row in shown.rows))


def _suspected(bench: Bench, rung: Rung, table: BlameTable, traced: Trace) -> set[tuple[str, str]]:
    """Return the calls that err and may do so at a kink alone: below f64, those of which it says so."""
    suspects = _suspects(table)
    fine = RUNGS["f64"]
    if suspects and rung.name != fine.name and fine.name in bench.pair.only_rungs:
        with arithmetic(bench.pair, fine):
            suspects &= _suspects(traced(bench, fine))
            if suspects:
                suspects &= _agreeing(traced(aside(bench, varied_inputs(bench), fine), fine)).keys()
    return suspects


def _suspects(table: BlameTable) -> set[tuple[str, str]]:
    return {_key(row) for row in table.rows if row.exceeds and not any(MISPLACED in note for note in row.notes)}


def _agreeing(table: BlameTable) -> dict[tuple[str, str], BlameRow]:
    return {_key(row): row for row in table.rows if row.measured and not row.exceeds}


def _key(row: BlameRow) -> tuple[str, str]:
    return row.module, row.port
