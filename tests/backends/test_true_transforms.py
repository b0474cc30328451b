"""Truth's transforms are right at every length, backward passes included; torch's own are not."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch

from parity.backends.true_transforms import TrueTransforms, inaccurate
from parity.cases import Case
from parity.examine import Bench, examine
from parity.gradients import GradientBench, examine_gradients
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select

U = RUNGS["f64"].u
RIGHT = 8.0
"""Units of u, rms: pocketfft is within 4."""


def error(found: torch.Tensor, exact: Any) -> float:
    """Relative rms error in units of u."""
    return float(np.linalg.norm(found.numpy() - exact) / np.linalg.norm(exact)) / U


def spectrum(n: int) -> Any:
    generator = np.random.Generator(np.random.Philox(n))
    return generator.standard_normal((3, n)) + 1j * generator.standard_normal((3, n))


@pytest.mark.parametrize("n", [6, 34, 62, 127, 254, 262, 412, 510, 618, 1009])
@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
def test_every_transform_is_right_at_every_length(n: int, norm: str) -> None:
    x, real = spectrum(n), spectrum(n).real.copy()
    half = x[:, : n // 2 + 1].copy()
    long, wide = x.astype(np.clongdouble), real.astype(np.longdouble)
    with TrueTransforms():
        assert error(torch.fft.fft(torch.from_numpy(x), norm=norm), scipy.fft.fft(long, norm=norm)) < RIGHT
        assert error(torch.fft.ifft(torch.from_numpy(x), norm=norm), scipy.fft.ifft(long, norm=norm)) < RIGHT
        assert error(torch.fft.rfft(torch.from_numpy(real), norm=norm), scipy.fft.rfft(wide, norm=norm)) < RIGHT
        exact = scipy.fft.irfft(half.astype(np.clongdouble), n=n, norm=norm)
        assert error(torch.fft.irfft(torch.from_numpy(half), n=n, norm=norm), exact) < RIGHT
        full = torch.fft.fft(torch.from_numpy(real), norm=norm)
    assert error(full, scipy.fft.fft(wide, norm=norm)) < RIGHT


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (0,), (1,)])
def test_axes_are_those_that_were_asked_for(axes: tuple[int, ...]) -> None:
    x = torch.from_numpy(spectrum(34)[:, :34].real.copy().reshape(17, 6))
    plain, half = torch.fft.fftn(x, dim=axes), torch.fft.rfftn(x, dim=axes)
    back = torch.fft.irfftn(half, s=[x.shape[axis] for axis in axes], dim=axes)
    with TrueTransforms():
        assert error(torch.fft.fftn(x, dim=axes), plain.numpy()) < 100
        assert error(torch.fft.rfftn(x, dim=axes), half.numpy()) < 100
        again = torch.fft.irfftn(half, s=[x.shape[axis] for axis in axes], dim=axes)
    assert error(again, back.numpy()) < 100


def test_single_precision_and_other_lengths_are_torchs_own() -> None:
    narrow, plain = torch.from_numpy(spectrum(262)).to(torch.complex64), torch.from_numpy(spectrum(100))
    with TrueTransforms():
        found = torch.fft.fft(narrow), torch.fft.fft(plain)
    assert torch.equal(found[0], torch.fft.fft(narrow))
    assert torch.equal(found[1], torch.fft.fft(plain))


def wrong_lengths() -> set[int]:
    """Lengths below 320 at which torch's own transform errs: some with MKL on Intel's processors, elsewhere none."""
    found = set()
    for n in range(2, 320):
        x = spectrum(n)
        if error(torch.fft.fft(torch.from_numpy(x)), scipy.fft.fft(x.astype(np.clongdouble))) > 2 * RIGHT:
            found.add(n)
    return found


def test_the_rule_names_the_lengths_at_which_mkl_errs() -> None:
    """If nothing errs on Intel's processors with a later MKL, the rule can go."""
    wrong = wrong_lengths()
    assert not wrong or {206, 254, 262} <= wrong
    assert all(map(inaccurate, wrong))


@pytest.mark.parametrize("true", [True, False], ids=["true", "torch's own"])
def test_a_right_convolution_of_such_a_length_passes(true: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not true:
        for module in ("reference", "gradients"):
            monkeypatch.setattr(f"parity.backends.{module}.TrueTransforms", nullcontext)
    (pair,) = select(["fftconv"])
    options = {"L": 206, "batch": 1, "bidirectional": True, "d_model": 2, "gelu": False}
    words = {"family": "normal", "ladder": "f64,f32", "scale": 0, "seed": 4}
    bench = Bench(pair, Case.from_json("fftconv", json.dumps({**options, **words})), CANONICAL)
    verdicts = [
        *examine(bench, CANONICAL, RUNGS["f64"]).judgements.values(),
        *examine_gradients(GradientBench(bench), CANONICAL, RUNGS["f64"]).judgements.values(),
    ]
    assert len(verdicts) == 5
    assert all(judgement.passed for judgement in verdicts) == (true or 206 not in wrong_lengths())


def test_a_transform_that_errs_as_mkl_does_is_seen_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.fft.fft

    def planted(x: torch.Tensor) -> torch.Tensor:
        return own(x) * (1 + (30 * U if inaccurate(x.shape[-1]) else 0.0))

    monkeypatch.setattr(torch.fft, "fft", planted)
    assert wrong_lengths() == {n for n in range(2, 320) if inaccurate(n)}
