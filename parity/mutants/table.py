"""The score as files: a row each mutant as CSV, everything as JSON, and a page."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from parity.errors import OutputError
from parity.mutants.score import Score
from parity.mutants.trial import SCORED, Finding, Outcome
from parity.plain import json_text

MUTANT_FILES: Final = ("mutants.csv", "mutants.md", "mutants.json")
"""In the order in which they are put in place: a folder holds a whole report if and only if it has the last one."""

_SEEN: Final = ("killed", "margin", "place", "rank", "seconds")


def csv_text(score: Score) -> str:
    """Return a row for every mutant, in the catalogue's order."""
    columns = ["name", "component", "kind", "equivalent", *(f"{rung}_{what}" for rung in SCORED for what in _SEEN)]
    out = io.StringIO()
    writer = csv.DictWriter(
        out, [*columns, "unseen_at_f32", "attribution", "error", "says", "source"], lineterminator="\n"
    )
    writer.writeheader()
    for outcome in score.outcomes:
        row = {key: getattr(outcome, key) for key in writer.fieldnames if hasattr(outcome, key)}
        for rung in SCORED:
            found = outcome.at(rung)
            row |= {f"{rung}_{what}": _cell(getattr(found, what)) for what in _SEEN if found is not None}
        writer.writerow(row)
    return out.getvalue()


def document(score: Score, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything, as JSON knows it."""
    right, blaming = score.blamed
    return {
        "passed": score.exit_status == 0,
        "complaints": score.complaints,
        "mutants": len(score.mutants),
        "equivalent": len(score.equivalents),
        "falsely_killed": [outcome.name for outcome in score.falsely_killed],
        "rungs": {
            rung: {
                "tried": len(score.tried(rung)),
                "killed": len(score.killed(rung)),
                "weak": [outcome.name for outcome in score.weak(rung)],
                "survivors": [outcome.name for outcome in score.survivors(rung)],
            }
            for rung in SCORED
        },
        "blamed_first": right,
        "blaming": blaming,
        "misblamed": [outcome.name for outcome in score.misblamed],
        **meta,
        "outcomes": [asdict(outcome) for outcome in score.outcomes],
    }


def summary_lines(score: Score) -> list[str]:
    """Return the score in a few lines, the verdict last."""
    lines = []
    for rung in SCORED:
        tried, killed = score.tried(rung), score.killed(rung)
        if tried:
            share = 100 * len(killed) / len(tried)
            lines.append(
                f"{rung}: {len(killed)} of {len(tried)} killed ({share:.1f} %), {len(score.weak(rung))} of them weak"
            )
    right, blaming = score.blamed
    if blaming:
        share = 100 * right / blaming
        lines.append(
            f"blame: {right} of {blaming} kills at the finest rung name the right module first ({share:.1f} %)"
        )
    named = sum("behaves as if" in outcome.attribution for outcome in score.mutants)
    lines.append(f"attribution: a known meaning is named for {named} of {len(score.mutants)}")
    lines.append(f"equivalent: {len(score.equivalents)} put to every rung, {len(score.falsely_killed)} falsely killed")
    for rung in SCORED:
        if survivors := score.survivors(rung):
            lines.append(f"survivors at {rung}: {', '.join(outcome.name for outcome in survivors)}")
    if score.misblamed:
        lines.append(f"blamed elsewhere: {', '.join(map(_elsewhere, score.misblamed))}")
    if score.seen_after_all:
        names = ", ".join(outcome.name for outcome in score.seen_after_all)
        lines.append(f"said to be unseen at f32, and killed there: {names}")
    lines += [f"COMPLAINT {line}" for line in score.complaints]
    verdict = {0: "PASS", 1: "FAIL", 3: "NOTHING COMPARED"}[score.exit_status]
    lines.append(f"{verdict}: {len(score.mutants)} mutants, {len(score.equivalents)} that compute the same")
    return lines


def _elsewhere(outcome: Outcome) -> str:
    found = outcome.fine
    assert found is not None
    return f"{outcome.name} (first {found.place}, rank {found.rank or '-'})"


def page(score: Score, command: str) -> str:
    """Return the page: the score, a table of those to be killed, and one of those that must pass."""
    lines = [
        "# Mutants",
        "",
        f"Printed by `{command}`.",
        "",
        *(f"* {_escaped(line)}" for line in summary_lines(score)),
        "",
    ]
    head = ("mutant", "component", "f64", "margin", "blamed", "rank", "s", "f32", "margin")
    lines += _table(head, [_page_row(outcome) for outcome in score.mutants])
    lines += ["", "Margin: largest error over its allowance. Rank: place of the blamed module among the bad ones, in"]
    lines += ["execution order, at the finest rung. s: seconds to the first kill there. At f32 beneath f64 a run ends"]
    lines += ["with its first kill.", ""]
    apart = [outcome for outcome in score.mutants if outcome.finest_reason]
    if apart:
        lines += ["## Not run at f64, and why", "", "These must be killed at the finest rung that their pair has.", ""]
        lines += [f"* {it.name}: {it.finest} is the finest, {_escaped(it.finest_reason)}" for it in apart] + [""]
    explained = [outcome for outcome in score.survivors("f32") if outcome.unseen_at_f32]
    if explained:
        lines += ["## Not seen at f32, and why", ""]
        lines += [f"* {outcome.name}: {_escaped(outcome.unseen_at_f32)}" for outcome in explained] + [""]
    lines += ["## They compute the same, and must pass", ""]
    rows = [(it.name, it.component, "killed" if it.killed else "passes", it.equivalent) for it in score.equivalents]
    return "\n".join([*lines, *_table(("mutant", "component", "verdict", "why it is the same"), rows)]) + "\n"


def _page_row(outcome: Outcome) -> tuple[str, ...]:
    blamed = outcome.fine or Finding(outcome.finest)
    fine, coarse = (outcome.at(rung) for rung in SCORED)
    return (
        f"{outcome.name}: {outcome.says}",
        outcome.component,
        *_verdict(outcome, fine),
        blamed.place,
        str(blamed.rank or "-"),
        "" if blamed.seconds is None else f"{blamed.seconds:.1f}",
        *_verdict(outcome, coarse),
    )


def _verdict(outcome: Outcome, found: Finding | None) -> tuple[str, str]:
    """What killed at a rung, and the margin."""
    if outcome.error:
        return "error", ""
    return ("-", "") if found is None else (found.killed or "survives", _cell(found.margin))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(map(_escaped, row)) for row in rows)]
    return [f"| {line} |" for line in lines]


def _escaped(text: str) -> str:
    """Escape what would end a table's cell or start HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def files(score: Score, meta: Mapping[str, Any], command: str) -> dict[str, str]:
    """Return the files of a report by name."""
    texts = (csv_text(score), page(score, command), json_text(document(score, meta)))
    return dict(zip(MUTANT_FILES, texts, strict=True))


def prepare_files(folder: Path) -> None:
    """Make `folder` and prove that it can be written to; a report that is there stays until the new one replaces it.

    Raises:
        OutputError: It cannot; nothing was run yet.
    """
    with _output(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".parity-"):
            pass


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Put the files into `folder`, made by `prepare_files`.

    All are written beside their places first; then the old last one goes, and the new comes last. Killed at any moment,
    the folder has no last file or a complete report.

    Raises:
        OutputError: A file cannot be written.
    """
    staged = {name: folder / f".parity-{os.getpid()}-{name}" for name in texts}
    try:
        with _output(folder):
            for name, path in staged.items():
                path.write_text(texts[name], encoding="utf-8", newline="")
            (folder / list(texts)[-1]).unlink(missing_ok=True)
            for name, path in staged.items():
                path.replace(folder / name)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _output(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"report in {str(folder)!r} cannot be written: {reason}; choose another with --out") from None
