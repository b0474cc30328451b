"""The M2-BERT layer agrees with the reference's float64 to 1e-13, forward and gradients, under every built profile."""

from __future__ import annotations

import mlx.core as mx
import pytest

from parity.backends.mlx_float64 import Float64Library
from parity.float64.rows import ModuleRow
from parity.suites.m2_bert_float64 import PROFILES, examine_layers


@pytest.fixture(scope="module")
def rows() -> list[ModuleRow]:
    return examine_layers()


def test_every_profile_is_judged_in_the_context_and_behind_the_seam(rows: list[ModuleRow]) -> None:
    assert [row.module for row in rows] == [
        f"M2-BERT layer, {profile}{suffix}" for profile in PROFILES for suffix in ("", ", f64 rung")
    ]


def test_outputs_and_every_gradient_are_within_their_bound(rows: list[ModuleRow]) -> None:
    for row in rows:
        assert row.passed, row
        assert row.bound == "float64_layer"


def test_as_mlx_computes_it_the_layer_would_be_accused(rows: list[ModuleRow]) -> None:
    assert all(row.naive.output is not None and row.naive.output > 1e-7 for row in rows)


def test_one_function_left_in_float32_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Float64Library, "exp", lambda self, x: mx.exp(x))
    failed = [row.module for row in examine_layers() if not row.passed]
    assert failed == [f"M2-BERT layer, {profile}, f64 rung" for profile in PROFILES]
