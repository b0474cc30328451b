"""The float64 reference agrees with 50 digits to 4 ulp, and each kind of small error in it is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional
from typer.testing import CliRunner

import reference_torch
from parity.cli import app
from parity.suites import m2_bert_oracles
from parity.suites.m2_bert_oracles import LEAVES, Leaf, try_leaf
from reference_torch import blockdiag, hyena

BY_NAME = {leaf.name: leaf for leaf in LEAVES}
every_leaf = pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.name)


@every_leaf
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_reference_agrees_to_4_ulp(leaf: Leaf, seed: int) -> None:
    cases, found = try_leaf(leaf, seed)
    assert cases > 0
    assert found.elements > 0
    assert found.scale_ulp <= 4
    assert found.well_ulp <= 4


def test_most_leaves_have_well_conditioned_results() -> None:
    without = {leaf.name for leaf in LEAVES if try_leaf(leaf, 0, draws=4)[1].fair_ulp == 0}
    assert without <= {"softmax", "cross_entropy", "sine_network"}


# Planted in the reference ---------------------------------------------------------------------------------------


def _tanh_gelu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference_torch.Gelu, "forward", lambda self, x: functional.gelu(x, approximate="tanh"))


def _single_precision_root(patch: pytest.MonkeyPatch) -> None:
    root = float(torch.tensor(2.0).sqrt())
    patch.setattr(reference_torch.Gelu, "forward", lambda self, x: x * (1 + torch.erf(x / root)) / 2)


def _epsilon(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps * 1.001)

    patch.setattr(reference_torch.LayerNorm, "forward", forward)


def _one_pass_variance(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x * x).mean(-1, keepdim=True) - mean * mean
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias

    patch.setattr(reference_torch.LayerNorm, "forward", forward)


def _cold_kernel(function: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A first call of which the second half comes out of a kernel of low accuracy."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        exact = getattr(torch, function)

        def cold(x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = exact(x)
            y.view(-1)[y.numel() // 2 :] *= 1 + 1e-9
            return y

        patch.setattr(torch, function, cold)

    return plant


def _unshared_time(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.exp(-t.float() * self.deltas.abs()) + self.shift)

    patch.setattr(hyena.ExponentialModulation, "forward", forward)


def _single_precision_frequency(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hyena.Sin, "forward", lambda self, x: torch.sin(self.w_mod * self.freq.float().double() * x))


def _single_precision_kernel(patch: pytest.MonkeyPatch) -> None:
    original = reference_torch.fftconv

    def fftconv(u: torch.Tensor, k: torch.Tensor, *rest: Any) -> torch.Tensor:
        return original(u, k.float().double(), *rest)

    patch.setattr(reference_torch, "fftconv", fftconv)


def _single_precision_products(patch: pytest.MonkeyPatch) -> None:
    exact = torch.einsum

    def einsum(equation: str, *operands: torch.Tensor) -> torch.Tensor:
        return exact(equation, *(operand.float() for operand in operands)).double()

    patch.setattr(blockdiag.torch, "einsum", einsum)


def _swapped_taps(patch: pytest.MonkeyPatch) -> None:
    original = reference_torch.ShortConvolution.forward
    patch.setattr(reference_torch.ShortConvolution, "forward", lambda self, x: original(self, x.flip(-1)).flip(-1))


def _single_precision_softmax(patch: pytest.MonkeyPatch) -> None:
    exact = functional.softmax
    patch.setattr(m2_bert_oracles.functional, "softmax", lambda x, dim: exact(x.float(), dim).double())


def _counted_padding(patch: pytest.MonkeyPatch) -> None:
    def loss(self: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    patch.setattr(reference_torch.BertForMaskedLM, "loss", loss)


PLANTED = {
    "tanh for erf": (_tanh_gelu, "gelu_erf"),
    "sqrt 2 in single precision": (_single_precision_root, "gelu_erf"),
    "eps off by a thousandth": (_epsilon, "layer_norm"),
    "variance in one pass": (_one_pass_variance, "layer_norm"),
    "a cold sin": (_cold_kernel("sin"), "sine_network"),
    "a cold exp": (_cold_kernel("exp"), "modulation"),
    "t in single precision": (_unshared_time, "modulation"),
    "frequency in single precision": (_single_precision_frequency, "sine_network"),
    "kernel in single precision": (_single_precision_kernel, "convolution"),
    "products in single precision": (_single_precision_products, "block_product"),
    "second factor in single precision": (_single_precision_products, "monarch"),
    "taps the other way round": (_swapped_taps, "short_convolution"),
    "softmax in single precision": (_single_precision_softmax, "softmax"),
    "label 0 counted": (_counted_padding, "cross_entropy"),
}


@pytest.mark.parametrize(("plant", "leaf"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], leaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    _, found = try_leaf(BY_NAME[leaf], 0)
    assert not found.passed
    assert found.scale_ulp > 10


@pytest.mark.parametrize("name", ["sin", "exp", "erf", "tanh"])
def test_an_error_of_1e_9_in_a_unary_function_is_seen(name: str) -> None:
    def wrong(rng: Any) -> Any:
        for y, exact in BY_NAME[name].questions(rng):
            yield y * (1 + 1e-9), exact

    assert not try_leaf(Leaf(name, "", wrong), 0)[1].passed


def test_gelu_tanh_is_no_gelu_erf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_torch.Gelu, "forward", lambda self, x: functional.gelu(x))
    assert not try_leaf(BY_NAME["gelu_tanh"], 0)[1].passed


# The command ---------------------------------------------------------------------------------------------------


def test_the_command_prints_a_line_for_each_leaf() -> None:
    outcome = CliRunner().invoke(app, ["oracle", "--draws", "1"])
    assert outcome.exit_code == 0
    assert [line.split()[:2] for line in outcome.output.splitlines()] == [["ok", leaf.name] for leaf in LEAVES]


def test_the_command_gives_json_and_exits_1_on_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    _tanh_gelu(monkeypatch)
    outcome = CliRunner().invoke(app, ["oracle", "--draws", "1", "--json"])
    assert outcome.exit_code == 1
    rows = json.loads(outcome.output)
    assert [row["leaf"] for row in rows if not row["passed"]] == ["gelu_erf"]
    assert all(row["cases"] > 0 and row["allowed"] == 4 for row in rows)
