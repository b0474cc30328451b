"""How numbers go across where layouts differ, and what a run on fresh inputs settles."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.backends.nodes import observe_mlx, observe_torch
from parity.backends.port import arithmetic
from parity.blame import BlameTable, Links, links_by_pairing, trace_forward
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.pairing import Layout, Part, pair_trees
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL

F64 = RUNGS["f64"]


class Squares(tnn.Module):
    """A linear layer, then a convolution of one tap: (b, n, n) whichever way it lies."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second = tnn.Linear(n, n), tnn.Conv1d(n, n, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).transpose(1, 2)).transpose(1, 2)


class SquaresPort(mnn.Module):
    """The same, channels last."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second = mnn.Linear(n, n), mnn.Conv1d(n, n, 1)

    def __call__(self, x: mx.array) -> mx.array:
        return self.second(self.first(x))


SQUARES = Pair("squares", reference=Squares, port=SquaresPort, configurations=[6], inputs=lambda n: {"x": (2, n, n)})


def sides(wrong: bool) -> tuple[Bench, Any]:
    pair = complete(SQUARES)
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL, intermediates=False)
    port = bench.modules.port(CANONICAL, F64)
    if wrong:
        port.first.weight = port.first.weight[::-1]
    return bench, port


def blame(wrong: bool) -> tuple[BlameTable, Links]:
    bench, port = sides(wrong)
    with arithmetic(bench.pair, F64):
        links = links_by_pairing(bench.pair, bench.module, port, bench.inputs, F64)
        return trace_forward(bench.pair, bench.module, port, bench.inputs, F64, links), links


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong before it"])
def test_a_square_convolution_is_laid_out_by_values_or_by_a_run(wrong: bool) -> None:
    table, links = blame(wrong)
    assert {row.module for row in table.culprits} == ({"first"} if wrong else set())
    second = links.of("second", "second")
    assert [layout.axes for _, layout in second.inputs.values()] == [(0, 2, 1)]
    assert [layout.axes for _, layout in second.outputs.values()] == [(0, 2, 1)]


def test_without_a_run_the_layout_behind_a_wrong_layer_is_a_guess() -> None:
    bench, port = sides(wrong=True)
    with mx.stream(mx.cpu):
        x = bench.inputs["x"]
        theirs = observe_torch(bench.module, lambda: bench.module(torch.from_numpy(x)))
        ours = observe_mlx(port, lambda: port(mx.array(x, dtype=mx.float64)))
    (match,) = pair_trees(theirs.nodes, ours.nodes).partners_of("second")
    assert match.ambiguous
    assert match.layout == "identity"


def test_a_layout_fits_other_lengths_with_its_axes_and_no_other_shapes() -> None:
    moved = Layout((2, 3, 5), (2, 3, 5), (0, 2, 1), (2, 5, 3))
    assert moved.fitted((2, 3, 5), (2, 5, 3)) is moved
    other = moved.fitted((1, 4, 7), (1, 7, 4))
    assert other is not None
    assert other.apply(np.ones((1, 4, 7))).shape == (1, 7, 4)
    assert moved.fitted((1, 4, 7), (1, 4, 7)) is None
    assert moved.fitted((4, 7), (7, 4)) is None


def test_a_slice_is_put_where_it_is_taken_from() -> None:
    part = Part("port", axis=1, groups=2, start=1, width=2, stride=4)
    whole = np.arange(24.0).reshape(3, 8)
    back = part.put(part.take(whole), (3, 8))
    np.testing.assert_array_equal(part.take(back), part.take(whole))
    assert np.count_nonzero(back) == part.take(whole).size
    values = np.random.Generator(np.random.Philox(0)).standard_normal((3, 4))
    assert np.vdot(part.put(values, (3, 8)), whole) == pytest.approx(np.vdot(values, part.take(whole)), rel=1e-14)
