"""What the page's script draws: rows by column, every text once, the series of error against length."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from parity.pages.run_files import Run
from parity.pages.shapes import CODED, NUMBERS
from parity.plain import plain
from parity.spec.precision import RUNGS

LENGTH_KEYS: Final = ("L", "length", "seq_len", "sequence_length", "n", "l")
"""Sizes of a case that are its length, the first that it has; without any of them, its largest size."""


def page_data(run: Run) -> dict[str, Any]:
    """Return what report.js reads: `columns` of the judged rows, their histograms, series, and how to rerun a case."""
    rows = run.judged
    histograms = {_key(each): each for each in run.details["histograms"]}
    found = [histograms.get(_key(row), {}) for row in rows]
    return {
        "texts": {name: _distinct(row[name] for row in rows) for name in CODED},
        "columns": {name: _codes([row[name] for row in rows]) for name in CODED}
        | {name: [row[name] for row in rows] for name in NUMBERS},
        "ulps": {"edges": run.details["ulp_edges"], **{side: [h.get(side, []) for h in found] for side in SIDES}},
        "series": _series(run.details),
        "u": {name: rung.u for name, rung in RUNGS.items()},
        "spelling": run.summary.get("spelling", {}),
    }


SIDES: Final = ("port", "reference")


def script_json(data: Any) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(plain(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def length_of(case: str) -> int | None:
    """Return the length of a case: its size of a name in `LENGTH_KEYS`, else its largest size; None without a size."""
    options = json.loads(case)
    sizes = {key: value for key, value in options.items() if type(value) is int and key not in ("seed", "scale")}
    named = next((sizes[key] for key in LENGTH_KEYS if key in sizes), None)
    return named if named is not None else max(sizes.values(), default=None)


def _series(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    lengths = [length_of(case) for case in details["cases"]]
    return [{**each, "length": [lengths[place] for place in each["case"]]} for each in details["series"]]


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["component"], row["profile"], row["rung"], row["tensor"]


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _codes(values: Sequence[str]) -> list[int]:
    places = {value: place for place, value in enumerate(_distinct(values))}
    return [places[value] for value in values]


def worst_rows(run: Run) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """Return the row nearest to, or farthest beyond, its allowance per component, profile and rung."""
    worst: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for row in run.judged:
        key = (row["component"], row["profile"], row["rung"])
        if key not in worst or _ratio(row) > _ratio(worst[key]):
            worst[key] = row
    return worst


def _ratio(row: Mapping[str, Any]) -> float:
    return math.inf if row["ratio"] is None else float(row["ratio"])
