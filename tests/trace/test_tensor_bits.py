"""Arrays that are the same to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from parity.trace import same_bits


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "?"])
@pytest.mark.parametrize("seed", range(4))
def test_one_flipped_bit_is_seen_and_strides_are_not(dtype: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    array = generator.integers(0, 2, (3, 5)).astype(dtype)
    assert same_bits(array, np.asfortranarray(array.copy()))
    changed = array.copy()
    changed.reshape(-1).view(np.uint8)[generator.integers(changed.nbytes)] ^= 1
    assert not same_bits(array, changed)


def test_zeros_of_two_signs_differ_and_a_nan_equals_itself() -> None:
    assert not same_bits(np.zeros(1), -np.zeros(1))
    assert same_bits(np.array([np.nan]), np.array([np.nan]))


def test_shape_and_dtype_count() -> None:
    assert not same_bits(np.zeros(4), np.zeros((2, 2)))
    assert not same_bits(np.zeros(4), np.zeros(4, np.int64))
    assert same_bits(np.zeros((0, 3)), np.zeros((0, 3)))
