"""The aimed case scores higher than blind ones, repeats itself, and is none where nothing scores."""

from __future__ import annotations

from parity.cases import Case, aim_case, draw_cases
from parity.suites.m2_bert import LAYER, POOLER


def length(case: Case) -> float:
    return float(case.options["L"] * case.options["hidden_size"])


def test_aiming_finds_no_less_than_as_many_blind_draws() -> None:
    aimed = aim_case(LAYER, length, seed=0, effort=60)
    assert aimed is not None
    blind = max(map(length, draw_cases(LAYER, 30, 0)))
    assert length(aimed) >= blind


def test_aiming_repeats_itself() -> None:
    assert aim_case(POOLER, length, seed=3, effort=20) == aim_case(POOLER, length, seed=3, effort=20)


def test_where_nothing_scores_there_is_no_case() -> None:
    assert aim_case(POOLER, lambda case: 0.0, seed=0, effort=10) is None
