"""Special values among many normal ones: blocks of normal numbers are passed over, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from parity.metrics import SpecialValues, compare_special, special
from parity.spec.precision import RUNGS, Rung


@pytest.mark.parametrize("rung", RUNGS.values(), ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_one_number_of_a_class_in_many_normal_ones_is_counted_wherever_it_stands(rung: Rung, seed: int) -> None:
    generator = np.random.default_rng(seed)
    expected = generator.choice([-1.0, 1.0, rung.tiny, -2.0], 3 * special.BLOCK + 5)
    assert compare_special(expected, expected.copy(), rung) == SpecialValues()
    for found, field in [
        (np.nan, "nan"),
        (-np.inf, "inf"),
        (0.0, "zero"),
        (-0.0, "negative_zero"),
        (rung.tiny / 2, "subnormal"),
    ]:
        actual = expected.copy()
        place = int(generator.choice([0, special.BLOCK - 1, special.BLOCK, actual.size - 1]))
        actual[place] = found
        assert getattr(compare_special(actual, expected, rung), field) == 1
        assert getattr(compare_special(expected, actual, rung), field) == 1
