"""The log of a calibration: a line of JSON that says what of, and one for every finished run.

A run counts as finished once its line ends; half a line, which a killed process leaves, is dropped. Runs of other code,
packages, switches or components are never added up: their log is refused. Another machine may go on with a log, since
a false alarm is one there as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, BinaryIO, Final

from parity.accuracy import Stratum
from parity.calibrate import CalibrationRun, StratumFigures
from parity.environment import collect
from parity.errors import CalibrationError, OutputError
from parity.pairs import Pair
from parity.plain import plain
from parity.spec.profile import HyperProfile
from parity.targets import source_folder

FORMAT: Final = 1
PACKAGES: Final = ("parity", "reference_torch", "mlx_impl")
_SHOWN: Final = 60
_LONGEST_HEADER: Final = 1_000_000
"""Bytes: a file that is no log may have no line at all."""


def header_of(pairs: Sequence[Pair], profiles: Sequence[HyperProfile]) -> dict[str, Any]:
    """Return what the runs of one log have in common."""
    environment = collect()
    return {
        "log": "parity calibrate",
        "format": FORMAT,
        "code": code_hash(),
        "components": [pair.name for pair in pairs],
        "own": {pair.target: folder_hash(source_folder(pair.target)) for pair in pairs if pair.target},
        "profiles": [profile.model_dump() for profile in profiles],
        "versions": dict(environment.versions),
        "switches": dict(environment.switches),
        "device": environment.mlx_device,
    }


def code_hash() -> str:
    """Return 16 hexadecimal digits of SHA-256 over every file of the project's packages, by name and content."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for name, file in _files(resources.files(package), package):
            content = file.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def folder_hash(folder: Path) -> str:
    """Return the same digits over the Python files of a folder, those of somebody's own pairs and models."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _files(folder: Traversable, name: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        place = f"{name}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _files(entry, place)
        elif entry.is_file():
            yield place, entry


class CalibrationLog:
    """An open log: the runs that it had, and a place for more."""

    def __init__(self, path: Path, file: BinaryIO, runs: Sequence[CalibrationRun]) -> None:
        self.path, self.runs, self._file = path, runs, file

    def append(self, run: CalibrationRun) -> None:
        """Add a finished run.

        Raises:
            OutputError: It cannot be written.
        """
        with _output(self.path):
            _write(self._file, _line_of(run))


@contextlib.contextmanager
def open_log(path: Path, header: Mapping[str, Any]) -> Iterator[CalibrationLog]:
    """Open the log at `path`, or begin one; no other process has it meanwhile.

    Raises:
        CalibrationError: It is no log, one of another calibration, damaged, or in use.
        OutputError: It cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        with _output(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+b"))
            _lock(path, file)
            runs = _read(path, file, _line(dict(header)))
        yield CalibrationLog(path, file, runs)


@contextlib.contextmanager
def _output(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"log {str(path)!r} cannot be written: {reason}; choose another with --log") from None


def _lock(path: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CalibrationError(f"log {str(path)!r} is in use by another process; wait, or choose another") from None


def _read(path: Path, file: BinaryIO, header: bytes) -> list[CalibrationRun]:
    """Read the runs and cut half a line off the end; write the header where there is none."""
    file.seek(0)
    first = file.readline(_LONGEST_HEADER)
    if not first.endswith(b"\n") and header.startswith(first):
        file.truncate(0)
        _write(file, header)
        return []
    _require_same(path, first, header)
    runs: dict[int, CalibrationRun] = {}
    strata: dict[Stratum, Stratum] = {}
    end = len(first)
    for number, line in enumerate(file, 2):
        if not line.endswith(b"\n"):
            file.truncate(end)
            break
        end += len(line)
        run = _run_of(path, number, line, strata)
        runs[run.seed] = run
    return list(runs.values())


def _require_same(path: Path, first: bytes, header: bytes) -> None:
    try:
        stored, now = json.loads(first), json.loads(header)
    except (ValueError, RecursionError):
        stored, now = None, {}
    if not isinstance(stored, dict) or stored.get("log") != now.get("log"):
        raise CalibrationError(f"{str(path)!r} is no log of `parity calibrate`; choose another file with --log")
    if stored != now:
        differences = "; ".join(_differences("", stored, now))
        raise CalibrationError(
            f"log {str(path)!r} belongs to another calibration: {differences}. Choose another with --log, or delete it"
        )


def _differences(name: str, stored: Any, now: Any) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*stored, *now]):
            yield from _differences(f"{name} {key}".strip(), stored.get(key), now.get(key))
    elif _named(stored) and _named(stored) == _named(now):
        for before, after in zip(stored, now, strict=True):
            yield from _differences(f"{name} {before.get('name')}", before, after)
    elif stored != now:
        yield f"{name} was {_shown(stored)}, is {_shown(now)}"


def _named(values: Any) -> list[Any]:
    """Return the names in a list of dictionaries; nothing of anything else."""
    is_named = isinstance(values, list) and all(isinstance(value, dict) for value in values)
    return [value.get("name") for value in values] if is_named else []


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(str(item.get("name")) if isinstance(item, dict) else str(item) for item in value)
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _line_of(run: CalibrationRun) -> bytes:
    strata = [[*astuple(each.stratum), *astuple(each)[1:]] for each in run.strata]
    return _line({"seed": run.seed, "cases": run.cases, "tensors": run.tensors, "alarms": run.alarms, "strata": strata})


def _run_of(path: Path, number: int, line: bytes, strata: dict[Stratum, Stratum]) -> CalibrationRun:
    """Read a run; equal strata become one object, since there are as many as runs."""
    try:
        data = json.loads(line)
        figures = []
        for *names, margin, cases, mean, spread, largest, skipped in data["strata"]:
            stratum = Stratum(*names)
            stratum = strata.setdefault(stratum, stratum)
            figures.append(StratumFigures(stratum, margin, cases, float(mean), float(spread), float(largest), skipped))
        return CalibrationRun(data["seed"], tuple(figures), data["cases"], data["tensors"], tuple(data["alarms"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CalibrationError(
            f"log {str(path)!r} is damaged: line {number} is no run; choose another with --log, or delete it"
        ) from None


def _line(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain(dict(data)), separators=(",", ":"), allow_nan=False) + "\n").encode()


def _write(file: BinaryIO, line: bytes) -> None:
    file.write(line)
    file.flush()
