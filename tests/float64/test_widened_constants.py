"""A port's own requests for float32 are widened while the context lasts, and nothing else is."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from parity.float64 import float64_forms
from parity.float64.widened import widened_constants


def frequencies() -> mx.array:
    return 500.0 ** (mx.arange(0, 8, 2) / 8) * mx.arange(1, 5, dtype=mx.float32)


def error(values: mx.array) -> float:
    truth = 500.0 ** (np.arange(0, 8, 2) / 8) * np.arange(1, 5)
    return float(np.abs(np.array(values.astype(mx.float64)) / truth - 1).max())


def test_constants_of_a_port_are_float64() -> None:
    with mx.stream(mx.cpu):
        assert error(frequencies()) > 1e-9
    with float64_forms() as leaks, widened_constants():
        assert error(frequencies()) < 1e-15
    assert not leaks


def test_a_cast_to_float32_is_none() -> None:
    with float64_forms() as leaks, widened_constants():
        assert mx.array([1.0], dtype=mx.float64).astype(mx.float32).dtype == mx.float64
    assert not leaks


def test_sixteen_bits_and_integers_stay() -> None:
    with float64_forms(), widened_constants():
        assert (mx.array([4.0], dtype=mx.bfloat16) / 2).dtype == mx.bfloat16
        assert (mx.array([5]) // 2).dtype == mx.int32


def test_every_name_is_restored_after_an_exception_too() -> None:
    def names() -> tuple[Any, Any]:
        return mx.float32, mx.array.__truediv__

    def fail() -> None:
        with widened_constants():
            assert names() != before
            raise KeyError("planted")

    before = names()
    with pytest.raises(KeyError, match="planted"):
        fail()
    assert names() == before
    with float64_forms():
        inside = names()
        with widened_constants():
            pass
        assert names() == inside
    assert names() == before
