"""No false alarm of `parity run`: ports that are right though what they meet is hard to compare."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from harness_pieces import invoke

from parity.float64 import float64_forms

FILE = Path(__file__).with_name("right_ports.py")


@pytest.mark.parametrize("name", ["log_softmax", "fourier"])
def test_nan_for_an_infinity_is_no_failure(name: str) -> None:
    done = invoke("extremes", f"{FILE}::{name}", "--seed", "0")
    assert done.status == 0, done.stdout


def test_intermediates_whose_shape_depends_on_rounding_are_listed(tmp_path: Path) -> None:
    words = ("--rung", "f64,f32", "--budget", "quick", "--seed", "0", "--out", str(tmp_path))
    done = invoke("run", f"{FILE}::experts", *words)
    assert done.status == 0, done.stdout + done.stderr
    assert "compared with nothing" in done.stdout


def test_the_modulus_of_a_spectrum_has_no_gradient_at_zero() -> None:
    def loss(x: mx.array) -> mx.array:
        return mx.sum(mx.abs(mx.fft.rfft(x)))

    with mx.stream(mx.cpu), float64_forms():
        found = np.array(mx.grad(loss)(mx.zeros((1, 7), dtype=mx.float64)))
        propagated = np.array(mx.abs(mx.fft.rfft(mx.full((1, 7), float("nan"), dtype=mx.float64))))
    assert not found.any()
    assert np.isnan(propagated).all()
