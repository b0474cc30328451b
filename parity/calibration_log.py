"""The log of a calibration: a journal whose parts are finished runs (`parity.journal`).

Another machine may go on with a log, since a false alarm is one there as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

from parity.accuracy import Stratum
from parity.calibrate import CalibrationRun, StratumFigures
from parity.errors import CalibrationError
from parity.journal import Journal, JournalKind, common_header, open_journal
from parity.pairs import Pair
from parity.spec.profile import HyperProfile

FORMAT: Final = 1


def header_of(pairs: Sequence[Pair], profiles: Sequence[HyperProfile]) -> dict[str, Any]:
    """Return what the runs of one log have in common."""
    return {"log": "parity calibrate", "format": FORMAT, **common_header(pairs, profiles)}


class CalibrationLog:
    """An open log: the last run of every seed that it had, and a place for more."""

    def __init__(self, journal: Journal[CalibrationRun]) -> None:
        self.path, self.append = journal.path, journal.append
        self.runs: Sequence[CalibrationRun] = list({run.seed: run for run in journal.parts}.values())


@contextlib.contextmanager
def open_log(path: Path, header: Mapping[str, Any]) -> Iterator[CalibrationLog]:
    """Open the log at `path`, or begin one; no other process has it meanwhile.

    Raises:
        CalibrationError: It is no log, one of another calibration, damaged, or in use.
        OutputError: It cannot be read or written.
    """
    kind = JournalKind(
        name="log",
        command="parity calibrate",
        work="calibration",
        remedy="choose another file with --log",
        error=CalibrationError,
        write=_data_of,
        read=_Reader().run,
        goes_on="finished runs are kept: make room, and the same command goes on with the rest",
        part="run",
    )
    with open_journal(kind, path, header) as journal:
        yield CalibrationLog(journal)


def _data_of(run: CalibrationRun) -> dict[str, Any]:
    strata = [[*astuple(each.stratum), *astuple(each)[1:]] for each in run.strata]
    return {"seed": run.seed, "cases": run.cases, "tensors": run.tensors, "alarms": run.alarms, "strata": strata}


class _Reader:
    """Reads runs; equal strata become one object, since there are as many as runs."""

    def __init__(self) -> None:
        self.strata: dict[Stratum, Stratum] = {}

    def run(self, data: Any) -> CalibrationRun:
        figures = []
        for *names, margin, cases, mean, spread, largest, skipped in data["strata"]:
            stratum = Stratum(*names)
            stratum = self.strata.setdefault(stratum, stratum)
            figures.append(StratumFigures(stratum, margin, cases, float(mean), float(spread), float(largest), skipped))
        return CalibrationRun(data["seed"], tuple(figures), data["cases"], data["tensors"], tuple(data["alarms"]))
