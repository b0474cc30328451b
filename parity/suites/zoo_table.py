"""The zoo's table in Markdown, as it is published: what was measured, and for every red row why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from parity.suites.zoo import Figures, ZooRow
from parity.suites.zoo_blame import Blamed

MEASURED: Final = ("architecture", "port", "verdict", "f64", "f32, bits", "kind of error", "blame table", "own error")
CAUSES: Final = ("architecture", "culprit", "kind of cause", "cause", "where", "put right: f64", "f32, bits")

_ROW: Final = re.compile(r"^\| (?P<name>[^|]+) \| `[^|]+` \| (?P<verdict>green|red)\b", re.MULTILINE)


def markdown(rows: Sequence[ZooRow], command: str) -> str:
    """Return the whole page: versions, the table of all rows, and the causes of red ones.

    Args:
        rows: The rows in order.
        command: What printed them.
    """
    versions = ", ".join(f"{name} {version}" for name, version in rows[0].versions.items())
    lines = [
        "# The zoo's table",
        "",
        f"Printed by `{command}` with {versions}. [zoo.md](zoo.md) says what the columns mean.",
        "",
        *_table(MEASURED, ([row.name, f"`{row.port}`", *measured(row)] for row in rows)),
        "",
        "## Why the red ones are red",
        "",
        *_table(CAUSES, ([row.name, *caused(row)] for row in rows if row.verdict == "red")),
        "",
        summary(rows),
    ]
    return "\n".join(lines) + "\n"


def published(page: str) -> dict[str, str]:
    """Return the verdict of every row of a page, by the row's name."""
    return {found["name"]: found["verdict"] for found in _ROW.finditer(page)}


def summary(rows: Sequence[ZooRow]) -> str:
    """Return how many rows are green, red and explained, red and not."""
    families = len({row.reference for row in rows})
    red = [row for row in rows if row.verdict == "red"]
    unexplained = [row.name for row in rows if not row.explained]
    counts = f"{len(rows)} rows of {families} architectures: {len(rows) - len(red)} green, {len(red)} red"
    return f"{counts}; " + (f"NOT EXPLAINED: {'; '.join(unexplained)}" if unexplained else "every one explained")


def measured(row: ZooRow) -> list[str]:
    """Return what was measured of a row: verdict, errors, kind of error, what the blame table names."""
    verdict = row.verdict if row.explained else f"{row.verdict}, NOT EXPLAINED"
    return [verdict, *_errors(row.given), row.given.meaning.kind, _blamed(row), _own(row.blamed)]


def caused(row: ZooRow) -> list[str]:
    """Return why a row is red, and its errors once that is put right."""
    remedied = ["-", "-"] if row.remedied is None else _errors(row.remedied)
    return [
        ", ".join(row.culprits) or "-",
        row.kind or "unknown",
        row.cause or row.given.problem,
        row.source,
        *remedied,
    ]


def _errors(figures: Figures) -> list[str]:
    if figures.f64 is None or figures.bits is None:
        return ["refuses", "-"]
    return [f"{figures.f64:.1e}", f"{figures.bits:+.2f}"]


def _blamed(row: ZooRow) -> str:
    """Name the modules, layers that err alike on one line, and what had to be granted before there was one to blame."""
    if row.verdict == "green":
        return "-"
    named: dict[str, list[str]] = {}
    for each in row.blamed:
        named.setdefault(re.sub(r"\.\d+\.", ".N.", each.module), []).extend(re.findall(r"\.(\d+)\.", each.module)[:1])
    words = [
        f"{name} (N = {', '.join(numbers)})" if numbers else name or "the model itself"
        for name, numbers in named.items()
    ]
    found = "; ".join(words) or ("no module errs" if row.granted else "nothing to blame")
    return f"given {', '.join(row.granted)}: {found}" if row.granted else found


def _own(blamed: Sequence[Blamed]) -> str:
    if not blamed:
        return "-"
    first = blamed[0]
    words = [f"{first.own:.1e}", *(["its parts agree"] if first.verdict == "wiring" else []), first.signature]
    return "; ".join(word for word in words if word)


def _table(headings: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for cells in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
