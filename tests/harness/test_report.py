"""Reports: one tidy row a tensor, the same bytes for the same results, safe from hostile names, whole or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import META, failure_of, filled_row, judgement_of, pooler_case, results_of, row

from parity.cases import corpus_cases
from parity.errors import OutputError
from parity.gradients import KINK
from parity.pages import SCHEMA
from parity.report import REPORT_FILES, layers_csv, prepare_folder, render_markdown, summary_json, write_report
from parity.results import Results, Skip
from parity.spec.precision import RUNGS
from parity.suites import PAIRS
from parity.verdict import failed

EXPLANATIONS = Path(__file__).parents[2] / "reports" / "README.md"
LIMIT = 60_000


def cells(results: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(layers_csv(results))))


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def summary_of(results: Results) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(summary_json(results), parse_constant=refuse_constant)
    return parsed


def a_missing_tensor() -> Results:
    missing = row(tensor="act")
    missing.add(failed("the port has no such tensor"), pooler_case(), "parity run pooler")
    return results_of([filled_row(0.5), missing])


EXAMPLES = {
    "pass": results_of([filled_row(0.5), filled_row(0.25, tensor="dense")]),
    "fail": results_of([filled_row(2.0), filled_row(0.25, tensor="dense")]),
    "missing tensor": a_missing_tensor(),
    "nothing compared": results_of([], [Skip("pooler", "extended_precision", "f64", "not implemented yet")]),
}
examples = pytest.mark.parametrize("results", EXAMPLES.values(), ids=EXAMPLES)


# layers.csv -------------------------------------------------------------------------------------------------------


def test_there_is_one_row_per_component_profile_rung_and_tensor() -> None:
    rows = [
        filled_row(0.5, component=component, profile=profile, rung=rung, tensor=tensor)
        for component in ("pooler", "mlp")
        for profile in ("canonical", "torch_like")
        for rung in ("f64", "f32")
        for tensor in ("dense", "y")
    ]
    found = [(r["component"], r["profile"], r["rung"], r["tensor"]) for r in cells(results_of(rows))]
    assert len(found) == len(set(found)) == 16


def test_a_skipped_combination_has_a_row_of_its_own_with_the_reason() -> None:
    results = results_of([filled_row(0.5)], [Skip("mlp", "extended_precision", "f64", "not implemented yet")])
    skipped = [r for r in cells(results) if r["verdict"] == "skip"]
    assert [(r["component"], r["profile"], r["rung"], r["tensor"]) for r in skipped] == [
        ("mlp", "extended_precision", "f64", "*")
    ]
    assert skipped[0]["reason"] == "not implemented yet"
    assert skipped[0]["elements"] == "0"


def test_single_skipped_cases_are_counted_in_the_rows_that_lack_them() -> None:
    results = results_of(
        [filled_row(0.5, rung="f16"), filled_row(0.5)], [Skip("pooler", "canonical", "f16", "too large", cases=3)]
    )
    assert {r["rung"]: r["cases_skipped"] for r in cells(results)} == {"f16": "3", "f32": "0"}


def test_a_rung_whose_every_case_was_skipped_is_visible() -> None:
    results = results_of([filled_row(0.5)], [Skip("pooler", "canonical", "f16", "too large", cases=3)])
    assert [(r["reason"], r["cases_skipped"]) for r in cells(results) if r["rung"] == "f16"] == [("too large", "3")]


def test_infinities_and_blanks_are_spelt_the_same_way_every_time() -> None:
    missing = cells(a_missing_tensor())[1]
    assert (missing["ratio"], missing["port_rel_l2"], missing["headroom_bits"]) == ("inf", "", "")


@pytest.mark.parametrize("column", list(csv.DictReader(io.StringIO(layers_csv(EXAMPLES["pass"]))).fieldnames or ()))
def test_every_column_is_explained(column: str) -> None:
    assert f"`{column}`" in EXPLANATIONS.read_text(encoding="utf-8")


@examples
@pytest.mark.parametrize("render", [layers_csv, summary_json, render_markdown])
def test_equal_results_give_equal_bytes(results: Results, render: Callable[[Results], str]) -> None:
    assert render(results) == render(replace(results))


def test_another_result_gives_other_bytes() -> None:
    texts = [[render(EXAMPLES[name]) for name in ("pass", "fail")] for render in (layers_csv, summary_json)]
    assert all(one != other for one, other in texts)


# summary.json -----------------------------------------------------------------------------------------------------


@examples
def test_the_summary_is_strict_json(results: Results) -> None:
    assert summary_of(results)["schema"] == SCHEMA


def test_strict_json_is_what_the_parser_insists_on() -> None:
    with pytest.raises(AssertionError, match="NaN is not JSON"):
        json.loads("NaN", parse_constant=refuse_constant)


def test_an_infinite_ratio_is_spelt_out() -> None:
    assert summary_of(a_missing_tensor())["failures"][0]["ratio"] == "infinity"


@examples
def test_the_summary_agrees_with_the_rows(results: Results) -> None:
    summary, rows = summary_of(results), cells(results)
    counts = summary["counts"]
    assert counts["rows"] == sum(r["verdict"] != "skip" for r in rows)
    assert counts["rows_failed"] == sum(r["verdict"] == "fail" for r in rows)
    assert counts["skipped"] == sum(r["verdict"] == "skip" for r in rows)
    assert counts["elements_compared"] == sum(int(r["elements"]) for r in rows)
    expected = "fail" if counts["rows_failed"] else "pass" if counts["elements_compared"] else "nothing compared"
    assert summary["verdict"] == expected
    assert summary["exit_code"] == {"pass": 0, "fail": 1, "nothing compared": 3}[expected]


def test_the_summary_names_every_skip_with_its_reason() -> None:
    skip = Skip("mlp", "extended_precision", "f64", "not implemented yet")
    assert summary_of(results_of([], [skip]))["skips"] == [vars(skip)]


# report.md --------------------------------------------------------------------------------------------------------


@examples
def test_the_report_begins_with_the_verdict(results: Results) -> None:
    assert render_markdown(results).splitlines()[0] == f"# Parity: {results.verdict.upper()}"


def test_the_report_names_the_failure_its_first_bad_tensor_and_the_command() -> None:
    results = EXAMPLES["fail"]
    failure = results.failures[0]
    text = render_markdown(results)
    section = text.partition("## Failed")[2].partition("## Headroom")[0]
    line = next(line for line in section.splitlines() if line.startswith(f"| {failure.component} "))
    assert f"**{failure.first_bad}**" in line
    assert failure.reason in line
    assert f"`{failure.rerun}`" in line
    assert "1 of 1" in line


def test_a_passing_report_has_no_section_of_failures() -> None:
    assert "## Failed" not in render_markdown(EXAMPLES["pass"])


def test_the_report_says_what_was_skipped_and_why() -> None:
    text = render_markdown(EXAMPLES["nothing compared"])
    assert "extended_precision: 1 combinations of component and rung not run. not implemented yet." in text


def test_what_is_judged_beside_a_kink_is_not_called_skipped() -> None:
    text = render_markdown(results_of([filled_row(0.5)], [Skip("pooler", "canonical", "f64", KINK, cases=3)]))
    assert f"3 runs of single cases were judged, not skipped: {KINK}" in text


def test_the_report_says_where_single_cases_were_skipped() -> None:
    text = render_markdown(results_of([filled_row(0.5)], [Skip("pooler", "canonical", "f16", "too large", cases=3)]))
    section = text.partition("## Skipped")[2].partition("## Headroom")[0]
    assert all(word in section for word in ("pooler", "canonical", "f16", "too large", "3"))


def of_full_size(error: float) -> Results:
    rows = []
    for pair in PAIRS:
        case = corpus_cases(pair, 0)[-1]
        for profile in ("canonical", "mlx_stable", "torch_avg", "torch_like"):
            for rung in RUNGS:
                for tensor in range(15):
                    one = row(pair.name, profile, rung, f"encoder.layer.{tensor}")
                    one.add(judgement_of(error), case, case.command(profile, rung))
                    rows.append(one)
    return results_of(rows)


def test_a_report_of_a_full_passing_run_fits_a_comment() -> None:
    assert len(render_markdown(of_full_size(0.5))) < LIMIT


def test_a_report_of_a_run_where_everything_fails_fits_a_comment() -> None:
    results = of_full_size(2.0)
    firsts = {(failure.component, failure.profile, failure.rung): failure for failure in results.failures}
    results.failures = list(firsts.values())
    assert len(render_markdown(results)) < LIMIT


HOSTILE = {
    "pipe": "a|b | c",
    "backtick": "a`b`c",
    "html": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "closing tag": "</details></summary>",
    "newline": "a\n# Parity: PASS\n\n| b |",
}


def with_name(name: str, verdict_error: float = 2.0) -> Results:
    bad = filled_row(verdict_error, component=name, tensor=name)
    bad.rerun, bad.reason = f"parity run {name}", name
    results = results_of([bad, filled_row(0.5)], [Skip(name, "canonical", "f64", name)])
    results.skips.append(Skip(name, "canonical", "f32", name, cases=2))
    results.failures = [failure_of(bad)]
    results.meta = {**META, "environment": {name: name}}
    return results


def tables(text: str) -> list[list[str]]:
    """Blocks of consecutive lines that begin with a pipe."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def shape(text: str) -> list[list[int]]:
    return [[columns(line) for line in table] for table in tables(text)]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_leaves_every_table_as_it_is(name: str) -> None:
    harmless = shape(render_markdown(with_name("harmless")))
    assert all(len(set(table)) == 1 for table in harmless)
    assert shape(render_markdown(with_name(name))) == harmless


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_brings_no_html_and_no_heading(name: str) -> None:
    text, harmless = render_markdown(with_name(name)), render_markdown(with_name("harmless"))
    assert re.findall(r"<[^ =]", text) == re.findall(r"<[^ =]", harmless)
    assert sum(line.startswith("#") for line in text.splitlines()) == sum(
        line.startswith("#") for line in harmless.splitlines()
    )


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_code_spans_stay_closed(name: str) -> None:
    assert all(line.count("`") % 2 == 0 for line in render_markdown(with_name(name)).splitlines())


def test_a_carriage_return_does_not_begin_a_line() -> None:
    assert "\r" not in render_markdown(with_name("a\r# Parity: PASS"))


# Writing ----------------------------------------------------------------------------------------------------------

OLD = {name: f"old {name}" for name in REPORT_FILES}
NEW = {name: f"new {name}" for name in REPORT_FILES}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def test_a_report_is_its_files_and_nothing_else(tmp_path: Path) -> None:
    write_report(tmp_path, NEW)
    assert contents(tmp_path) == NEW


def test_a_second_report_replaces_the_first_and_leaves_other_files_alone(tmp_path: Path) -> None:
    write_report(tmp_path, OLD)
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / ".parity-mine").write_text("mine", encoding="utf-8")
    write_report(tmp_path, NEW)
    assert contents(tmp_path) == NEW | {"mine.txt": "mine", ".parity-mine": "mine"}


@pytest.mark.parametrize("texts", [{}, {"summary.json": ""}, {**NEW, "more.txt": ""}], ids=["none", "one", "more"])
def test_a_report_with_other_files_is_refused(texts: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a report is"):
        write_report(tmp_path, texts)
    assert contents(tmp_path) == {}


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, at: int, after: bool, error: type[BaseException]) -> None:
    """Raise at the `at`-th call of os.`name`, before or after it has done its work."""
    original, calls = getattr(os, name), iter(range(100))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) != at:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise error

    monkeypatch.setattr(os, name, call)


INTERRUPTIONS = [
    *[("fsync", at, after) for at in range(len(REPORT_FILES)) for after in (False, True)],
    *[("unlink", 0, after) for after in (False, True)],
    *[("replace", at, after) for at in range(len(REPORT_FILES)) for after in (False, True)],
]


@pytest.mark.parametrize(("name", "at", "after"), INTERRUPTIONS)
def test_an_interrupted_write_leaves_no_summary_or_a_whole_report(
    name: str, at: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, OLD)
    with monkeypatch.context() as patch:
        interrupt(patch, name, at, after, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            write_report(tmp_path, NEW)
    left = {file: text for file, text in contents(tmp_path).items() if file in REPORT_FILES}
    assert "summary.json" not in left or left in (OLD, NEW)


@pytest.mark.parametrize(("name", "at", "after"), INTERRUPTIONS)
def test_an_interrupted_write_leaves_no_stray_file(
    name: str, at: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, OLD)
    with monkeypatch.context() as patch:
        interrupt(patch, name, at, after, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            write_report(tmp_path, NEW)
    assert set(contents(tmp_path)) <= set(REPORT_FILES)


def test_a_full_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path, OLD)
    interrupt(monkeypatch, "fsync", 1, after=False, error=OSError)
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path, NEW)
    assert {file: text for file, text in contents(tmp_path).items() if file in REPORT_FILES} == OLD


def test_a_folder_in_the_place_of_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path, NEW)
    assert not (tmp_path / "summary.json").exists()


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    assert contents(tmp_path / "a" / "b") == {}


@pytest.mark.parametrize("below", ["file", "file/folder"])
def test_a_folder_at_or_under_a_regular_file_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="choose another with --out"):
        prepare_folder(tmp_path / below)
    assert contents(tmp_path) == {"file": "mine"}


def test_preparing_a_folder_takes_an_older_summary_away_and_nothing_else(tmp_path: Path) -> None:
    for name in ("summary.json", "layers.csv", "mine.txt"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    prepare_folder(tmp_path)
    assert contents(tmp_path) == {"layers.csv": "old", "mine.txt": "old"}
