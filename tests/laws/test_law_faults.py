"""Every law is shown broken: a bug planted in one side breaks it there, and leaves the other side alone."""

from __future__ import annotations

import pytest
from law_faults import LAW_FAULTS, LawFault

from parity.laws import Outcome, cases_of, check_law
from parity.spec.profile import CANONICAL
from parity.suites.m2_bert_laws import LAWS

BY_NAME = {law.name: law for law in LAWS}


def outcomes(law: str, component: str) -> dict[str, Outcome]:
    checked = check_law(BY_NAME[law], component, CANONICAL, lambda application: cases_of(application, 1, seed=0)[:5])
    return {outcome.side: outcome for outcome in checked}


@pytest.mark.parametrize(
    "fault", LAW_FAULTS, ids=lambda fault: f"{fault.name} in the {fault.side} breaks {fault.law} of {fault.component}"
)
def test_a_planted_fault_breaks_the_law_on_its_side_alone(fault: LawFault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    made = outcomes(fault.law, fault.component)
    broken = made.pop(fault.side)
    assert not broken.passed
    assert broken.breach is not None
    assert broken.breach.rung == "f64"
    assert broken.breach.ratio > 10
    assert broken.cases > 0
    (other,) = made.values()
    assert other.passed, other.reason


def test_every_law_is_broken_by_a_fault_on_either_side() -> None:
    for side in ("reference", "port"):
        assert {fault.law for fault in LAW_FAULTS if fault.side == side} == BY_NAME.keys(), side
