"""Pages: one file each, with its styles, its script and its charts' library inside. Nothing is fetched.

A content security policy names the digests of the page's own scripts and forbids every request, so that a name that
somehow became markup could still run nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

import jinja2

from parity.pages.payload import page_data, script_json, worst_rows
from parity.pages.run_files import Run
from parity.pages.terms import FAILED_WORDS, TERMS
from parity.spec.precision import RUNGS

FAILURES: Final = 50
"""Failures that are spelt out on a page; the others are counted, and stand in summary.json."""

CROPPED: Final = 160
"""Characters of a name that are shown; the whole name is in the files."""

WHOLE: Final = 2000
"""Characters of a sentence that are shown."""

_COMMAND: Final = re.compile("`(parity [^`]*)`")
_HALVES: Final = re.compile("[\ud800-\udfff]")


def render_page(run: Run, gate: Mapping[str, Any] | None = None) -> str:
    """Return report.html of a run.

    Args:
        run: The run.
        gate: The gate's decision on it (`parity.gate.render.page_section`), which gets a section of its own.
    """
    data = page_data(run) | {"drifts": gate["drifts"] if gate else []}
    return _page("report.html.jinja", "report.js", data, {"run": run, "gate": gate, **_report_context(run)})


def render_template(template: str, script: str, data: Any, context: Mapping[str, Any]) -> str:
    """Return a page made of `template`, with `data` for its `script`."""
    return _page(template, script, data, context)


def _page(template: str, script: str, data: Any, context: Mapping[str, Any]) -> str:
    scripts = [_static("echarts.min.js"), _static("common.js"), _static(script)]
    page = (
        _environment()
        .get_template(template)
        .render(
            {
                **context,
                "data": script_json(data),
                "styles": _static("page.css"),
                "scripts": scripts,
                "policy": _policy(scripts),
                "terms": TERMS,
            }
        )
    )
    return encodable(page)


@functools.cache
def _static(name: str) -> str:
    text = resources.files("parity.pages").joinpath("static", name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _policy(scripts: list[str]) -> str:
    """Only these scripts run, only inline styles apply, and no request is made."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parity.pages"),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=number,
        short=short,
        whole=whole,
        pieces=pieces,
        signed=signed,
        bits=lambda value: "" if value is None else f"{value:+.1f}",
        count=_count,
    )
    return environment


def number(value: Any) -> str:
    """Return three significant digits; what JSON spells out as a text stays as it is."""
    if value is None:
        return "-"
    value = float(value)
    if math.isinf(value):
        return "∞"
    return f"{value:.3g}"


def signed(value: Any) -> str:
    """Return a number with its sign and three decimals."""
    value = float(value)
    return f"{value:+.3f}" if math.isfinite(value) else ("+∞" if value > 0 else "-∞")


def short(text: object) -> str:
    """Return a name as it is shown: on one line, its middle left out where it is long."""
    line = " ".join(str(text).split()) if not str(text).isprintable() else str(text)
    return line if len(line) <= CROPPED else f"{line[: CROPPED // 2]} … {line[-CROPPED // 2 :]}"


def whole(text: object) -> str:
    """Return a sentence as it is shown: on one line and whole, its middle left out where it is longer than `WHOLE`."""
    line = " ".join(str(text).split())
    return line if len(line) <= WHOLE else f"{line[: WHOLE // 2]} … {line[-WHOLE // 2 :]}"


def pieces(text: object) -> list[tuple[str, bool]]:
    """Split a sentence as `whole` shows it into (piece, whether it is code): a command of parity's between backticks.

    Names may have backticks too, which stay what they are.
    """
    return [(part, bool(place % 2)) for place, part in enumerate(_COMMAND.split(whole(text)))]


def encodable(text: str) -> str:
    """Return `text` with the halves of characters (surrogates), which no file can hold, replaced by U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def _count(value: Any) -> str:
    return f"{int(value):,}".replace(",", "\u202f")


def _report_context(run: Run) -> dict[str, Any]:
    rows, summary = run.judged, run.summary
    return {
        "summary": summary,
        "counts": summary["counts"],
        "components": _distinct(rows, "component"),
        "profiles": _distinct(rows, "profile"),
        "rungs": [rung for rung in RUNGS if any(row["rung"] == rung for row in rows)],
        "verdicts": _distinct(rows, "verdict"),
        "failures": summary["failures"][:FAILURES],
        "failed_words": FAILED_WORDS,
        "more_failures": len(summary["failures"][FAILURES:]),
        "layers": _layer_places(run),
        "worst": worst_rows(run),
        "status": _status(run),
        "fidelity": {(each["component"], each["profile"]): each["rel_l2"] for each in summary["fidelity"]},
        "accuracy": _accuracy(summary.get("accuracy", [])),
        "inferior": [each for each in summary.get("accuracy", []) if not each["passed"]],
        "blame": run.details["blame"],
        "bits_rows": _bits(run.details["bits"]),
        "skips": _skips(summary["skips"]),
        "environment": summary.get("environment", {}),
        "findings": summary.get("findings", []),
    }


def _distinct(rows: list[Mapping[str, Any]], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _status(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return the worst row of each component: a failing one where there is one."""
    found: dict[str, Mapping[str, Any]] = {}
    for (component, _, _), row in worst_rows(run).items():
        if component not in found or _badness(row) > _badness(found[component]):
            found[component] = row
    return found


def _badness(row: Mapping[str, Any]) -> tuple[bool, float]:
    return row["verdict"] == "fail", math.inf if row["ratio"] is None else row["ratio"]


def _layer_places(run: Run) -> dict[tuple[str, str], int]:
    """Return the number of each layer's section: components and tensors in the order of the rows."""
    places: dict[tuple[str, str], int] = {}
    for row in run.judged:
        places.setdefault((row["component"], row["tensor"]), len(places))
    return places


def _accuracy(assessments: list[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, float]]:
    """Summarise strata by component, profile and rung: mean bits lost, the bound nearest to its margin, how many."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for each in assessments:
        stratum = each["stratum"]
        if not each["skipped"]:
            groups.setdefault((stratum["component"], stratum["profile"], stratum["rung"]), []).append(each)
    return {
        key: {
            "mean": sum(float(each["mean"]) * each["cases"] for each in found)
            / max(sum(each["cases"] for each in found), 1),
            "slack": max(float(each["bound"]) - float(each["margin"]) for each in found),
            "strata": len(found),
        }
        for key, found in groups.items()
    }


def _bits(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row an operation: its measurement by (framework, dtype)."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells = found.setdefault(row["operation"], {"operation": row["operation"], "cells": {}})
        cells["cells"][row["framework"], row["dtype"]] = row
    return list(found.values())


def _skips(skips: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return skips by reason: of what, and how many combinations or single cases."""
    found: dict[tuple[str, bool], dict[str, Any]] = {}
    for skip in skips:
        single = skip["cases"] is not None
        entry = found.setdefault(
            (skip["reason"], single), {"reason": skip["reason"], "single": single, "count": 0, "where": {}}
        )
        entry["count"] += skip["cases"] or 1
        entry["where"][skip["component"], skip["profile"], skip["rung"]] = True
    return list(found.values())
