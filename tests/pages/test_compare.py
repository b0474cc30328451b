"""Comparisons: what was planted is found, and two runs of one code show nothing, whatever their seeds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from harness_pieces import META, invoke
from page_pieces import HOSTILE, folder_of, results_with, row_of, run_of, small_results

from parity.errors import ReportError
from parity.pages import Run
from parity.pages.compare import FEWEST, LEVEL, compare, sides_of
from parity.pages.compare_report import comparison_markdown, comparison_page, headline
from parity.results import Measurement, Results, Skip
from parity.spec.precision import RUNGS

COMPONENTS = [f"component_{number}" for number in range(10)]


def run_with(
    noise: int,
    drift: float = 0.0,
    where: str = "component_3",
    cases: int = 24,
    seed: int = 0,
    rungs: tuple[str, ...] = ("f32",),
    profiles: tuple[str, ...] = ("canonical",),
    scale: float = 1.0,
) -> Run:
    """A run whose errors are lognormal around predictions of its own; `where` errs `drift` bits more.

    Args:
        noise: Seed of the errors.
        drift: In bits.
        where: The component that errs more.
        cases: Cases of every stratum.
        seed: Seed of the run, which its cases have.
        rungs: Its rungs; errors scale with their u.
        profiles: Its profiles.
        scale: What all errors are multiplied by.
    """
    generator = np.random.Generator(np.random.Philox(noise))
    rows = []
    for component in COMPONENTS:
        for profile in profiles:
            for rung in rungs:
                row = row_of(component, profile, rung, "y", 0.25)
                row.measurements = []
                for case in range(cases):
                    predicted = RUNGS[rung].u * (1 + case % 7)
                    error = predicted * generator.lognormal(0, 0.5) * scale * 2 ** (drift if component == where else 0)
                    text = f'{{"L":{case},"seed":{seed * 1000 + case}}}'
                    row.measurements.append(Measurement(text, error, predicted, predicted))
                rows.append(row)
    return run_of(results_with(rows))


def found(a: Run, b: Run) -> list[str]:
    return [change.component for change in compare(sides_of([a, b], None)).significant]


def test_a_run_against_itself_shows_nothing() -> None:
    comparison = compare(sides_of([run_with(1), run_with(1)], None))
    assert comparison.significant == []
    assert all(change.same and change.paired for change in comparison.changes)


@pytest.mark.parametrize("seed", [0, 1], ids=["paired", "unpaired"])
def test_a_planted_drift_of_one_bit_is_found_and_nothing_else(seed: int) -> None:
    runs = run_with(1, cases=60), run_with(2, drift=1.0, cases=60, seed=seed)
    assert found(*runs) == ["component_3"]


def test_a_drift_of_a_hundredth_of_a_bit_in_the_same_cases_is_found() -> None:
    assert found(run_with(1), run_with(1, drift=0.01)) == ["component_3"]


@pytest.mark.parametrize("seed", [0, 1], ids=["paired", "unpaired"])
def test_runs_without_a_change_hardly_ever_show_one(seed: int) -> None:
    """60 comparisons at a family-wise error of 1 %: four or more alarms have a probability of 0.3 %."""
    alarms = sum(bool(found(run_with(2 * n), run_with(2 * n + 1, seed=seed))) for n in range(60))
    assert alarms <= 3


def test_without_the_correction_there_would_be_alarms() -> None:
    changes = [c for n in range(60) for c in compare(sides_of([run_with(2 * n), run_with(2 * n + 1)], None)).changes]
    assert sum(change.p < LEVEL for change in changes) > 3


def test_improvements_are_changes_too() -> None:
    comparison = compare(sides_of([run_with(1), run_with(2, drift=-1.0)], None))
    assert [change.bits < 0 for change in comparison.significant] == [True]
    assert "1 less" in headline(comparison)


def test_the_most_significant_comes_first_and_numbers_agree() -> None:
    comparison = compare(sides_of([run_with(1), run_with(1, drift=1.0)], None))
    first = comparison.changes[0]
    assert (first.component, first.cases, first.paired) == ("component_3", 24, True)
    assert first.bits == pytest.approx(1.0)
    assert first.low <= first.bits <= first.high
    assert first.error_b == pytest.approx(2 * first.error_a)
    assert [change.adjusted for change in comparison.changes] == sorted(
        change.adjusted for change in comparison.changes
    )


def test_few_cases_are_not_tested_and_said_to_be_so() -> None:
    runs = [run_with(1, cases=FEWEST - 1), run_with(1, drift=8, cases=FEWEST - 1)]
    comparison = compare(sides_of(runs, None))
    assert not comparison.significant
    assert not any(change.tested for change in comparison.changes)
    assert "too few cases" in comparison_markdown(comparison)


def test_what_could_not_be_tested_is_counted_and_has_a_status_of_its_own(tmp_path: Path) -> None:
    few = [results_with([row_of(c, "p", "f32", "y", e) for c in "kl"]) for e in (0.5, 0.75)]
    folders = [str(folder_of(tmp_path / name, results)) for name, results in zip("ab", few, strict=True)]
    done = invoke("compare", *folders)
    assert (done.status, done.stdout.splitlines()[-1]) == (
        3,
        "0 of 2 strata could be tested: fewer than 6 common cases",
    )
    same = invoke("compare", folders[0], folders[0])
    assert same.status == 0
    assert same.stdout.splitlines()[-1] == "the same error in every case of all 2 strata: there is no change to test"


def test_tested_same_and_too_few_are_told_apart() -> None:
    assert headline(compare(sides_of([run_with(1), run_with(1)], None))).startswith(
        "the same error in every case of all 10"
    )
    assert (
        headline(compare(sides_of([run_with(1), run_with(2)], None)))
        == "nothing changed beyond noise in 10 of 10 strata"
    )
    one = headline(compare(sides_of([run_with(1), run_with(1, drift=1.0)], None)))
    assert one == (
        "1 of 10 strata changed beyond noise: 1 err more, 0 less; 1 tested; 9 have the same error in every case"
    )


@pytest.mark.parametrize("seed", [0, 1], ids=["paired", "unpaired"])
def test_exact_cases_count_as_a_quarter_of_u(seed: int) -> None:
    exact, erring = run_with(1, scale=0.0), run_with(2, seed=seed)
    change = compare(sides_of([exact, erring], None)).changes[0]
    assert change.significant
    assert 1.0 < change.bits < 5.0
    assert change.low < change.bits - 0.05 < change.bits + 0.05 < change.high
    assert change.error_a == 0.0


def test_a_finite_change_is_never_cut_and_an_infinite_one_leaves_its_interval_open() -> None:
    runs = [run_with(1, rungs=("f64",)), run_with(1, drift=30, rungs=("f64",))]
    change = compare(sides_of(runs, None)).changes[0]
    assert change.bits == pytest.approx(30)
    infinite = compare(sides_of([run_with(1), run_with(1, drift=math.inf)], None)).changes[0]
    assert (infinite.component, infinite.high, infinite.significant) == ("component_3", math.inf, True)
    assert math.isfinite(infinite.low)


def coded(code: str, command: tuple[str, ...] = ("run",), own: str = "0", names: str = "kl") -> Run:
    results = results_with([row_of(name, "p", "f32", "y") for name in names])
    results.meta.update(code=code, command=list(command), own={"mine.py": own})
    return run_of(results)


def test_other_code_is_said_and_the_same_code_too() -> None:
    same = compare(sides_of([coded("c0", ("run", "--out", "x")), coded("c0", ("run", "--out=y"))], None))
    assert same.code == "both ran the same code, c0"
    assert same.differences == ()
    others = coded("c1"), coded("c0", own="1")
    said = [compare(sides_of([coded("c0"), other], None)) for other in others]
    assert said[0].code == "the code differs: c0 → c1"
    assert [(d.what, d.a, d.b) for d in said[0].differences] == [("code", "c0", "c1")]
    assert said[1].code.startswith("the code beside pairs of one's own differs")
    assert [(d.what, d.a, d.b) for d in said[1].differences] == [("code beside mine.py", "0", "1")]
    for text in (comparison_markdown(said[0]), comparison_page(said[0])):
        assert "the code differs: c0 → c1" in text


def test_another_command_and_other_components_are_said() -> None:
    runs = coded("c", ("run", "k", "--budget", "quick"), names="km"), coded("c", ("run",))
    assert [(d.what, d.a, d.b) for d in compare(sides_of(runs, None)).differences] == [
        ("command", "parity run k --budget quick", "parity run"),
        ("components on one side alone", "m", "l"),
    ]


def test_rungs_are_compared_beyond_what_the_format_costs() -> None:
    run = run_with(1, rungs=("f32", "bf16"))
    assert not compare(sides_of([run], "rung", "f32")).significant
    assert compare(sides_of([run], "rung", "f32")).changes[0].rung == "f32 → bf16"


def test_profiles_of_one_run_are_compared_with_the_base() -> None:
    comparison = compare(sides_of([run_with(1, profiles=("a", "b", "c"))], "profile", "b"))
    assert {change.contrast for change in comparison.changes} == {"b → a", "b → c"}


def test_two_runs_of_one_profile_each_stand_against_each_other() -> None:
    comparison = compare(sides_of([run_with(1, profiles=("a",)), run_with(1, profiles=("b",))], None))
    assert {change.profile for change in comparison.changes} == {"a → b"}
    assert all(change.same for change in comparison.changes)


def test_what_only_one_side_has_is_said() -> None:
    whole, part = run_with(1), run_of(results_with([row_of("component_0", "canonical", "f32", "y")]))
    assert "component_3 canonical f32: A has it, B has not" in compare(sides_of([whole, part], None)).only


def test_what_a_run_left_out_is_said_with_its_reason() -> None:
    results = results_with([row_of("c", "p", "f32", "y")])
    results.skips.append(Skip("c", "extended", "f32", "not built"))
    run = run_of(results)
    assert compare(sides_of([run, run], None)).only == ("extended: 1 combinations not run: not built",)


def test_a_verdict_that_flips_is_said() -> None:
    comparison = compare(sides_of([run_of(small_results()), run_of(small_results(2.0))], None))
    assert {(d.what.split(" (")[0], d.a, d.b) for d in comparison.verdicts} == {
        ("beta canonical f32 act", "pass", "fail"),
        ("beta other f32 act", "pass", "fail"),
    }
    assert ("verdict", "pass", "fail") in {(d.what, d.a, d.b) for d in comparison.differences}


@pytest.mark.parametrize(
    ("runs", "by", "base", "message"),
    [
        (1, None, "", "two runs, or one run and --by"),
        (2, "profile", "", "two runs, or one run and --by"),
        (1, "profile", "missing", "no profile 'missing'; allowed: canonical"),
        (1, "profile", "", "nothing to compare it with"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs: int, by: str | None, base: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        sides_of([run_with(1)] * runs, by, base)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_harm_no_comparison(name: str) -> None:
    runs = [run_of(results_with([row_of(name, name, "f32", name, error)])) for error in (0.5, 2.0)]
    comparison = compare(sides_of(runs, None), command=f"parity compare {name}")
    page, markdown = comparison_page(comparison), comparison_markdown(comparison)
    markup = page.partition("<body>")[2].partition("<script")[0]
    assert markup.rstrip().endswith("</div>")
    assert "<img" not in markup
    assert "<script" not in markdown
    assert not any(line.startswith("# Parity: PASS") for line in markdown.splitlines())


def test_the_command_writes_both_forms(tmp_path: Path) -> None:
    folders = [str(folder_of(tmp_path / name, small_results(error))) for name, error in (("a", 0.5), ("b", 2.0))]
    files = ["--html", str(tmp_path / "c.html"), "--markdown", str(tmp_path / "c.md")]
    done = invoke("compare", *folders, *files)
    assert done.status == 0
    assert "| verdict | pass | fail |" in (tmp_path / "c.md").read_text(encoding="utf-8")
    assert "How it was tested" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_nothing_comparable_has_a_status_of_its_own(tmp_path: Path) -> None:
    empty = Results(dict(META))
    folders = [str(folder_of(tmp_path / name, empty)) for name in "ab"]
    done = invoke("compare", *folders)
    assert (done.status, done.stdout.splitlines()[-1]) == (3, "nothing was comparable")
