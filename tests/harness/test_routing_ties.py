"""A mixture of experts whose router is undecided: the choice of another expert there is no fault, anything else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.backends import noise
from parity.cases import Case, corpus_cases
from parity.examine import Bench, Examination, examine
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select

EXPERTS, CHOSEN = 6, 2


class Mixture(tnn.Module):
    """The two most likely of six experts, weighted."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.router, self.experts = tnn.Linear(n, EXPERTS, bias=False), tnn.Linear(n, EXPERTS * n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, places = torch.softmax(self.router(x), -1).topk(CHOSEN, -1)
        every = self.experts(x).unflatten(-1, (EXPERTS, -1))
        chosen = torch.gather(every, -2, places[..., None].expand(*places.shape, every.shape[-1]))
        return (chosen * weights[..., None]).sum(-2)


def partition(scores: mx.array) -> mx.array:
    return mx.argpartition(-scores, kth=CHOSEN - 1, axis=-1)[..., :CHOSEN]


class MixturePort(mnn.Module):
    """The same; `find` chooses, `scale` is a factor too many."""

    def __init__(self, n: int, find: Callable[[mx.array], mx.array] = partition, scale: float = 1.0) -> None:
        super().__init__()
        self.router, self.experts = mnn.Linear(n, EXPERTS, bias=False), mnn.Linear(n, EXPERTS * n)
        self._find, self.scale = find, scale

    def __call__(self, x: mx.array) -> mx.array:
        weights = mx.softmax(self.router(x), axis=-1)
        places = self._find(weights)
        every = self.experts(x)
        every = every.reshape(*every.shape[:-1], EXPERTS, -1)
        wide = mx.broadcast_to(places[..., None], (*places.shape, every.shape[-1]))
        chosen = mx.take_along_axis(every, wide, axis=-2) * mx.take_along_axis(weights, places, axis=-1)[..., None]
        return mx.sum(chosen, axis=-2) * self.scale


def examined(rung: Any, family: str = "impulse_first", **port: Any) -> Examination:
    """Of an impulse all but one position are zeros, to which the router gives six equal scores."""
    pair = complete(
        Pair(
            "mixture",
            reference=Mixture,
            port=lambda n: MixturePort(n, **port),
            configurations=[8],
            inputs=lambda n: {"x": (2, 20, n)},
        )
    )
    case = Case.make("mixture", {"CONFIGURATION": 8}, family, seed=1)
    return examine(Bench(pair, case, CANONICAL), CANONICAL, RUNGS[rung])


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_at_a_tie_of_the_router_any_expert_is_right(rung: Any) -> None:
    judgement = examined(rung).judgements["y"]
    assert judgement.passed, judgement.reason
    assert judgement.undecided == 2 * 19 * 8
    assert not judgement.powerless


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_what_the_router_has_decided_is_judged_in_the_same_case(rung: Any) -> None:
    assert not examined(rung, scale=1.001).judgements["y"].passed
    assert not examined(rung, find=lambda scores: partition(-scores)).judgements["y"].passed


def test_where_nothing_is_tied_nothing_is_left_out() -> None:
    assert examined("f32", "normal").judgements["y"].undecided == 0
    assert not examined("f32", "normal", find=lambda scores: partition(-scores)).judgements["y"].passed


def test_a_tie_excuses_no_error_beyond_what_other_experts_make() -> None:
    def bad(scores: mx.array) -> mx.array:
        return partition(scores)

    assert not examined("f64", find=bad, scale=100.0).judgements["y"].passed


def test_a_reference_without_choices_is_asked_for_none() -> None:
    (pair,) = select(["fftconv"])
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL)
    assert bench.wavering(RUNGS["f32"]) == {}


def test_without_it_the_port_would_be_accused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "PLACING", frozenset())
    assert not examined("f32").judgements["y"].passed
