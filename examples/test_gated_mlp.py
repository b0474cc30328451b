"""The same pairs in a test suite: `pytest examples`, with mlx-parity installed."""

import pytest
from my_pairs import GATED_MLP, SHORT_MIXER
from wrong_port import WRONG

parity_pairs = [GATED_MLP]


def test_the_port_computes_what_the_reference_does(parity_check):
    """The fixture fails the test where they differ, and returns what was measured."""
    results = parity_check(SHORT_MIXER, rungs=["f64", "f32"])
    assert results.compared > 0


@pytest.mark.xfail(reason="the norm's epsilon is that of another model", strict=True)
@pytest.mark.parity(WRONG)
def test_the_wrong_port():
    """The mark checks before the body runs."""
