"""A run for continuous integration: JUnit XML, annotations of a workflow, a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.etree import ElementTree

from parity.pages.html import encodable, number
from parity.pages.payload import worst_rows
from parity.pages.run_files import Run
from parity.pages.terms import FAILED_WORDS, TERMS

LARGEST_COMMENT: Final = 60_000
"""Characters of a comment: GitHub takes 65,536, and other things are added to it."""

ANNOTATIONS: Final = 10
"""Errors that GitHub shows of one step; more are dropped there, so the last says how many there are."""

_NO_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, escaped or not."""

_CELL: Final = 200
"""Characters of a name in a cell of the comment."""


def junit_xml(run: Run) -> str:
    """Return one test case a component, profile and rung, and one a failing stratum, as JUnit XML.

    The failure of a test case holds the reason and the command that shows it again; what was not run is skipped.
    """
    suites: dict[str, list[ElementTree.Element]] = {}
    failures = _failures(run)
    for (component, profile, rung), row in worst_rows(run).items():
        case = _testcase(run, component, f"{profile}/{rung}")
        found = failures.pop((component, profile, rung), [])
        for failure in found:
            _add(case, "failure", failure["reason"], _words(failure))
        if row["verdict"] == "fail" and not found:
            _add(case, "failure", row["reason"], f"{row['tensor']}: {row['reason']}")
        suites.setdefault(component, []).append(case)
    for (component, profile, rung), left in failures.items():
        case = _testcase(run, component, f"{profile}/{rung}")
        for failure in left:
            _add(case, "failure", failure["reason"], _words(failure))
        suites.setdefault(component, []).append(case)
    for skip in run.summary["skips"]:
        if skip["cases"] is None:
            case = _testcase(run, skip["component"], f"{skip['profile']}/{skip['rung']}")
            _add(case, "skipped", skip["reason"], "")
            suites.setdefault(skip["component"], []).append(case)
    if run.summary["verdict"] == "nothing compared":
        case = _testcase(run, "parity", "something is compared")
        _add(case, "failure", "nothing was compared", "nothing was compared")
        suites.setdefault("parity", []).append(case)
    return _document(suites)


def _document(suites: Mapping[str, list[ElementTree.Element]]) -> str:
    root = ElementTree.Element("testsuites", name="parity")
    for component, cases in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", name=_xml(component))
        suite.extend(cases)
        _count(suite, cases)
    _count(root, [case for cases in suites.values() for case in cases])
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _count(element: ElementTree.Element, cases: list[ElementTree.Element]) -> None:
    counted = {"tests": len(cases), "errors": 0}
    counted |= {
        name: sum(c.find(tag) is not None for c in cases)
        for name, tag in (("failures", "failure"), ("skipped", "skipped"))
    }
    for name, value in counted.items():
        element.set(name, str(value))


def _testcase(run: Run, component: str, name: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=f"parity.{_xml(component)}", name=_xml(name))
    file, _, line = run.details["sources"].get(component, "").rpartition(":")
    if file:
        case.set("file", _xml(file))
        case.set("line", line)
    return case


def _add(case: ElementTree.Element, tag: str, message: str, text: str) -> None:
    element = ElementTree.SubElement(case, tag, message=_xml(message))
    element.text = _xml(text)


def _xml(text: object) -> str:
    return _NO_XML.sub("\ufffd", str(text))


def _failures(run: Run) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for failure in run.summary["failures"]:
        found.setdefault((failure["component"], failure["profile"], failure["rung"]), []).append(failure)
    return found


def _words(failure: Mapping[str, Any]) -> str:
    lines = [f"{_what(failure)} {failure['first_bad']}: {failure['reason']}", f"again: {failure['rerun']}"]
    return "\n".join([*lines, *failure["attribution"], *([failure["detail"]] if failure["detail"] else [])])


def _what(failure: Mapping[str, Any]) -> str:
    """What failed: a tensor, a gradient, special values or a stratum."""
    words = FAILED_WORDS.get(failure.get("kind", ""), TERMS["first_bad"][0])
    return f"{words[0].lower()}{words[1:]}" + (":" if failure.get("kind") in FAILED_WORDS else "")


def annotation_lines(run: Run) -> Iterator[str]:
    """Yield the workflow commands that pin failures to where their pairs are declared, as GitHub Actions reads them.

    One error a component, the first of its failures; one line says how many more there are.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for failure in run.summary["failures"]:
        first.setdefault(failure["component"], failure)
    shown = list(first.items())[: ANNOTATIONS - 1]
    for component, failure in shown:
        title = f"parity: {component} {failure['profile']} {failure['rung']}"
        yield _annotation("error", run.details["sources"].get(component, ""), title, _words({**failure, "detail": ""}))
    left = len(run.summary["failures"]) - len(shown)
    if left:
        yield _annotation("error", "", "parity", f"{left} further failures are in the report")
    if run.summary["verdict"] == "nothing compared":
        yield _annotation("error", "", "parity", "nothing was compared")


def _annotation(level: str, source: str, title: str, message: str) -> str:
    file, _, line = source.rpartition(":")
    properties = {"file": file, "line": line} if file else {}
    words = ",".join(f"{name}={_property(value)}" for name, value in {**properties, "title": title[:_CELL]}.items())
    return encodable(f"::{level} {words}::{_data(message[: 20 * _CELL])}")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def comment_markdown(run: Run) -> str:
    """Return verdict, failures and headroom as Markdown that is shorter than `LARGEST_COMMENT`, whatever the names.

    Rows are added while they fit; what was left out is counted.
    """
    summary, counts = run.summary, run.summary["counts"]
    lines = [
        f"# Parity: {summary['verdict'].upper()}",
        "",
        f"{counts['rows']} tensors judged ({counts['rows_failed']} failed) from {counts['elements_compared']} compared "
        f"elements; {counts['strata']} strata, {counts['strata_failed']} less accurate than the reference; "
        f"{counts['skipped']} combinations not run. Seed {summary.get('seed', '-')}.",
        "",
    ]
    failures = [_failure_line(failure) for failure in summary["failures"]]
    if failures:
        head = ["| component | profile | rung | what fails first | why | again |", "|---|---|---|---|---|---|"]
        lines = _fitted(lines, ["## Failed", "", *head], failures, LARGEST_COMMENT // 2, "failures are in summary.json")
    worst = sorted(
        worst_rows(run).items(), key=lambda item: -float("inf" if item[1]["ratio"] is None else item[1]["ratio"])
    )
    rows = [
        f"| {' | '.join(map(cell, (*key, row['tensor'])))} | {number(row['ratio'])} | {row['verdict']} |"
        for key, row in worst
    ]
    head = [
        "| component | profile | rung | nearest to its limit | error / allowed | verdict |",
        "|---|---|---|---|---|---|",
    ]
    return encodable(
        "\n".join(_fitted(lines, ["## Headroom", "", *head], rows, LARGEST_COMMENT - 500, "rows are in report.html"))
    )


def _failure_line(failure: Mapping[str, Any]) -> str:
    kind = "" if failure.get("kind") not in FAILED_WORDS else f" ({_what(failure).rstrip(':')})"
    first = f"{failure['first_bad']}{kind}"
    words = [failure["component"], failure["profile"], failure["rung"], first, failure["reason"]]
    again = str(failure["rerun"])
    shown = f"`{cell(again, most=2000)}`" if len(again) <= 2000 else "in summary.json"
    return f"| {' | '.join(cell(word) for word in words)} | {shown} |"


def _fitted(lines: list[str], head: list[str], rows: list[str], limit: int, left_out: str) -> list[str]:
    found = [*lines, *head]
    size = sum(len(line) + 1 for line in found)
    for place, row in enumerate(rows):
        size += len(row) + 1
        if size > limit - 100:
            return [*found, "", f"{len(rows) - place} more {left_out}.", ""]
        found.append(row)
    return [*found, ""]


def cell(text: object, most: int = _CELL) -> str:
    """Escape what would end a table cell or a code span, start HTML or a mention; crop what is long."""
    line = " ".join(str(text).split())
    line = line if len(line) <= most else f"{line[:most]}…"
    return line.replace("|", "\\|").replace("`", "'").replace("<", "&lt;").replace("@", "@\u200b")
