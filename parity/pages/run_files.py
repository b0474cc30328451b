"""The files of a run, read back; refused unless they are whole, of this version and of one run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.errors import ReportError
from parity.pages.shapes import require_details, require_rows, require_summary

SUMMARY: Final = "summary.json"
LAYERS: Final = "layers.csv"
DETAILS: Final = "details.json"
PAGE: Final = "report.html"

SCHEMA: Final = 3
"""Version of the three files that are read back; it grows when something in them changes its meaning or is missing."""

TEXT_COLUMNS: Final = frozenset(
    {"component", "profile", "rung", "tensor", "kind", "verdict", "reason", "max_abs_index", "worst_case"}
)
"""Columns of layers.csv that hold no numbers."""


@dataclass(frozen=True)
class Run:
    """One run as its files tell it.

    Args:
        summary: summary.json.
        rows: layers.csv, numbers as floats, None where a cell is empty.
        details: details.json.
        identity: Digest of summary.json, which names the digests of the others: equal ones are the same run.
        name: What a reader calls it: the folder.
    """

    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    details: Mapping[str, Any]
    identity: str
    name: str = ""

    @property
    def judged(self) -> list[Mapping[str, Any]]:
        """The rows of tensors; a combination that was skipped whole has a row and no tensor."""
        return [row for row in self.rows if row["verdict"] != "skip"]


def digest(text: str) -> str:
    """Return the SHA-256 of a text file's bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_run(folder: Path) -> Run:
    """Read the run in `folder`.

    Raises:
        ReportError: There is none, a file is missing or broken, of another version, or of another run than the summary.
    """
    if not (folder / SUMMARY).is_file():
        raise ReportError(
            f"{str(folder)!r} holds no report: it has no {SUMMARY}; a run that was killed leaves none. "
            "Make one with `parity run --out DIR`"
        )
    return parse_run({name: _text(folder / name) for name in (SUMMARY, LAYERS, DETAILS)}, str(folder))


def parse_run(texts: Mapping[str, str], name: str = "") -> Run:
    """Read a run from its files' texts, by name.

    Raises:
        ReportError: As `read_run`.
    """
    where = f"report in {name!r}" if name else "report"
    summary = _parsed(texts[SUMMARY], f"{where}: {SUMMARY}")
    _require_version(summary, f"{where}: {SUMMARY}")
    require_summary(summary, f"{where}: {SUMMARY}")
    for file in (LAYERS, DETAILS):
        _require_same_run(summary, file, texts[file], where)
    details = _parsed(texts[DETAILS], f"{where}: {DETAILS}")
    require_details(details, f"{where}: {DETAILS}")
    run = Run(summary, _rows(texts[LAYERS], where), details, digest(texts[SUMMARY]), name)
    if len(run.judged) != summary["counts"]["rows"]:
        raise ReportError(
            f"{where}: {LAYERS} has {len(run.judged)} rows of tensors, {SUMMARY} counts {summary['counts']['rows']}; "
            "run it again"
        )
    return run


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise ReportError(f"report in {str(path.parent)!r}: {path.name} cannot be read: {reason}") from None


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{what} is no JSON: {error}; run it again") from None
    if not isinstance(found, dict):
        raise ReportError(f"{what} holds no object; run it again")
    return found


def _require_version(summary: Mapping[str, Any], what: str) -> None:
    found = summary.get("schema")
    if found != SCHEMA:
        newer = isinstance(found, int) and found > SCHEMA
        advice = "install the version that wrote it" if newer else "run it again with this version"
        raise ReportError(f"{what} has schema {found!r}; this version reads {SCHEMA}; {advice}")
    missing = {"verdict", "counts", "failures", "skips", "fidelity", "files"} - summary.keys()
    if missing or not isinstance(summary["files"], dict):
        missing = missing or {"files"}
        raise ReportError(f"{what} lacks {', '.join(sorted(missing))}; run it again")


def _require_same_run(summary: Mapping[str, Any], file: str, text: str, where: str) -> None:
    expected = summary["files"].get(file)
    if expected != digest(text):
        raise ReportError(
            f"{where}: {file} is not the one that {SUMMARY} was written with: it is of another run, or was changed; "
            "run it again"
        )


def _rows(text: str, where: str) -> list[dict[str, Any]]:
    try:
        table = csv.DictReader(io.StringIO(text, newline=""))
        rows = [{column: _cell(column, value) for column, value in row.items()} for row in table]
    except (TypeError, ValueError, csv.Error) as error:
        raise ReportError(f"{where}: {LAYERS} has a cell that is no number: {error}; run it again") from None
    require_rows(rows, table.fieldnames or (), f"{where}: {LAYERS}")
    return rows


def _cell(column: str, value: str) -> Any:
    parse: Callable[[str], Any] = str if column in TEXT_COLUMNS else float
    return None if value == "" and parse is float else parse(value)
