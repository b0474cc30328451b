"""A comparison as Markdown and as a page."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import jinja2

from parity.pages.checks import cell
from parity.pages.compare import FEWEST, LEVEL, ROUNDED, Change, Comparison
from parity.pages.html import encodable, number, render_template

METHOD: Final = (
    "A stratum is a component, profile and rung; compared are the port's errors (rel L2 against the float64 truth) in "
    "its main output. Where both sides have the same cases, the mean of d = log2 of the ratio of the errors, case by "
    "case, is put to Student's t-test; each error is in units of its rung's u and counts as at least "
    f"{ROUNDED} u, so that an exact case is no infinite gain and d is, between rungs, the excess over what the format "
    "alone costs. Otherwise Welch's t-test compares log2(error / predicted error) of the two samples, both at least "
    f"{ROUNDED} u. Holm's method holds the probability of any false row at "
    f"{LEVEL:.0%} over all strata. Below {FEWEST} cases nothing is tested. Intervals are 95 %, of one stratum; open "
    "where an error is infinite."
)


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    return encodable(_markdown().get_template("comparison.md.jinja").render(_context(comparison)))


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
    quiet = [change for change in comparison.changes if not change.significant]
    return {
        "comparison": comparison,
        "significant": comparison.significant,
        "quiet": [change for change in quiet if not change.same],
        "method": METHOD,
        "signed": signed,
        "verdict": headline(comparison),
    }


def headline(comparison: Comparison) -> str:
    """Return how much changed, in how many strata that was tested, and why the others were not, in one line."""
    count, found, tested = len(comparison.changes), len(comparison.significant), len(comparison.tested)
    same, few = len(comparison.same), len(comparison.untested)
    worse = sum(change.bits > 0 for change in comparison.significant)
    why = f"fewer than {FEWEST} common cases"
    if not count:
        return "nothing was comparable"
    if same == count:
        return f"the same error in every case of all {count} strata: there is no change to test"
    if few == count:
        return f"0 of {count} strata could be tested: {why}"
    if found:
        said = f"{found} of {count} strata changed beyond noise: {worse} err more, {found - worse} less"
    elif tested:
        said = f"nothing changed beyond noise in {tested} of {count} strata"
    else:
        said = f"0 of {count} strata were tested"
    rest = [f"; {tested} tested"] if found else []
    rest += [f"; {same} have the same error in every case"] if same else []
    rest += [f"; {few} could not be tested: {why}"] if few else []
    return said + "".join(rest)


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
                "tested": change.tested,
            }
            for change in changes
        ],
    }


def _column(change: Change) -> str:
    return " ".join((change.profile, change.rung))
