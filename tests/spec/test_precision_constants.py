"""The constants of the number formats agree with what NumPy and ml_dtypes say of them."""

from __future__ import annotations

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
import torch

from parity.spec.precision import BY_DTYPE, RUNGS, Rung

EVERY_RUNG = pytest.mark.parametrize("rung", RUNGS.values(), ids=lambda rung: rung.name)


def finfo(rung: Rung) -> ml_dtypes.finfo:
    return ml_dtypes.finfo(ml_dtypes.bfloat16 if rung.dtype == "bfloat16" else rung.dtype)


@EVERY_RUNG
def test_u_is_half_the_distance_from_one_to_the_next_number(rung: Rung) -> None:
    assert rung.u == float(finfo(rung).eps) / 2


@EVERY_RUNG
def test_tiny_is_the_smallest_normal_number(rung: Rung) -> None:
    assert rung.tiny == float(finfo(rung).smallest_normal)


@EVERY_RUNG
def test_quantum_is_the_smallest_subnormal_number(rung: Rung) -> None:
    assert rung.quantum == float(finfo(rung).smallest_subnormal)


@EVERY_RUNG
def test_maximum_is_the_largest_finite_number(rung: Rung) -> None:
    assert rung.maximum == float(finfo(rung).max)


@EVERY_RUNG
def test_a_format_is_half_if_it_has_sixteen_bits(rung: Rung) -> None:
    assert rung.is_half == (finfo(rung).bits == 16)


@EVERY_RUNG
def test_a_dtype_is_spelt_as_both_frameworks_spell_it(rung: Rung) -> None:
    assert getattr(torch, rung.dtype).is_floating_point
    assert mx.issubdtype(getattr(mx, rung.dtype), mx.floating)
    assert torch.finfo(getattr(torch, rung.dtype)).max == rung.maximum


@EVERY_RUNG
def test_a_rung_is_found_by_name_and_by_dtype(rung: Rung) -> None:
    assert RUNGS[rung.name] is BY_DTYPE[rung.dtype] is rung


def test_the_ladder_descends() -> None:
    roundoffs = [rung.u for rung in RUNGS.values()]
    assert list(RUNGS) == ["f64", "f32", "bf16", "f16"]
    assert np.argsort(roundoffs).tolist() == [0, 1, 3, 2]
