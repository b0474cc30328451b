"""report.md: the verdict first, then what failed, then every component and layer, then fidelity and environment."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from parity.accuracy import Assessment
from parity.results import Results, Row
from parity.spec.precision import RUNGS
from parity.tolerance import CONSTANTS

LARGEST_COMMENT = 60_000
"""A pull-request comment holds 65,536 characters; tables are cut to their worst rows until the report is below this."""


def render_markdown(results: Results) -> str:
    """Return the report as Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parity.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=_number, cell=_cell, bits=_bits, bits2=_hundredths, code=_code)
    template = environment.get_template("report.md.jinja")
    for per_table, failures in ((12, 30), (4, 30), (1, 10)):
        text = template.render(_context(results, per_table, failures))
        if len(text) <= LARGEST_COMMENT:
            break
    return text


def _context(results: Results, per_table: int, failures: int) -> dict[str, Any]:
    rows, profiles = results.rows, _ordered(row.profile for row in results.rows)
    ill_conditioned = [row for row in rows if row.verdict == "ill-conditioned"]
    return {
        "results": results,
        "meta": results.meta,
        "failures": results.failures[:failures],
        "more_failures": len(results.failures[failures:]),
        "unpaired": results.unpaired,
        "components": _ordered(row.component for row in rows),
        "profiles": profiles,
        "rungs": [rung for rung in RUNGS if any(row.rung == rung for row in rows)],
        "worst": _worst(rows),
        "layers": _layers(rows, per_table),
        "fidelity": {(f.component, f.profile): f.rel_l2 for f in results.fidelity},
        "whole_skips": _grouped_skips(results),
        "case_skips": [skip for skip in results.skips if skip.cases],
        "accuracy": _accuracy(results.assessments),
        "accuracy_rows": {(a.stratum.component, a.stratum.profile) for a in results.assessments},
        "strata_skips": _strata_skips(results.assessments),
        "inferior": [assessment for assessment in results.assessments if not assessment.passed],
        "ill_conditioned": ill_conditioned[:failures],
        "more_ill_conditioned": len(ill_conditioned[failures:]),
        "constants": CONSTANTS,
        "failed": sum(row.verdict == "fail" for row in rows),
    }


def _ordered(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


def _worst(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    """Return the row nearest to, or farthest beyond, its allowance per component, profile and rung."""
    worst: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = (row.component, row.profile, row.rung)
        if key not in worst or row.ratio > worst[key].ratio:
            worst[key] = row
    return worst


def _layers(rows: Sequence[Row], limit: int) -> dict[tuple[str, str], list[Row]]:
    """Return, per component and profile, the worst rung of each tensor, the `limit` worst, in execution order."""
    by_tensor: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found = by_tensor[row.component, row.profile].get(row.tensor)
        if found is None or row.ratio > found.ratio:
            by_tensor[row.component, row.profile][row.tensor] = row
    return {
        key: sorted(sorted(found.values(), key=lambda row: -row.ratio)[:limit], key=lambda row: row.order)
        for key, found in by_tensor.items()
    }


@dataclass(frozen=True)
class AccuracySummary:
    """The strata of one component, profile and rung."""

    strata: int
    skipped: int
    cases: int
    mean: float
    bound: float
    largest: float


def _accuracy(assessments: Sequence[Assessment]) -> dict[tuple[str, str, str], AccuracySummary]:
    """Summarise strata by component, profile and rung: mean over cases, the bound nearest to its margin."""
    groups: dict[tuple[str, str, str], list[Assessment]] = defaultdict(list)
    for assessment in assessments:
        stratum = assessment.stratum
        groups[stratum.component, stratum.profile, stratum.rung].append(assessment)
    return {key: _summary(found) for key, found in groups.items()}


def _summary(found: Sequence[Assessment]) -> AccuracySummary:
    compared = [assessment for assessment in found if not assessment.skipped]
    cases = sum(assessment.cases for assessment in compared)
    return AccuracySummary(
        strata=len(compared),
        skipped=len(found) - len(compared),
        cases=cases,
        mean=sum(a.mean * a.cases for a in compared) / cases if cases else 0.0,
        bound=max((a.bound - a.margin for a in compared), default=0.0),
        largest=max((a.largest for a in compared), default=0.0),
    )


def _strata_skips(assessments: Sequence[Assessment]) -> list[tuple[str, str, str, int, int]]:
    """Return (component, rung, reason, strata, cases) of what the accuracy test drew and could not compare."""
    strata: dict[tuple[str, str, str], int] = defaultdict(int)
    cases: dict[tuple[str, str, str], int] = defaultdict(int)
    for a in assessments:
        if a.skipped or a.cases_skipped:
            key = (a.stratum.component, a.stratum.rung, a.skipped or "single cases out of the rung's range")
            strata[key] += bool(a.skipped)
            cases[key] += a.cases_skipped
    return [(*key, strata[key], cases[key]) for key in strata]


def _grouped_skips(results: Results) -> list[tuple[str, str, int]]:
    """Return (profile or component, reason, how many component-profile-rung combinations) of what was not run."""
    grouped: dict[tuple[str, str], int] = defaultdict(int)
    for skip in results.skips:
        if skip.cases is None:
            grouped[skip.profile if "not implemented" in skip.reason else skip.component, skip.reason] += 1
    return [(what, reason, count) for (what, reason), count in grouped.items()]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if math.isinf(value):
        return "inf"
    return f"{value:.2g}"


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _hundredths(value: float) -> str:
    return f"{value:+.2f}"


def _cell(text: object) -> str:
    """Escape what would end a table cell or a code span, or start HTML."""
    line = " ".join(str(text).splitlines())
    return line.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def _code(text: object) -> str:
    """Return `text` as a code span outside a table: a pipe stands as it is there."""
    line = " ".join(str(text).splitlines()).replace("`", "'").replace("<", "&lt;")
    return f"`{line}`"
