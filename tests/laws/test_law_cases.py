"""A case written by hand is put to a law only where the law holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from parity.cases import Case
from parity.cli import app
from parity.laws import Application, cases_of, objections
from parity.suites.m2_bert import FFTCONV
from parity.suites.m2_bert_laws import LAWS

APPLICATIONS = [
    pytest.param(application, id=f"{law.name} {application.pair.name} {index}")
    for law in LAWS
    for index, application in enumerate(law.applications)
]
COMMON = {"family": "normal", "ladder": "f64,f32", "scale": 0, "seed": 0, "batch": 1}
POOLER = {**COMMON, "L": 3}
CONVOLUTION = {**COMMON, "L": 3, "d_model": 2, "bidirectional": True, "gelu": True}


def laws(*words: str, case: dict[str, Any] | str) -> tuple[int, str, str]:
    text = case if isinstance(case, str) else json.dumps(case)
    outcome = CliRunner().invoke(app, ["laws", *words, "--case", text], catch_exceptions=False)
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.mark.parametrize("application", APPLICATIONS)
def test_no_law_objects_to_a_case_of_its_own(application: Application) -> None:
    for case in cases_of(application, 20, 0):
        assert objections(application, case) == {}


def test_a_law_objects_to_what_it_was_narrowed_from() -> None:
    (causality,) = (law for law in LAWS if law.name == "causality")
    application = next(each for each in causality.applications if each.pair.name == "fftconv")
    case = Case.make("fftconv", {"batch": 1, "d_model": 2, "L": 1, "bidirectional": True, "gelu": False})
    assert objections(application, case) == {"L": 2, "bidirectional": False}
    assert objections(Application(FFTCONV, application.check), case) == {}


@pytest.mark.parametrize(
    ("component", "law", "case", "words"),
    [
        ("pooler", "batch", POOLER, ["'batch'", "it would with batch = 2; got", '"batch":1']),
        ("fftconv", "causality", CONVOLUTION, ["it would with bidirectional = false, gelu = false; got"]),
        ("fftconv", "causality", {**CONVOLUTION, "L": None}, ["plain values", "L"]),
        ("fftconv", "causality", {k: v for k, v in CONVOLUTION.items() if k != "L"}, ["fftconv lacks 'L'"]),
        ("hyena_filter", "zero", POOLER, ["hyena_filter lacks"]),
    ],
)
def test_a_case_for_which_the_law_does_not_hold_is_refused(
    component: str, law: str, case: dict[str, Any], words: list[str]
) -> None:
    status, stdout, stderr = laws(component, "--law", law, case=case)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert [word for word in words if word not in stderr] == []


def test_a_case_is_put_to_those_parts_of_a_law_that_hold_for_it() -> None:
    status, stdout, stderr = laws("pooler", "--law", "padding", case={**POOLER, "pool_all": False})
    assert (status, stderr) == (0, "")
    reference, port, summary = stdout.splitlines()
    assert all(" 2 cases, " in line for line in (reference, port)), "first token, and ones; not the mean of all"
    assert summary.startswith("2 laws of a component and a side: 0 broken; 4 cases, ")
    assert summary.endswith(" elements, the case that was given")


def test_a_case_that_is_not_one_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("parity.environment.warm_up", work)
    status, _, stderr = laws("pooler", "--law", "batch", case="{")
    assert status == 2
    assert "case is not JSON" in stderr


def test_a_law_of_no_such_component_checks_nothing() -> None:
    assert laws("pooler", "--law", "linearity", case=POOLER)[0] == 3
