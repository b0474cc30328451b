"""The gate's decision in words, as Markdown and as JSON."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from parity.accuracy import Stratum
from parity.gate.baseline import Baseline
from parity.gate.drift import Drift, group_margin, stratum_margin
from parity.gate.findings import TITLES, Decision
from parity.gate.ledger import Entry
from parity.plain import one_line, plain

GATE_SCHEMA: Final = 1
SHOWN: Final = 20
"""Tests of drift that are listed, the most significant ones."""


def decision_lines(decision: Decision) -> Iterator[str]:
    """Yield every finding, what may be tightened, and the verdict last."""
    for finding in decision.findings:
        yield f"{TITLES[finding.level]} ({finding.kind}): {one_line(finding.sentence)}"
    yield from (f"proposal: {one_line(proposal.sentence)}" for proposal in decision.proposals)
    yield f"{decision.verdict.upper()}: {summary_sentence(decision)}"


def summary_sentence(decision: Decision) -> str:
    """Return what was compared with what, in one sentence."""
    counts = {level: sum(finding.level == level for finding in decision.findings) for level in TITLES}
    judged = {
        "same bits": "the same bits as accepted, and upper confidence bounds of the drift",
        "bounds": "upper confidence bounds of the drift",
        "": "nothing was compared",
    }[decision.tier]
    if any(finding.kind == "bits" and finding.level != "note" for finding in decision.findings):
        judged = "other bits than accepted, and upper confidence bounds of the drift"
    by = f" by {one_line(decision.environment)}" if decision.environment else ""
    return (
        f"judged{by}: {judged}; {len(decision.drifts)} tests of drift; {counts['drift']} findings stop it, "
        f"{counts['nothing']} leave something unjudged, {counts['warning']} warn"
    )


def decision_document(decision: Decision) -> dict[str, Any]:
    """Return the decision as JSON knows it."""
    return {
        "kind": "parity gate",
        "schema": GATE_SCHEMA,
        "verdict": decision.verdict,
        "exit_code": decision.exit_code,
        "tier": decision.tier,
        "environment": decision.environment,
        "findings": [asdict(finding) for finding in decision.findings],
        "drifts": [_drift(drift) for drift in decision.drifts],
        "ledger": [{"title": entry.title, **entry.model_dump(mode="json")} for entry in decision.ledger],
        "proposals": [
            {"entry": p.entry.title, "need": p.need, "bits": p.bits, "sentence": p.sentence} for p in decision.proposals
        ],
    }


def page_section(decision: Decision) -> dict[str, Any]:
    """Return what the page of a run shows of the decision."""
    document = decision_document(decision)
    shown = zip(document["drifts"][:SHOWN], decision.drifts, strict=False)
    return {
        **document,
        "summary": summary_sentence(decision),
        "findings": [{**finding, "title": TITLES[finding["level"]]} for finding in document["findings"]],
        "drifts": [plain({**drift, "name": " ".join(_where(found))}) for drift, found in shown],
        "tests": len(decision.drifts),
    }


def decision_markdown(decision: Decision) -> str:
    """Return the decision as Markdown: verdict, findings, what moved most, ledger, proposals."""
    lines = [f"# Gate: {decision.verdict}", "", summary_sentence(decision) + ".", ""]
    if decision.findings:
        lines += _table(("", "what", "finding"), [(TITLES[f.level], f.kind, f.sentence) for f in decision.findings])
    if decision.drifts:
        lines += ["## What moved", "", f"The {SHOWN} most significant of {len(decision.drifts)} tests.", ""]
        heading = ("where", "drift, bits", "%", "bounds", "margin", "standard errors")
        lines += _table(heading, [_cells(drift) for drift in decision.drifts[:SHOWN]])
    if decision.ledger:
        lines += ["## Ledger", "", *ledger_table(decision.ledger)]
    if decision.proposals:
        lines += ["## Proposals", "", "`parity baseline tighten RUN` applies them.", ""]
        lines += [f"* {_escaped(proposal.sentence)}" for proposal in decision.proposals]
    return "\n".join(lines).rstrip() + "\n"


def ledger_table(entries: Sequence[Entry], date: datetime.date | None = None) -> list[str]:
    """Return the ledger as a table in Markdown; entries that have expired by `date` are marked."""
    rows = [
        (
            entry.title,
            entry.reason,
            entry.author,
            entry.link,
            str(entry.date),
            f"{entry.expires}{' EXPIRED' if date is not None and entry.expires < date else ''}",
        )
        for entry in entries
    ]
    return _table(("entry", "reason", "author", "link", "date", "expires"), rows)


def baseline_lines(baseline: Baseline) -> Iterator[str]:
    """Yield every environment of a baseline and the drift that each of its groups can resolve."""
    for key, record in baseline.environments.items():
        accepted = record.accepted()
        fallback = ", the fallback of unknown environments" if record.fallback else ""
        about = ", ".join(f"{name} {value}" for name, value in record.about.items())
        yield (
            f"{key}: code {record.code}, seeds {', '.join(map(str, record.seeds))}, {len(record.groups)} groups, "
            f"{len(accepted.strata)} strata{fallback}; {about}"
        )
        for group in accepted.groups:
            margin = group_margin(accepted, group)
            strata = [stratum_margin(accepted, stratum) for stratum in accepted.strata_of(group.group)]
            yield (
                f"  {one_line(' '.join(group.group))}: margin {margin:.3f} bits, {100 * (2**margin - 1):.1f} % of the "
                f"error; of single strata {min(strata):.2f} to {max(strata):.2f} bits"
            )


def _drift(drift: Drift) -> dict[str, Any]:
    names = ("component", "profile", "rung", "length_class", "family")
    where = asdict(drift.where) if isinstance(drift.where, Stratum) else dict(zip(names, drift.where, strict=False))
    figures = ("cases", "drift", "error", "lower", "upper", "margin", "percent", "significance", "grew", "shrank")
    return {**where, **{name: getattr(drift, name) for name in figures}}


def _cells(drift: Drift) -> tuple[str, ...]:
    return (
        " ".join(_where(drift)),
        f"{drift.drift:+.3f}",
        f"{drift.percent:+.1f}",
        f"{drift.lower:+.3f} to {drift.upper:+.3f}",
        f"{drift.margin:.3f}",
        f"{drift.significance:+.1f}",
    )


def _where(drift: Drift) -> Sequence[str]:
    return list(asdict(drift.where).values()) if isinstance(drift.where, Stratum) else drift.where


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *([_escaped(cell) for cell in row] for row in rows)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _escaped(text: str) -> str:
    """Return text on one line that ends no table cell, no code span, and starts no HTML."""
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")
