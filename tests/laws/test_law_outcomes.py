"""What a claim measures, and that a law of which nothing was checked is broken."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from law_faults import LAW_FAULTS
from typer.testing import CliRunner

from parity.cli import app
from parity.laws import EXACT, Application, Claim, Law, Subject, cases_of, check_law
from parity.laws.algebra import convolve
from parity.laws.invariance import ChannelAxis
from parity.spec.profile import CANONICAL
from parity.suites.m2_bert import FFTCONV
from parity.tolerance import Allowance

ONES = np.ones(4)


@pytest.mark.parametrize(
    ("actual", "expected", "allowed", "ratio"),
    [
        (ONES, ONES, EXACT, 0.0),
        (ONES, ONES + 2.0**-52, EXACT, np.inf),
        (ONES, ONES + 2, Allowance(4.0, 1.0), 2.0),
        (ONES, ONES + np.array([0, 0, 0, 4.0]), Allowance(1.0, 8.0), 2.0),
        (ONES, ONES[:3], Allowance(1.0, 1.0), np.inf),
        (ONES, ONES * np.nan, Allowance(1.0, 1.0), np.inf),
        (ONES * np.inf, ONES * np.inf, EXACT, np.inf),
        (0 * ONES, -0.0 * ONES, EXACT, 0.0),
    ],
    ids=["equal", "one bit", "largest", "rms", "shape", "NaN", "infinite", "minus zero"],
)
def test_a_claim_measures_difference_over_allowance(
    actual: np.ndarray, expected: np.ndarray, allowed: Allowance, ratio: float
) -> None:
    assert Claim("", actual, expected, allowed).ratio == ratio


def test_a_claim_of_a_difference_fails_on_equality() -> None:
    assert Claim("", ONES, ONES, distinct=True).ratio == np.inf
    assert Claim("", ONES, ONES + 1, distinct=True).ratio == 0


def nothing(subject: Subject) -> Iterator[Claim]:
    yield from ()


def raising(subject: Subject) -> Iterator[Claim]:
    raise RuntimeError("planted")
    yield


def test_a_law_of_which_nothing_was_checked_is_broken() -> None:
    law = Law("empty", "", (Application(FFTCONV, nothing),))
    for outcome in check_law(law, "fftconv", CANONICAL, lambda application: cases_of(application, 1, 0)):
        assert not outcome.passed
        assert (outcome.cases, outcome.reason) == (0, "nothing was checked")
    for outcome in check_law(law, "fftconv", CANONICAL, lambda application: []):
        assert not outcome.passed


def test_a_side_that_raises_breaks_the_law_and_says_what_it_raised() -> None:
    law = Law("raising", "", (Application(FFTCONV, raising),))
    for outcome in check_law(law, "fftconv", CANONICAL, lambda application: cases_of(application, 1, 0)[:1]):
        assert not outcome.passed
        assert "RuntimeError: planted" in outcome.reason
        assert outcome.breach is not None
        assert "Traceback" in outcome.breach.detail


def test_the_direct_sum_puts_the_future_into_the_second_half_of_the_kernel() -> None:
    kernel = np.array([[1.0, 2.0, 3.0, 0.0, 50.0, 40.0]])
    y = convolve(np.array([[[0.0, 1.0, 0.0]]]), kernel, np.array([0.5]))
    np.testing.assert_array_equal(y, [[[40.0, 1.5, 2.0]]])


def test_channels_are_permuted_in_every_copy_and_as_whole_groups() -> None:
    order = np.array([2, 0, 1])
    axis = ChannelAxis(0, repeat=2, group=2)
    assert axis.permuted(np.arange(12), order).tolist() == [4, 5, 0, 1, 2, 3, 10, 11, 6, 7, 8, 9]


# The command ---------------------------------------------------------------------------------------------------


def invoke(*words: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, ["laws", *words])
    return outcome.exit_code, outcome.output


def test_the_command_prints_a_line_for_each_law_component_and_side() -> None:
    status, output = invoke("fftconv", "--law", "zero", "--law", "skip", "--seed", "0", "--profile", "canonical")
    lines = output.splitlines()
    assert status == 0
    assert [line.split()[:4] for line in lines[:4]] == [
        ["ok", law, "fftconv", side] for law in ("zero", "skip") for side in ("reference", "port")
    ]
    assert lines[4].startswith("4 laws of a component and a side: 0 broken")


def test_the_command_gives_json() -> None:
    status, output = invoke("pooler", "--law", "zero", "--seed", "0", "--json")
    rows = json.loads(output)
    assert status == 0
    assert [(row["law"], row["side"], row["passed"]) for row in rows] == [
        ("zero", "reference", True),
        ("zero", "port", True),
    ]
    assert all(row["cases"] > 0 and row["elements"] > 0 for row in rows)


def test_a_broken_law_exits_1_and_its_printed_command_breaks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    next(fault for fault in LAW_FAULTS if fault.name == "+D for u*D" and fault.side == "port").plant(monkeypatch)
    status, output = invoke("fftconv", "--law", "zero", "--seed", "3", "--profile", "canonical")
    assert status == 1
    assert "BROKEN zero" in output
    again = next(line for line in output.splitlines() if line.startswith("  again: "))
    words = again.removeprefix("  again: parity laws ")
    case = words.split("--case ")[1].strip("'")
    status, output = invoke("fftconv", "--law", "zero", "--profile", "canonical", "--case", case)
    assert status == 1
    assert "BROKEN zero        fftconv                 port" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "unknown target 'nothing'"),
        (["fftconv", "--law", "gravity"], "unknown law 'gravity'"),
        (["fftconv", "--case", "{}"], "exactly one COMPONENT and one --law"),
        (["fftconv", "--law", "zero", "--case", "{}"], "a case is one JSON object"),
    ],
    ids=["component", "law", "a case of no law", "an empty case"],
)
def test_a_mistake_is_one_line_and_status_2(words: list[str], message: str) -> None:
    status, output = invoke(*words)
    assert status == 2
    assert message in output


def test_no_law_for_a_component_is_status_3() -> None:
    assert invoke("hyena_buffers", "--seed", "0")[0] == 3
