"""Laws that need no reference: what a component must obey by its own specification, put to either side alone."""

from parity.laws.check import LAW_BUDGETS, LAW_RUNGS, Breach, Outcome, cases_of, check_law, objections
from parity.laws.law import EXACT, Application, Claim, Law
from parity.laws.subject import SIDES, Ground, Side, Subject

__all__ = [
    "EXACT",
    "LAW_BUDGETS",
    "LAW_RUNGS",
    "SIDES",
    "Application",
    "Breach",
    "Claim",
    "Ground",
    "Law",
    "Outcome",
    "Side",
    "Subject",
    "cases_of",
    "check_law",
    "objections",
]
