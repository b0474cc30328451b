"""A finished run, as its folder holds it: what the gate needs of `summary.json`, checked against `layers.csv`."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.accuracy import LOOKS, Stratum
from parity.errors import GateError, NothingToJudgeError
from parity.files import JOURNAL
from parity.gate.drift import Bits, Group
from parity.gate.records import read_object, require_schema
from parity.pages import DETAILS, LAYERS, SCHEMA, SUMMARY
from parity.pages.run_files import digest
from parity.spec.precision import RUNGS

AGAIN: Final = "run `parity run` again"
JOINT: Final = 8
"""Hexadecimal digits of the hash over all tensors of a group."""
VERDICTS: Final = ("pass", "fail", "nothing compared")


@dataclass(frozen=True)
class RunStratum:
    """A stratum as a run found it: r and the port's own error of its cases, margin and bound, or why there are none."""

    stratum: Stratum
    bits: Bits
    port_bits: Bits
    margin: float
    bound: float
    passed: bool
    reason: str
    skipped: str


@dataclass(frozen=True)
class RunDigest:
    """Hashes of the cases of a group and of the port's tensors, in order of execution."""

    cases: str
    tensors: Mapping[str, str]

    @property
    def joint(self) -> str:
        """One hash over all tensors."""
        return hashlib.sha256("\n".join(self.tensors.values()).encode()).hexdigest()[:JOINT]


@dataclass(frozen=True)
class FailedRow:
    """A tensor beyond its absolute allowance."""

    group: Group
    tensor: str
    reason: str


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        folder: Where it lies.
        fingerprint, environment: Of the machine and its libraries.
        budget, seed, code: What was asked for, and the hash of the code that answered.
        own: Hashes of the code beside pairs of one's own, by target.
        verdict: `pass`, `fail` or `nothing compared`.
        elements: Elements compared.
        groups: Component, profile and rung of every row.
        failed: Tensors beyond their absolute allowances.
        failures: Sentences of all failures.
        strata: The accuracy test.
        digests: By group.
    """

    folder: Path
    fingerprint: str
    environment: Mapping[str, str]
    budget: str
    seed: int
    code: str
    own: Mapping[str, str]
    verdict: str
    elements: int
    groups: Sequence[Group]
    failed: Sequence[FailedRow]
    failures: Sequence[str]
    strata: Sequence[RunStratum]
    digests: Mapping[Group, RunDigest]

    @property
    def key(self) -> str:
        """Fingerprint and budget: runs of another are judged by another baseline."""
        return f"{self.fingerprint}/{self.budget}"

    @property
    def sample(self) -> dict[Stratum, Bits]:
        """r of all strata that were compared."""
        return {stratum.stratum: stratum.bits for stratum in self.strata if not stratum.skipped}

    @property
    def port_sample(self) -> dict[Stratum, Bits]:
        """The port's own error, in bits of u, of all strata that were compared."""
        return {stratum.stratum: stratum.port_bits for stratum in self.strata if not stratum.skipped}

    @property
    def components(self) -> list[str]:
        """Names of the components with any row."""
        return list(dict.fromkeys(component for component, _, _ in self.groups))


def read_run(folder: Path) -> Run:
    """Read the run in `folder`.

    Raises:
        GateError: There is no folder, or a file is unreadable, of another schema, damaged or contradicts another.
        NothingToJudgeError: The run is unfinished, empty, or compared nothing.
    """
    if not folder.is_dir():
        raise GateError(f"run {str(folder)!r} is no folder; name the output folder of `parity run`")
    path = folder / SUMMARY
    if not path.exists():
        resume = "; --resume goes on with it" if (folder / JOURNAL).exists() else ""
        raise NothingToJudgeError(f"run {str(folder)!r} is unfinished: it has no {SUMMARY}{resume}")
    data = read_object(path, "summary", AGAIN)
    require_schema(data, SCHEMA, "summary", path, AGAIN)
    try:
        run = _run_of(folder, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise GateError(f"summary {str(path)!r} is damaged: {what}; {AGAIN}") from None
    _require_whole(run, data)
    _require_same_files(folder, data)
    return run


def _run_of(folder: Path, data: Mapping[str, Any]) -> Run:
    rows = _rows(folder)
    judged = [row for row in rows if row["verdict"] != "skip"]
    return Run(
        folder=folder,
        fingerprint=_text(data["fingerprint"]),
        environment={str(name): str(value) for name, value in data["environment"].items()},
        budget=_text(data["budget"]),
        seed=_whole(data["seed"]),
        code=_text(data["code"]),
        own={str(target): str(code) for target, code in data["own"].items()},
        verdict=_text(data["verdict"]),
        elements=sum(int(row["elements"]) for row in rows),
        groups=list(dict.fromkeys(_group(row) for row in judged)),
        failed=[FailedRow(_group(row), row["tensor"], row["reason"]) for row in rows if row["verdict"] == "fail"],
        failures=[
            f"{failure['component']} {failure['profile']} {failure['rung']}: {failure['first_bad']}: "
            f"{failure['reason']}"
            for failure in data["failures"]
        ],
        strata=[_stratum(found) for found in data["accuracy"]],
        digests={_group(found): _digest(found) for found in data["digests"]},
    )


def _require_whole(run: Run, data: Mapping[str, Any]) -> None:
    """Refuse a run whose files contradict each other, or that says nothing."""
    where, counts = str(run.folder), data.get("counts")
    counts = counts if isinstance(counts, dict) else {}
    if counts.get("elements_compared") != run.elements or counts.get("rows_failed") != len(run.failed):
        raise GateError(
            f"run {where!r} contradicts itself: {SUMMARY} counts {counts.get('elements_compared')} elements and "
            f"{counts.get('rows_failed')} failed rows, layers.csv {run.elements} and {len(run.failed)}; {AGAIN}"
        )
    failing = bool(run.failed or run.failures or any(not stratum.passed for stratum in run.strata))
    if run.verdict not in VERDICTS or (run.verdict != "nothing compared" and failing != (run.verdict == "fail")):
        holds = "failures" if failing else "none"
        raise GateError(
            f"run {where!r} contradicts itself: its verdict is {run.verdict!r}, and it holds {holds}; {AGAIN}"
        )
    if not run.groups:
        raise NothingToJudgeError(f"run {where!r} is empty: it has no row that was judged")
    if not run.elements:
        raise NothingToJudgeError(f"run {where!r} compared zero elements")
    if run.verdict == "nothing compared":
        raise NothingToJudgeError(f"run {where!r} says itself that nothing was compared")
    if any(str(word).startswith("--case") for word in data.get("command", ())):
        raise NothingToJudgeError(f"run {where!r} is of single cases: the gate judges whole runs")


def _require_same_files(folder: Path, data: Mapping[str, Any]) -> None:
    """Refuse files that the summary was not written with: a number edited by hand, or those of another run."""
    named = data.get("files")
    for name in (LAYERS, DETAILS):
        try:
            with (folder / name).open(encoding="utf-8", newline="") as file:
                found = digest(file.read())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise GateError(f"{name} of run {str(folder)!r} is unreadable: {reason}; {AGAIN}") from None
        if not isinstance(named, dict) or named.get(name) != found:
            raise GateError(
                f"run {str(folder)!r} contradicts itself: {name} is not the one that {SUMMARY} was written with; "
                f"{AGAIN}"
            )


def _rows(folder: Path) -> list[dict[str, str]]:
    path = folder / LAYERS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise GateError(f"layers.csv of run {str(folder)!r} is unreadable: {reason}; {AGAIN}") from None
    needed = {"component", "profile", "rung", "tensor", "verdict", "reason", "elements"}
    for number, row in enumerate(rows, 1):
        if not needed <= row.keys() or None in row.values() or not row["elements"].isdecimal():
            raise GateError(f"layers.csv of run {str(folder)!r} is damaged: row {number} is incomplete; {AGAIN}")
    return rows


def _stratum(found: Mapping[str, Any]) -> RunStratum:
    where = found["stratum"]
    rung = _text(where["rung"])
    if rung not in RUNGS:
        raise ValueError(f"unknown rung {rung!r}")
    stratum = Stratum(
        _text(where["component"]),
        _text(where["profile"]),
        rung,
        _text(where["length_class"]),
        _text(where["family"]),
    )
    bits, port_bits = (
        tuple(None if value is None else _number(value) for value in found[name]) for name in ("bits", "port_bits")
    )
    if [value is None for value in bits] != [value is None for value in port_bits]:
        raise ValueError(f"{stratum} has ratios of other cases than errors")
    if not found["skipped"] and len(bits) < LOOKS[0]:
        raise ValueError(f"{stratum} holds {len(bits)} cases, and no run draws fewer than {LOOKS[0]}")
    if not found["skipped"] and sum(value is not None for value in bits) != found["cases"]:
        raise ValueError(f"{stratum} says {found['cases']} cases and holds {len(bits)}")
    return RunStratum(
        stratum,
        bits,
        port_bits,
        _number(found["margin"]),
        _number(found["bound"]),
        found["passed"] is True,
        _text(found["reason"]),
        _text(found["skipped"]),
    )


def _digest(found: Mapping[str, Any]) -> RunDigest:
    return RunDigest(_text(found["cases"]), {str(name): _text(value) for name, value in found["tensors"].items()})


def _group(found: Mapping[str, Any]) -> Group:
    return _text(found["component"]), _text(found["profile"]), _text(found["rung"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(value: Any) -> float:
    """Return a number, infinity from its text; NaN is none, and no error is smaller than all others."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{value!r} is no number")
    number = float(value)
    if math.isnan(number) or number == -math.inf:
        raise ValueError(f"a number is {'NaN' if math.isnan(number) else '-infinity'}")
    return number
