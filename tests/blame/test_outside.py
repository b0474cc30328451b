"""What no module of the tree is: several outputs, a model whose own `forward` is never called, nothing finite."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness_pieces import invoke

PAIRS = """
import mlx.core as mx
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity import Pair


class Attention(tnn.Module):
    def __init__(self):
        super().__init__()
        self.out = tnn.Linear(8, 8)

    def forward(self, x):
        weights = (x @ x.transpose(1, 2)).softmax(-1)
        return self.out(weights @ x), weights


class Model(tnn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head, self.aux = Attention(), tnn.Linear(8, 8), tnn.Linear(8, 3)

    def forward(self, x):
        hidden = self.attention(x)[0].relu()
        return self.head(hidden), self.aux(hidden)

    def encode(self, x):
        return self.forward(x)[0]

    def broken(self, x):
        return self.head(x)

    def unknown(self, x):
        return self.head(x) * float("nan")


class AttentionPort(mnn.Module):
    def __init__(self):
        super().__init__()
        self.out = mnn.Linear(8, 8)

    def __call__(self, x):
        weights = mx.softmax(x @ x.swapaxes(1, 2), axis=-1)
        return self.out(weights @ x), weights


class Cut(mnn.Linear):
    def __call__(self, x):
        return super().__call__(mx.stop_gradient(x))


class ModelPort(mnn.Module):
    def __init__(self, fault=""):
        super().__init__()
        self.attention, self.head = AttentionPort(), mnn.Linear(8, 8)
        self.aux = (Cut if fault == "aux" else mnn.Linear)(8, 3)
        self.fault = fault
        if fault == "frozen":
            self.aux.freeze()

    def __call__(self, x):
        hidden = self.attention(x)[0]
        hidden = 2 * hidden if self.fault == "scale" else mnn.relu(hidden)
        hidden = mx.stop_gradient(hidden) if self.fault == "stop" else hidden
        return (self.head(hidden), self.aux(hidden)[:, 1:] if self.fault == "cut" else self.aux(hidden))

    def encode(self, x):
        return ModelPort.__call__(self, x)[0]

    def broken(self, x):
        return self.head(x).reshape(3, 5)

    def unknown(self, x):
        return mx.exp(self.head(x)) * float("nan")


class Encoder(Model):
    def encode(self, x):
        return Model.forward(self, x)[0]


def pair(name, fault="", method=""):
    call = (lambda module, inputs: getattr(module, method)(inputs["x"])) if method else None
    return Pair(
        name, reference=lambda c: Encoder(), port=lambda c: ModelPort(fault), configurations=[{"length": 5}],
        inputs=lambda c: {"x": (2, c["length"], 8)}, call=call,
    )


PAIRS = [
    pair("right"), pair("aux", "aux"), pair("encode", method="encode"), pair("encode_scale", "scale", "encode"),
    pair("encode_stop", "stop", "encode"), pair("nan", method="unknown"),
    pair("broken", method="broken"), pair("frozen", "frozen"), pair("cut", "cut"),
]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outside") / "outside_pairs.py"
    path.write_text(PAIRS)
    return path


@pytest.mark.parametrize("more", [(), ("--backward",), ("--rung", "f32")], ids=" ".join)
@pytest.mark.parametrize("name", ["right", "encode"])
def test_a_right_port_passes(file: Path, name: str, more: tuple[str, ...]) -> None:
    outcome = invoke("trace", f"{file}::{name}", *more)
    assert outcome.status == 0, outcome.stdout + outcome.stderr


def test_what_only_a_further_output_needs_has_its_gradients_judged(file: Path) -> None:
    outcome = invoke("trace", f"{file}::aux", "--backward")
    assert outcome.status == 1
    assert "FAIL: aux (Linear): own error 1," in outcome.stdout


RUNS = [(), ("--backward",), ("--rung", "f32"), ("--rung", "f32", "--backward")]


@pytest.mark.parametrize("more", RUNS, ids=" ".join)
def test_a_method_that_is_no_call_is_judged_as_what_is_outside_of_modules(file: Path, more: tuple[str, ...]) -> None:
    outcome = invoke("trace", f"{file}::encode_scale", *more)
    assert outcome.status == 1
    assert "FAIL: (call) (what is called outside of modules): own error" in outcome.stdout


def test_a_gradient_that_stops_outside_of_modules_is_seen(file: Path) -> None:
    assert invoke("trace", f"{file}::encode_stop").status == 0
    outcome = invoke("trace", f"{file}::encode_stop", "--backward")
    assert outcome.status == 1
    assert "FAIL: (call) (what is called outside of modules): own error 1," in outcome.stdout


def test_outputs_of_which_nothing_is_finite_are_compared_with_nothing(file: Path) -> None:
    outcome = invoke("trace", f"{file}::nan")
    assert outcome.status == 1
    assert "no element of y is finite" in outcome.stdout


@pytest.mark.parametrize("more", [(), ("--backward",), ("--json",)], ids=" ".join)
def test_what_the_port_raises_is_a_failure_in_one_line(file: Path, more: tuple[str, ...]) -> None:
    outcome = invoke("trace", f"{file}::broken", *more)
    assert outcome.status == 1
    assert "the port raised ValueError: [reshape]" in outcome.stdout


def test_gradients_that_nothing_is_compared_with_are_named_once(file: Path) -> None:
    outcome = invoke("trace", f"{file}::frozen", "--backward")
    assert outcome.status == 1
    assert "gradients compared with nothing: aux.weight, aux.bias\n" in outcome.stdout
    assert "gradients of 2 parameters and inputs were compared with nothing" in outcome.stdout


def test_an_output_that_the_port_lacks_is_no_pass_of_gradients(file: Path) -> None:
    outcome = invoke("trace", f"{file}::cut", "--backward")
    assert outcome.status == 1
    assert "compared with nothing, reference: output y[1]" in outcome.stdout
