"""A comparison as Markdown and as a page."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import jinja2

from parity.pages.checks import cell
from parity.pages.compare import FEWEST, LEVEL, ROUNDED, Change, Comparison
from parity.pages.html import number, render_template

METHOD: Final = (
    "A stratum is a component, profile and rung; compared are the port's errors (rel L2 against the float64 truth) in "
    "its main output. Where both sides have the same cases, the mean of d = log2 of the ratio of the errors, case by "
    "case, is put to Student's t-test; between rungs each error is in units of its rung's u and at least "
    f"{ROUNDED} u, so that d is the excess over what the format alone costs. Otherwise Welch's t-test compares "
    "log2(error / predicted error) of the two samples. Holm's method holds the probability of any false row at "
    f"{LEVEL:.0%} over all strata. Below {FEWEST} cases nothing is tested. Intervals are 95 %, of one stratum."
)


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    return _markdown().get_template("comparison.md.jinja").render(_context(comparison))


def comparison_page(comparison: Comparison) -> str:
    """Return a comparison as a page of one file."""
    return render_template("comparison.html.jinja", "comparison.js", _data(comparison), _context(comparison))


@functools.cache
def _markdown() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parity.pages"),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(cell=cell, number=number, signed=signed)
    return environment


def signed(value: float) -> str:
    """Return bits with their sign, two digits behind the point."""
    if math.isnan(value):
        return "-"
    return f"{value:+.2f}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")


def _context(comparison: Comparison) -> dict[str, Any]:
    changes = comparison.changes
    quiet = [change for change in changes if not change.significant]
    return {
        "comparison": comparison,
        "significant": comparison.significant,
        "same": sum(change.same for change in quiet),
        "untested": sum(not change.tested for change in quiet),
        "quiet": [change for change in quiet if not change.same],
        "method": METHOD,
        "signed": signed,
        "verdict": headline(comparison),
    }


def headline(comparison: Comparison) -> str:
    """Return how much changed, in one line."""
    if not comparison.changes:
        return "nothing was comparable"
    found = len(comparison.significant)
    worse = sum(change.bits > 0 for change in comparison.significant)
    if not found:
        return f"nothing changed beyond noise in {len(comparison.changes)} strata"
    return f"{found} of {len(comparison.changes)} strata changed beyond noise: {worse} err more, {found - worse} less"


def _data(comparison: Comparison) -> dict[str, Any]:
    changes = sorted(comparison.changes, key=lambda change: change.component)
    return {
        "rows": list(dict.fromkeys(change.component for change in changes)),
        "columns": list(dict.fromkeys(_column(c) for c in sorted(changes, key=lambda c: (c.rung, c.profile)))),
        "cells": [
            {
                "row": change.component,
                "column": _column(change),
                "bits": change.bits,
                "low": change.low,
                "high": change.high,
                "p": change.adjusted,
                "cases": change.cases,
                "significant": change.significant,
                "same": change.same,
            }
            for change in changes
        ],
    }


def _column(change: Change) -> str:
    return " ".join((change.profile, change.rung))
