"""Continuous integration: JUnit XML, annotations, the comment, source lines, and the files that GitHub reads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from harness_pieces import META, invoke
from page_pieces import HOSTILE, folder_of, large_results, results_with, row_of, run_of, small_results

from parity.pages.checks import ANNOTATIONS, LARGEST_COMMENT, annotation_lines, comment_markdown, junit_xml
from parity.results import Results, Skip
from parity.sources import pair_sources
from parity.suites import PAIRS
from parity.targets import load_pairs

ROOT = Path(__file__).parents[2]


def cases(text: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(text).iter("testcase"))


def test_junit_has_a_case_for_every_component_profile_and_rung() -> None:
    results = small_results(2.0)
    results.skips.append(Skip("beta", "extended", "f32", "not built"))
    root = ElementTree.fromstring(junit_xml(run_of(results)))
    assert {k: root.get(k) for k in ("tests", "failures", "skipped")} == {"tests": "9", "failures": "2", "skipped": "1"}
    assert [suite.get("tests") for suite in root] == ["4", "5"]
    failed = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert {(c.get("classname"), c.get("name")) for c in failed} == {
        ("parity.beta", "canonical/f32"),
        ("parity.beta", "other/f32"),
    }
    assert (failed[0].get("file"), failed[0].get("line")) == ("pairs.py", "7")
    assert results.failures[0].rerun in (failed[0].findtext("failure") or "")


def test_junit_of_a_run_that_compared_nothing_fails() -> None:
    (case,) = cases(junit_xml(run_of(Results(dict(META)))))
    assert case.find("failure") is not None


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_junit_with_a_hostile_name_is_xml(name: str) -> None:
    found = cases(junit_xml(run_of(results_with([row_of(name, name, "f32", name, 2.0)]))))
    assert len(found) == 1


def test_an_annotation_is_pinned_to_the_pairs_line() -> None:
    (line, more) = annotation_lines(run_of(small_results(2.0)))
    assert line.startswith("::error file=pairs.py,line=7,title=parity%3A beta canonical f32::first bad tensor act")
    assert "%0Aagain: parity run beta" in line
    assert more == "::error title=parity::1 further failures are in the report"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tensor", "first bad tensor act"),
        ("gradient", "first bad gradient, where values are right: act"),
        ("special", "output in which NaN or infinities are misplaced, where numbers are right: act"),
        ("stratum", "less accurate than the reference: act"),
    ],
)
def test_what_failed_is_called_what_it_is(kind: Any, words: str) -> None:
    results = small_results(2.0)
    results.failures = [replace(failure, kind=kind) for failure in results.failures]
    run = run_of(results)
    assert f"::{words}: " in next(iter(annotation_lines(run)))
    failed = [case.find("failure") for case in cases(junit_xml(run))]
    assert any(element is not None and (element.text or "").startswith(f"{words}: ") for element in failed)
    failed_part = comment_markdown(run).partition("## Headroom")[0]
    assert ("| act |" in failed_part) == (kind == "tensor")


def test_there_are_no_more_annotations_than_are_shown() -> None:
    rows = [row_of(f"c{n}", "p", "f32", "t", 2.0) for n in range(30)]
    lines = list(annotation_lines(run_of(results_with(rows))))
    assert len(lines) == ANNOTATIONS
    assert "21 further" in lines[-1]


def test_a_passing_run_has_no_annotation_and_an_empty_one_has() -> None:
    assert list(annotation_lines(run_of(small_results()))) == []
    assert list(annotation_lines(run_of(Results(dict(META))))) == ["::error title=parity::nothing was compared"]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_makes_no_second_command(name: str) -> None:
    lines = list(annotation_lines(run_of(results_with([row_of(name, name, "f32", name, 2.0)]))))
    assert len("\n".join(lines).splitlines()) == 1 or name == HOSTILE["control"]
    assert re.match(r"::error file=pairs\.py,line=7,title=[^:,]*::", lines[0])


@pytest.mark.parametrize("results", [large_results(3000), small_results(2.0)], ids=["large", "failing"])
def test_the_comment_is_short_enough_and_says_what_it_leaves_out(results: Results) -> None:
    text = comment_markdown(run_of(results))
    assert len(text) < LARGEST_COMMENT
    assert text.startswith(f"# Parity: {results.verdict.upper()}")


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_the_comment_of_many_hostile_failures_is_short_enough(name: str) -> None:
    rows = [row_of(f"{n} {name}", name, "f32", name, 2.0) for n in range(400)]
    text = comment_markdown(run_of(results_with(rows)))
    assert len(text) < LARGEST_COMMENT
    assert "more failures are in summary.json" in text
    assert "<script" not in text
    assert sum(line.startswith("# Parity") for line in text.splitlines()) == 1


def test_every_component_is_found_in_its_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sources = pair_sources(PAIRS)
    assert set(sources) == {pair.name for pair in PAIRS}
    for name, source in sources.items():
        file, _, line = source.rpartition(":")
        assert f'"{name}"' in "\n".join((ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1 :][:3])


def test_a_pair_of_ones_own_is_found_in_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    pairs = load_pairs(["examples/my_pairs.py"])
    sources = pair_sources(pairs)
    lines = (ROOT / "examples/my_pairs.py").read_text(encoding="utf-8").splitlines()
    for name, source in sources.items():
        file, _, line = source.rpartition(":")
        assert file == "examples/my_pairs.py"
        assert name in "\n".join(lines[int(line) - 1 :][:3])
    assert set(sources) == {pair.name for pair in pairs}


def test_a_pair_elsewhere_on_the_machine_has_no_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert pair_sources(PAIRS) == {}


def test_the_command_writes_what_continuous_integration_reads(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", small_results(2.0))
    files = ["--junit", str(tmp_path / "junit.xml"), "--comment", str(tmp_path / "comment.md")]
    done = invoke("report", str(folder), *files, "--annotations")
    assert done.status == 0
    assert done.stdout.startswith("::error file=pairs.py,line=7")
    assert len(cases((tmp_path / "junit.xml").read_text(encoding="utf-8"))) == 8
    assert (tmp_path / "comment.md").read_text(encoding="utf-8").startswith("# Parity: FAIL")


# --- the files that GitHub and pre-commit read ---------------------------------------------------------------


def workflow() -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    return loaded


def test_the_workflow_runs_on_linux_and_on_macos_arm64() -> None:
    text = str(workflow())
    assert "ubuntu" in text
    assert "macos-14" in text
    for word in ("GITHUB_STEP_SUMMARY", "--annotations", "--junit"):
        assert word in text


def test_the_documented_job_is_at_most_fifteen_lines_and_uses_the_action() -> None:
    page = (ROOT / "docs/reports.md").read_text(encoding="utf-8")
    job = page.partition("```yaml\n")[2].partition("```")[0]
    assert 0 < len(job.strip().splitlines()) <= 15
    steps = next(iter(yaml.safe_load(job)["jobs"].values()))["steps"]
    inputs = next(step["with"] for step in steps if "parity" in step.get("uses", ""))
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert set(inputs) <= set(action["inputs"])


def test_the_action_passes_no_input_through_the_shell() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    scripts = [step["run"] for step in action["runs"]["steps"] if "run" in step]
    assert scripts
    assert not any("${{" in script for script in scripts)


def test_the_hook_runs_the_quick_budget() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert [hook["id"] for hook in hooks] == ["parity-quick"]
    assert "--budget quick" in hooks[0]["entry"]
    assert hooks[0]["pass_filenames"] is False
