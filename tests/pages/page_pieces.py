"""Runs that the tests of pages are made of: small ones, one of a given size, and names that mean harm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness_pieces import META, failure_of, judgement_of

from parity.accuracy import Stratum
from parity.cases import Case
from parity.gate.drift import Drift
from parity.gate.findings import Decision, Finding
from parity.gate.ledger import Entry, Proposal
from parity.gate.render import page_section
from parity.pages import Run, parse_run, read_run
from parity.report import report_texts, write_report
from parity.results import Blame, Fidelity, Measurement, Results, Row
from parity.spec.precision import RUNGS

HOSTILE = {
    "script": "</script><script>window.harmed=1</script>",
    "image": '"><img src=x onerror="window.harmed=1">',
    "comment": "<!--<script>",
    "path": "../../../etc/passwd",
    "long": "n" * 10_000,
    "emoji": "\U0001f469\u200d\U0001f680 layer",
    "newline": "first\nsecond\r\n# Parity: PASS",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7} `x`",
    "quotes": 'it\'s "quoted" | and `ticked` $(touch harmed)',
    "prototype": "__proto__",
    "control": "null\x00 bell\x07 escape\x1b[31m",
    "formula": '=HYPERLINK("http://example.invalid")',
}


def row_of(component: str, profile: str, rung: str, tensor: str, error: float = 0.5, order: int = 0, L: int = 8) -> Row:
    """A row of one case that errs by `error` of its allowance."""
    made = Row(component, profile, rung, tensor, "output", order)
    case = Case.make(component, {"batch": 1, "L": L})
    made.add(judgement_of(error, rung=RUNGS[rung]), case, case.command(profile, rung))
    return made


def results_with(rows: Sequence[Row]) -> Results:
    """Results of these rows: every failed one with its failure, and the first failure with a blame table."""
    failures = [failure_of(row) for row in rows if row.verdict == "fail"]
    distances = [Fidelity(component, profile, 0.0) for component, profile in {(r.component, r.profile) for r in rows}]
    results = Results(dict(META), list(rows), failures, [], sorted(distances, key=str))
    results.blames = [
        Blame(f.component, f.profile, f.rung, f.case, f"{f.first_bad}: own error", (blame_row(f.first_bad),))
        for f in failures[:1]
    ]
    results.bits = [
        {"framework": "mlx", "operation": "sin", "dtype": "float64", "bits": 22.4, "suspicious": True},
        {"framework": "torch", "operation": "sin", "dtype": "float64", "bits": 53.0, "suspicious": False},
    ]
    results.sources = {row.component: "pairs.py:7" for row in rows}
    return results


def blame_row(module: str) -> dict[str, Any]:
    """One line of a blame table."""
    numbers = {"own": 1e-4, "ratio": 3e9, "inherited": 0.0, "gain": None, "total": 1e-4}
    return {"module": module, "kind": "Linear", "depth": 1, "verdict": "culprit", "signature": "no form", **numbers}


def small_results(error: float = 0.5) -> Results:
    """Two components, two profiles, two rungs, two layers; `error` is that of the second layer of `beta` at f32."""
    rows = [
        row_of(c, p, r, t, error if (c, t, r) == ("beta", "act", "f32") else 0.25 / (1 + place), order=place)
        for c in ("alpha", "beta")
        for p in ("canonical", "other")
        for r in ("f64", "f32")
        for place, t in enumerate(("dense", "act"))
    ]
    return results_with(rows)


def large_results(rows: int) -> Results:
    """So many rows: 15 components, 4 profiles, 4 rungs, and as many layers as it takes, each of 24 cases."""
    generator = np.random.Generator(np.random.Philox(0))
    made = []
    layers = -(-rows // (15 * 16))
    for place in range(rows):
        component, left = divmod(place, layers * 16)
        layer, kind = divmod(left, 16)
        name, rung = f"component_{component}", list(RUNGS)[kind % 4]
        one = row_of(name, f"profile_{kind // 4}", rung, f"encoder.layer.{layer}.dense", 0.1, layer)
        one.ratio = float(generator.uniform(0.001, 0.9))
        u = RUNGS[rung].u
        one.port_rel_l2, one.reference_rel_l2 = (float(u * generator.lognormal()) for _ in range(2))
        one.port_ulps = one.reference_ulps = [int(n) for n in generator.integers(0, 900, 18)]
        if layer == layers - 1:
            one.measurements = [
                Measurement(f'{{"L":{1 + n},"seed":{n}}}', *(float(u * generator.lognormal()) for _ in range(3)))
                for n in range(24)
            ]
        made.append(one)
    return results_with(made)


def gate_of(name: str = "alpha") -> dict[str, Any]:
    """A decision with a finding of every level, tests within and beyond their margins, entries and a proposal."""
    levels = {"drift": "the error grew", "nothing": "has no baseline", "warning": "improved", "note": "allowed"}
    findings = [Finding(level, level, f"{text}: {name}") for level, text in levels.items()]
    drifts = [
        Drift((name, "canonical", "f32"), 24, 0.5, 0.05, 0.35, 0.65, 0.1),
        Drift(Stratum(name, "canonical", "f32", "long", "normal"), 6, -0.02, 0.04, -0.2, 0.16, 0.3),
        Drift((name, "other", "f32"), 6, math.inf, 0.04, math.inf, math.inf, 0.3),
    ]
    signed = {"reason": name or "r", "author": "Ada", "link": "docs", "date": "2026-01-01", "expires": "2027-01-01"}
    entry = Entry.model_validate_json(json.dumps({"kind": "margin", "component": name, "bits": 2.0, **signed}))
    return page_section(Decision(findings, "bounds", "key", drifts, [entry], [Proposal(entry, 0.5, 0.75)]))


def run_of(results: Results) -> Run:
    """The run as its files tell it."""
    return parse_run(report_texts(results))


def folder_of(folder: Path, results: Results) -> Path:
    """A folder with the run's files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, report_texts(results))
    return folder


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file of a run in place."""
    document = json.loads((folder / name).read_text(encoding="utf-8"))
    change(document)
    (folder / name).write_text(json.dumps(document), encoding="utf-8")


__all__ = [
    "HOSTILE",
    "changed",
    "folder_of",
    "gate_of",
    "large_results",
    "read_run",
    "results_with",
    "row_of",
    "run_of",
    "small_results",
]
