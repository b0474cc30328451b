"""The report: JSON with a schema, of one run or of several runs of different parts on one machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from parity.bench.cells import Cell, Skip, only
from parity.bench.growth import Growth, growths
from parity.bench.machine import Machine
from parity.bench.verdicts import BOUNDS, LAYER, Verdict, verdicts
from parity.errors import ReportError
from parity.plain import json_text, one_line
from parity.suites.m2_bert_bench import TIMED

KIND: Final = "parity-bench"
SCHEMA: Final = 1


@dataclass(frozen=True)
class Run:
    """How some parts were measured.

    Args:
        parts: The parts.
        command: What was typed.
        commit: The commit, `+` behind it where tracked files were changed; empty outside of a repository.
        seed: Seed of everything drawn.
        threads: Threads of either framework in the part `models`.
        started: UTC, ISO 8601.
        seconds: How long it took.
        load: Load average of the minute before it.
        load_after: That of its last minute.
        quick: Whether sizes were those of a trial, so that no bound is judged.
        patience: What decided on the number of rounds.
        mlx_blas: By choice of MLX's BLAS the library that was seen multiplying; none where no part asks.
    """

    parts: tuple[str, ...]
    command: str
    commit: str
    seed: int
    threads: int
    started: str
    seconds: float
    load: float
    load_after: float
    quick: bool
    patience: str
    mlx_blas: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "parts": list(self.parts), "mlx_blas": dict(self.mlx_blas)}

    @classmethod
    def from_dict(cls, data: Any) -> Run:
        """Read what `to_dict` wrote.

        Raises:
            ReportError: A key is missing or unknown.
        """
        only(data, {field.name for field in fields(cls)}, set(), "a run")
        return cls(**{**data, "parts": tuple(data["parts"]), "mlx_blas": tuple(data["mlx_blas"].items())})


@dataclass(frozen=True)
class Report:
    """Everything that was measured on one machine."""

    machine: Machine
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]
    skips: tuple[Skip, ...] = ()

    def growths(self) -> list[Growth]:
        """Fit exponents to the times of the part `models`."""
        return growths(self.cells, {name: timed.theory for name, timed in TIMED.items()})

    def verdicts(self) -> list[Verdict]:
        """Judge every bound whose figures are there, but those of a quick run."""
        judged = {part for run in self.runs if not run.quick for part in run.parts}
        cells = [cell for cell in self.cells if cell.part in judged]
        return verdicts(cells, self.growths() if "models" in judged else [])

    def unjudged(self) -> list[str]:
        """Return the bounds that nothing was held against."""
        judged = [verdict.what for verdict in self.verdicts()]
        bounds = [bound.what for bound in BOUNDS if bound.what not in judged]
        return bounds + [LAYER] * (not any(what.startswith(LAYER) for what in judged))

    def to_json(self) -> str:
        """Return the report as JSON; exponents and verdicts are there for people, and computed anew when it is read."""
        return json_text(
            {
                "kind": KIND,
                "schema": SCHEMA,
                "machine": self.machine.to_dict(),
                "runs": [run.to_dict() for run in self.runs],
                "verdicts": [asdict(verdict) for verdict in self.verdicts()],
                "growth": [{**asdict(growth), "excess": growth.excess} for growth in self.growths()],
                "skips": [skip.to_dict() for skip in self.skips],
                "cells": [cell.to_dict() for cell in self.cells],
            }
        )


_KEYS: Final = frozenset({"kind", "schema", "machine", "runs", "verdicts", "growth", "skips", "cells"})


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        ReportError: It cannot be read, is of another version, or has a key that is missing or unknown.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{str(path)!r} is no JSON: {one_line(error)}; give a file that --json wrote") from None
    if not isinstance(data, dict) or data.get("kind") != KIND or data.get("schema") != SCHEMA:
        raise ReportError(
            f"{str(path)!r} is no benchmark's report of schema {SCHEMA}; measure again with `parity bench --json FILE`"
        )
    only(data, set(_KEYS), set(), "the whole")
    try:
        return Report(
            Machine.from_dict(data["machine"]),
            tuple(map(Run.from_dict, data["runs"])),
            tuple(map(Cell.from_dict, data["cells"])),
            tuple(map(Skip.from_dict, data["skips"])),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ReportError(f"{str(path)!r} holds a value of another kind: {one_line(error)}") from None


def merged(reports: Sequence[Report]) -> Report:
    """Put reports of different parts together.

    Raises:
        ReportError: They are of different machines or versions, some quick and some not, or two have the same figure.
    """
    first, *others = reports
    if len({run.quick for report in reports for run in report.runs}) > 1:
        raise ReportError("a quick report and another cannot be one: their sizes differ; measure both in the same way")
    for other in others:
        if other.machine != first.machine:
            raise ReportError(
                f"reports of different machines or versions cannot be one: {first.machine.to_dict()} and "
                f"{other.machine.to_dict()}; compare them with --compare"
            )
    cells = [cell for report in reports for cell in report.cells]
    twice = _repeated(cells)
    if twice:
        raise ReportError(f"two reports have {twice[0]}; leave one of them out")
    return replace(
        first,
        runs=tuple(run for report in reports for run in report.runs),
        cells=tuple(cells),
        skips=tuple(dict.fromkeys(skip for report in reports for skip in report.skips)),
    )


def _repeated(cells: Iterable[Cell]) -> list[str]:
    seen: set[object] = set()
    found = []
    for cell in cells:
        if cell.key in seen:
            found.append(cell.label())
        seen.add(cell.key)
    return found
