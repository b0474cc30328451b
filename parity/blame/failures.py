"""The blame table of a run's failures: the first of each component that failed in a case, traced in that case.

A gradient is traced backwards. NaN and infinities that are planted are not traced, nor are integers and booleans that
are wrong by themselves: no error in numbers leads to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parity.backends.port import arithmetic
from parity.blame.beside import trace_backward_beside
from parity.blame.forward import trace_forward
from parity.blame.links import links_by_name, links_by_pairing
from parity.blame.table import BlameTable
from parity.cases import Case
from parity.examine import Bench
from parity.pairs import Pair
from parity.results import Blame, Failure, Results
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import HyperProfile


def blame_failures(
    pairs: Sequence[Pair],
    profiles: Sequence[HyperProfile],
    results: Results,
    check: Callable[[], object] = bool,
) -> Iterator[Blame]:
    """Yield the blame table of the first failure of each component; `check` may raise to stop before each.

    A port that raises, or whose calls cannot be captured, has a sentence and no rows.
    """
    by_name: Mapping[str, Pair] = {pair.name: pair for pair in pairs}
    chosen: Mapping[str, HyperProfile] = {profile.name: profile for profile in profiles}
    first: dict[str, Failure] = {}
    for failure in results.failures:
        first.setdefault(failure.component, failure)
    for component, failure in first.items():
        check()
        yield _blame(by_name[component], chosen[failure.profile], failure)


def _blame(pair: Pair, profile: HyperProfile, failure: Failure) -> Blame:
    rung = next(rung for rung in RUNGS.values() if rung.name == failure.rung)
    place = (failure.component, failure.profile, failure.rung, failure.case)
    if failure.kind == "special":
        return Blame(*place, "not traced: numbers are right, NaN or infinities are misplaced")
    if failure.kind == "exact":
        return Blame(*place, f"not traced: every float is right, and {failure.first_bad} is made of them otherwise")
    bench = Bench(pair, Case.from_json(pair.name, failure.case), profile, intermediates=False)
    try:
        table = _table(bench, profile, rung, backward=failure.kind == "gradient")
    except Exception as error:  # noqa: BLE001 - a failing port may raise anything; that it did is what the page says
        lines = str(error).strip().splitlines()
        return Blame(*place, f"not traced: {type(error).__name__}: {lines[0] if lines else 'no message'}")
    return Blame(*place, table.sentence(), tuple(_row(table, place) for place in range(len(table.rows))))


def _table(bench: Bench, profile: HyperProfile, rung: Rung, backward: bool) -> BlameTable:
    pair, reference, port = bench.pair, bench.module, bench.modules.port(profile, rung)
    with arithmetic(pair, rung):
        if pair.same_tree:
            links = links_by_name(pair, reference, port)
        else:
            links = links_by_pairing(pair, reference, port, bench.inputs, rung, bench.case.seed)
        if backward:
            return trace_backward_beside(bench, profile, rung, links, bench.case.seed)
        return trace_forward(pair, reference, port, bench.inputs, rung, links, bench.case.seed)


def _row(table: BlameTable, place: int) -> dict[str, Any]:
    row = table.rows[place]
    given = asdict(row)
    own = None if math.isnan(row.own) else row.own
    return {**given, "own": own, "verdict": table.verdict(row)}
