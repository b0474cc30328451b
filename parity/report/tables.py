"""The two machine-readable files: one tidy row a tensor, and a summary."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from parity.metrics.ulp import ULP_EDGES
from parity.pages import DETAILS, LAYERS, SCHEMA, digest
from parity.plain import json_line, json_text
from parity.results import Results, Row

UNCOLUMNED = frozenset({"rerun", "port_ulps", "reference_ulps", "measurements", "mismatched", "undecided"})
"""Fields of a row that are no columns of layers.csv: report.md, details.json and summary.json have them."""


def layers_frame(results: Results) -> pd.DataFrame:
    """Return one row per component, profile, rung and tensor; what was skipped whole has a row of its own.

    The command that reruns a worst case follows from component, profile, rung and case; report.md spells it out.
    """
    columns = [field.name for field in fields(Row) if field.name not in UNCOLUMNED]
    rows = [{name: getattr(row, name) for name in columns} for row in results.rows]
    rows += [
        asdict(Row(skip.component, skip.profile, skip.rung, "*", "none", 0, verdict="skip", reason=skip.reason))
        for skip in results.skips
        if skip.cases is None
    ]
    for skip in (skip for skip in results.skips if skip.cases):
        place = (skip.component, skip.profile, skip.rung)
        found = [row for row in rows if (row["component"], row["profile"], row["rung"]) == place]
        if not found:
            found = [asdict(Row(*place, "*", "none", 0, verdict="skip", reason=skip.reason))]
            rows += found
        for row in found:
            row["cases_skipped"] += skip.cases
    unmeasured = dict.fromkeys(("ratio", "scaled_error", "conditioning"))
    rows = [{**row, **unmeasured} if row["verdict"] == "skip" else row for row in rows]
    return pd.DataFrame(rows, columns=columns)


def layers_csv(results: Results) -> str:
    """Return the rows as CSV: numbers with 9 significant digits, so equal runs are equal byte for byte."""
    text: str = layers_frame(results).to_csv(index=False, float_format="%.9g", lineterminator="\n")
    return text


def summary(results: Results) -> dict[str, Any]:
    """Return verdict, counts, failures, skips, fidelity and what was asked for."""
    rows = results.rows
    return {
        "schema": SCHEMA,
        "verdict": results.verdict,
        "exit_code": results.exit_code,
        "counts": {
            "rows": len(rows),
            "rows_failed": sum(row.verdict == "fail" for row in rows),
            "rows_ill_conditioned": sum(row.verdict == "ill-conditioned" for row in rows),
            "strata": sum(not assessment.skipped for assessment in results.assessments),
            "strata_skipped": sum(bool(assessment.skipped) for assessment in results.assessments),
            "strata_cases_skipped": sum(assessment.cases_skipped for assessment in results.assessments),
            "strata_failed": sum(not assessment.passed for assessment in results.assessments),
            "elements_compared": results.compared,
            "components": len({row.component for row in rows}),
            "profiles": len({row.profile for row in rows}),
            "skipped": sum(skip.cases is None for skip in results.skips),
            "cases_skipped": sum(skip.cases or 0 for skip in results.skips),
        },
        "failures": [{**asdict(failure), "replay": failure.replay} for failure in results.failures],
        "unpaired": results.unpaired,
        "exact": [_exact(row) for row in rows if row.kind == "exact"],
        "undecided": [_exact(row) for row in rows if row.kind != "exact" and row.undecided],
        "skips": [asdict(skip) for skip in results.skips],
        "fidelity": [asdict(distance) for distance in results.fidelity],
        "accuracy": [asdict(assessment) for assessment in results.assessments],
        "digests": [asdict(digest) for digest in results.digests],
        **results.meta,
    }


def summary_json(results: Results) -> str:
    """Return the summary as JSON; what is infinite is written as the text "infinity".

    It names the digests of layers.csv and details.json, so that files of two runs are not taken for those of one.
    """
    files = {LAYERS: digest(layers_csv(results)), DETAILS: digest(details_json(results))}
    return json_text({**summary(results), "files": files}, sort_keys=True)


def details_json(results: Results) -> str:
    """Return what a page draws beside layers.csv, as one line of JSON a run: histograms, single cases, blame, bits.

    Cases are listed once, in the order in which they first occur; the series name them by their place.
    """
    places: dict[str, int] = {}
    series = [_series(row, places) for row in results.rows if row.measurements]
    document = {
        "schema": SCHEMA,
        "ulp_edges": list(ULP_EDGES),
        "histograms": [_histogram(row) for row in results.rows if row.port_ulps],
        "series": series,
        "cases": list(places),
        "blame": [asdict(blame) for blame in results.blames],
        "bits": results.bits,
        "sources": results.sources,
    }
    return json_line(document)


def _place(row: Row) -> dict[str, str]:
    return {"component": row.component, "profile": row.profile, "rung": row.rung, "tensor": row.tensor}


def _exact(row: Row) -> dict[str, Any]:
    counts = {"elements": row.elements, "mismatched": row.mismatched, "undecided": row.undecided}
    return {**_place(row), **counts}


def _histogram(row: Row) -> dict[str, Any]:
    return {**_place(row), "port": row.port_ulps, "reference": row.reference_ulps}


def _series(row: Row, places: dict[str, int]) -> dict[str, Any]:
    """Errors of an output, case by case; nine significant digits, as in layers.csv."""
    found = row.measurements
    return {
        **_place(row),
        "case": [places.setdefault(each.case, len(places)) for each in found],
        "port": [_rounded(each.port) for each in found],
        "reference": [_rounded(each.reference) for each in found],
        "predicted": [_rounded(each.predicted) for each in found],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
