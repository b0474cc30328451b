"""The history: what every accepted run found, in an SQLite file, and since which commit a component's error is other.

An onset is a change point of the group mean of r (`parity.gate.drift`) over the commits, by PELT on its values in units
of their standard error. Without any change the best split of n values gains a sum of squares above the penalty with a
probability of `history_alarm` at most: the penalty is the quantile of chi-squared shared out over the n - 1 splits.

Source: Killick, Fearnhead and Eckley, J. Am. Stat. Assoc. 107 (2012) 1590; the library `ruptures`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import ruptures
from scipy import stats

from parity.accuracy import SMALLEST_SPREAD, Stratum
from parity.errors import GateError, OutputError
from parity.gate.drift import Bits, Group, Sample, compared, pool, weights
from parity.gate.runs import Run
from parity.plain import plain
from parity.tolerance import constant

HISTORY_SCHEMA: Final = 1
_TABLES: Final = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, accepted TEXT NOT NULL, revision TEXT NOT NULL, fingerprint TEXT NOT NULL,
  budget TEXT NOT NULL, seed INTEGER NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE strata (
  run INTEGER NOT NULL REFERENCES runs(id), component TEXT NOT NULL, profile TEXT NOT NULL, rung TEXT NOT NULL,
  length_class TEXT NOT NULL, family TEXT NOT NULL, bits TEXT NOT NULL
) STRICT;
CREATE INDEX of_component ON strata(component, run);
"""


@dataclass(frozen=True)
class Moment:
    """An accepted run, or several of one commit, environment and budget.

    Args:
        revision: The commit.
        accepted: The date.
        key: Fingerprint and budget.
        sample: r of its strata, run after run.
        reason: Why it was accepted.
    """

    revision: str
    accepted: str
    key: str
    samples: Sequence[Sample]
    reason: str


@dataclass(frozen=True)
class Point:
    """The group mean of r at one moment, its standard error, and whether it begins a new level."""

    revision: str
    accepted: str
    reason: str
    runs: int
    mean: float
    error: float
    onset: bool


@dataclass(frozen=True)
class Course:
    """The course of one group in one environment."""

    group: Group
    key: str
    points: Sequence[Point]


def append_runs(path: Path, runs: Sequence[Run], revision: str, date: datetime.date, reason: str) -> None:
    """Append accepted runs, all or none; one that is there already moves to the end, since it says nothing new.

    A run is there if one of the same environment, budget, seed and code found the same. Where there is no commit, or
    files differ from it, the point of the history is called by the code as well: `abc123+5f0e9c2d`.

    Raises:
        GateError: The file is no history, or one of another schema.
        OutputError: It cannot be written.
    """
    with _opened(path, make=True) as store:
        for run in runs:
            strata = sorted((*_names(stratum), _text(bits)) for stratum, bits in run.sample.items())
            _forget(store, run, strata)
            cursor = store.execute(
                "INSERT INTO runs (accepted, revision, fingerprint, budget, seed, code, reason) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (date.isoformat(), _state(revision, run), run.fingerprint, run.budget, run.seed, run.code, reason),
            )
            store.executemany(
                "INSERT INTO strata VALUES (?, ?, ?, ?, ?, ?, ?)", [(cursor.lastrowid, *row) for row in strata]
            )


def _forget(store: sqlite3.Connection, run: Run, strata: Sequence[tuple[str, ...]]) -> None:
    """Remove a run that was accepted before: counted twice, it would make the standard error too small."""
    same = store.execute(
        "SELECT id FROM runs WHERE fingerprint = ? AND budget = ? AND seed = ? AND code = ?",
        (run.fingerprint, run.budget, run.seed, run.code),
    ).fetchall()
    for (number,) in same:
        found = store.execute(
            "SELECT component, profile, rung, length_class, family, bits FROM strata WHERE run = ?", (number,)
        ).fetchall()
        # Runs of the same seed may be of other components, or of other pairs of one's own: what they found tells them.
        if sorted(found) == list(strata):
            store.execute("DELETE FROM strata WHERE run = ?", (number,))
            store.execute("DELETE FROM runs WHERE id = ?", (number,))


def _state(revision: str, run: Run) -> str:
    """Return what a point is called: the commit, and the code where that is not all of it."""
    if revision and not revision.endswith("+"):
        return revision
    code = hashlib.sha256(json.dumps([run.code, dict(run.own)], sort_keys=True).encode()).hexdigest()[:8]
    return f"{revision or 'unknown+'}{code}"


def read_moments(path: Path, component: str) -> list[Moment]:
    """Return the accepted runs that have the component, in the order of acceptance.

    Raises:
        GateError: The file does not exist, is no history, or of another schema; or no run has the component.
    """
    found: dict[tuple[str, str], list[Any]] = {}
    samples: dict[tuple[str, str], dict[int, dict[Stratum, Bits]]] = defaultdict(lambda: defaultdict(dict))
    with _opened(path, make=False) as store:
        rows = store.execute(
            "SELECT runs.id, accepted, revision, fingerprint, budget, reason, component, profile, rung, length_class, "
            "family, bits FROM strata JOIN runs ON runs.id = strata.run WHERE component = ? ORDER BY runs.id",
            (component,),
        ).fetchall()
        names = [name for (name,) in store.execute("SELECT DISTINCT component FROM strata ORDER BY component")]
    for number, accepted, revision, fingerprint, budget, reason, *where, bits in rows:
        key = (revision, f"{fingerprint}/{budget}")
        found.setdefault(key, [accepted, reason])
        samples[key][number][Stratum(*where)] = _bits(path, bits)
    if not rows:
        raise GateError(
            f"history {str(path)!r} has no run of component {component!r}; it has {', '.join(names) or 'none at all'}"
        )
    return [
        Moment(revision, accepted, key, list(samples[revision, key].values()), reason)
        for (revision, key), (accepted, reason) in found.items()
    ]


def courses(moments: Sequence[Moment]) -> list[Course]:
    """Return the course of every group in every environment, with onsets marked; exact groups have none."""
    found = []
    for key in dict.fromkeys(moment.key for moment in moments):
        here = [moment for moment in moments if moment.key == key]
        groups = dict.fromkeys(
            (stratum.component, stratum.profile, stratum.rung)
            for moment in here
            for sample in moment.samples
            for stratum in sample
        )
        found += [course for group in groups if (course := _course(group, key, here)) is not None]
    return found


def onsets(means: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Return the indices at which a new level of the mean begins.

    Args:
        means: One value a moment.
        errors: Their standard errors; the largest counts for all.
    """
    if len(means) < 2:
        return []
    signal = np.asarray(means)[:, None] / max(*errors, SMALLEST_SPREAD)
    penalty = float(stats.chi2.isf(constant("history_alarm") / (len(means) - 1), 1))
    search = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(signal)
    return [int(end) for end in search.predict(pen=penalty)[:-1]]


def _course(group: Group, key: str, moments: Sequence[Moment]) -> Course | None:
    """Return the course over the moments that have all strata of the group that the last one has."""
    strata = _strata(group, moments[-1].samples)
    here = [
        moment
        for moment in moments
        if all(len(compared(sample.get(stratum, ()))) > 1 for sample in moment.samples for stratum in strata)
    ]
    samples = [{s: sample[s] for s in strata} for moment in here for sample in moment.samples]
    if not strata or not here:
        return None
    # Within a run, so that a drift does not count as spread.
    within = [pool([sample]) for sample in samples]
    shares = weights([stratum for stratum in within[-1].strata if stratum.stratum in strata])
    spread = math.sqrt(math.fsum(group.spread**2 for found in within for group in found.groups) / max(len(within), 1))
    means, errors = [], []
    for moment in here:
        found = [
            math.fsum(
                share * math.fsum(compared(sample[s])) / len(compared(sample[s]))
                for share, s in zip(shares, strata, strict=True)
            )
            for sample in moment.samples
        ]
        means.append(math.fsum(found) / len(found))
        errors.append(max(spread, SMALLEST_SPREAD) / math.sqrt(len(found)))
    starts = set(onsets(means, errors))
    points = [
        Point(m.revision, m.accepted, m.reason, len(m.samples), mean, error, index in starts)
        for index, (m, mean, error) in enumerate(zip(here, means, errors, strict=True))
    ]
    return Course(group, key, points)


def _strata(group: Group, samples: Sequence[Sample]) -> list[Stratum]:
    """Return the strata of a group that have an error of their own."""
    return [stratum.stratum for stratum in pool(samples).strata if stratum.group == group and not stratum.exact]


def _names(stratum: Stratum) -> tuple[str, str, str, str, str]:
    return stratum.component, stratum.profile, stratum.rung, stratum.length_class, stratum.family


def _text(bits: Bits) -> str:
    return json.dumps(plain(list(bits)), allow_nan=False)


def _bits(path: Path, text: str) -> Bits:
    try:
        return [None if value is None else float(value) for value in json.loads(text)]
    except (ValueError, TypeError):
        raise GateError(f"history {str(path)!r} is damaged: {text[:80]!r} are no ratios; restore it") from None


@contextlib.contextmanager
def _opened(path: Path, make: bool) -> Iterator[sqlite3.Connection]:
    """Open the store in one transaction, which is undone by whatever goes wrong."""
    if not make and not path.exists():
        raise GateError(f"history {str(path)!r} does not exist; `parity baseline accept` begins one")
    store = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(path, isolation_level=None)
        store.execute("BEGIN IMMEDIATE" if make else "BEGIN")
        _require_schema(path, store, make)
        yield store
        store.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise OutputError(f"history {str(path)!r} cannot be used: {error}; choose another with --history") from None
    except sqlite3.DatabaseError as error:
        raise GateError(f"{str(path)!r} is no history: {error}; choose another with --history") from None
    except OSError as error:
        raise OutputError(
            f"history {str(path)!r} cannot be used: {error.strerror or error}; choose another with --history"
        ) from None
    finally:
        if store is not None:
            store.close()


def _require_schema(path: Path, store: sqlite3.Connection, make: bool) -> None:
    (version,) = store.execute("PRAGMA user_version").fetchone()
    (tables,) = store.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and not tables and make:
        for statement in _TABLES.split(";"):
            store.execute(statement)
        store.execute(f"PRAGMA user_version = {HISTORY_SCHEMA}")
        return
    if version == 0:
        raise GateError(f"{str(path)!r} is no history; choose another with --history")
    if version != HISTORY_SCHEMA:
        age = "an older" if version < HISTORY_SCHEMA else "a newer"
        raise GateError(f"history {str(path)!r} has {age} schema: {version}, this version reads {HISTORY_SCHEMA}")
