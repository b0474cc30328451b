"""From the float32 outputs of one layer: the right meaning first, none for an unknown fault, none for a right port.

`pytest tests/attribution/test_attribution.py -k named -s` prints the table of docs/attribution.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from planted_meanings import PLANTED_MEANINGS, PlantedMeaning

from mlx_impl import fft_conv, mixer, mlp, ops
from parity.attribution import (
    Attribution,
    Investigation,
    Probe,
    attribute,
    profile_sentence,
    sentence,
    table_lines,
)
from parity.attribution.constants import number
from parity.attribution.evidence import alternative_trace, run_the_port
from parity.backends.port import build_port, run_port
from parity.cases import FINE_LADDER, Case
from parity.examine import Bench
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import CANONICAL, HyperProfile, load_profile, profile_names
from parity.suites import PAIRS, select
from parity.suites.m2_bert import PUBLISHED
from parity.suites.m2_bert_alternatives import ALTERNATIVES, explain, probes
from parity.trace import Trace

F32, F64 = RUNGS["f32"], RUNGS["f64"]
(LAYER,) = select(["layer"])
PLANTED = {meaning.name: meaning for meaning in PLANTED_MEANINGS}

planted = pytest.mark.parametrize("meaning", PLANTED_MEANINGS, ids=lambda meaning: meaning.name)


@pytest.fixture(scope="module")
def layer() -> Callable[..., Investigation]:
    """Investigations of the layer, each prepared once; the port runs anew in every test."""
    made: dict[tuple[str, str, int], Investigation] = {}

    def of(profile: HyperProfile = CANONICAL, rung: Rung = F32, seed: int = 0) -> Investigation:
        key = (profile.name, rung.name, seed)
        if key not in made:
            made[key] = Investigation(LAYER, probes(LAYER, seed), profile, rung, ALTERNATIVES)
        return made[key]

    return of


# --- planted meanings -----------------------------------------------------------------------------------------


def figures(meaning: PlantedMeaning, answer: Attribution) -> str:
    first, second = answer.findings[:2]
    return (
        f"{meaning.name:30} | {first.beta:9.6f} | {first.error:7.1e} | {first.size:8.2e} | {first.closer:8.2e} | "
        f"{second.name:34} | {first.closer / second.closer:8.2e}"
    )


@planted
def test_a_planted_meaning_is_named_first_from_the_float32_outputs_of_one_layer(
    meaning: PlantedMeaning, layer: Callable[..., Investigation], monkeypatch: pytest.MonkeyPatch
) -> None:
    investigation = layer()
    meaning.plant(monkeypatch)
    answer = investigation.attribute()
    print(figures(meaning, answer))  # noqa: T201
    assert answer.status == "explained"
    assert answer.behaves_as == (meaning.name,)
    assert answer.same_here == ()
    assert answer.findings[0].name == meaning.name
    finding = answer.findings[0]
    assert abs(finding.beta - 1) < max(7 * finding.error, 1e-3)
    assert f"behaves as if: {meaning.name} (beta 1.0" in sentence(answer).replace("beta 0.99", "beta 1.0")
    assert not answer.passed


def test_at_least_fifteen_meanings_are_planted_and_the_two_that_hide_are_among_them() -> None:
    assert len(PLANTED) == len(PLANTED_MEANINGS) >= 15
    assert {"gelu=tanh", "layer_norm.eps=1e-5"} <= PLANTED.keys()
    assert PLANTED.keys() <= {alternative.name for alternative in ALTERNATIVES}


@pytest.mark.parametrize("name", ["gelu=tanh", "layer_norm.eps=1e-5"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_two_that_hide_are_named_whatever_the_seed(
    name: str, seed: int, layer: Callable[..., Investigation], monkeypatch: pytest.MonkeyPatch
) -> None:
    investigation = layer(seed=seed)
    PLANTED[name].plant(monkeypatch)
    assert investigation.attribute().behaves_as == (name,)


@pytest.mark.parametrize("profile", ["mlx_stable", "torch_avg"])
@pytest.mark.parametrize("name", ["gelu=tanh", "skip=+D", "short_filter.padding=1", "glu=swapped"])
def test_a_meaning_is_named_under_other_profiles(
    name: str, profile: str, layer: Callable[..., Investigation], monkeypatch: pytest.MonkeyPatch
) -> None:
    investigation = layer(load_profile(profile))
    PLANTED[name].plant(monkeypatch)
    assert investigation.attribute().behaves_as == (name,)


@pytest.mark.parametrize("name", ["gelu=tanh", "layer_norm.eps=1e-5", "positions.f0=0", "fft.length=l"])
def test_a_meaning_is_named_at_float64(name: str, layer: Callable[..., Investigation], monkeypatch: Any) -> None:
    investigation = layer(rung=F64)
    PLANTED[name].plant(monkeypatch)
    assert investigation.attribute().behaves_as == (name,)


def test_a_meaning_below_the_rounding_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose variance is near 1: 1e-5 in the epsilon moves an output by less than rounding does."""
    sizes = {"batch": 4, "L": 96, "long_conv_l_max": 96, "hidden_size": 64, "intermediate_size": 64, **PUBLISHED}
    rules = ((r"(out_linear|wo)\.(weight|bias)$", lambda fresh, rng: rng.standard_normal(fresh.shape) / 64),)
    ordinary = [Probe(Case.make("layer", sizes, seed=11, ladder=FINE_LADDER), rules)]
    investigation = Investigation(LAYER, ordinary, CANONICAL, F32, ALTERNATIVES)
    right = investigation.attribute()
    PLANTED["layer_norm.eps=1e-5"].plant(monkeypatch)
    wrong = investigation.attribute()
    before, after = right.finding("layer_norm.eps=1e-5"), wrong.finding("layer_norm.eps=1e-5")
    print(before, after, sep="\n")  # noqa: T201
    assert right.passed
    assert abs(before.alone) < number("beta")
    assert after.size < 1
    assert wrong.behaves_as == ("layer_norm.eps=1e-5",)


def test_two_small_meanings_at_once_are_both_named(
    layer: Callable[..., Investigation], monkeypatch: pytest.MonkeyPatch
) -> None:
    investigation = layer()
    PLANTED["gelu=tanh"].plant(monkeypatch)
    PLANTED["layer_norm.eps=1e-5 outside"].plant(monkeypatch)
    answer = investigation.attribute()
    assert set(answer.behaves_as) == {"gelu=tanh", "layer_norm.eps=1e-5 outside"}
    assert " and " in sentence(answer)


def test_meanings_that_are_one_computation_here_are_reported_together(
    layer: Callable[..., Investigation], monkeypatch: pytest.MonkeyPatch
) -> None:
    average = load_profile("mlx_stable")
    investigation = layer(average)
    monkeypatch.setattr(fft_conv, "_both_directions", _not_halved(fft_conv._both_directions))
    answer = investigation.attribute()
    named = {*answer.behaves_as, *answer.same_here}
    assert named == {"bidir_combine=sum", "fft.scale=1/l"}
    assert "cannot be told from it on these cases" in sentence(answer)
    first = answer.findings[0]
    assert {first.name, *first.collinear} >= named


def _not_halved(original: Callable[..., Any]) -> Callable[..., Any]:
    def both(k: mx.array, k_rev: mx.array, n: int, profile: HyperProfile, primitives: ops.Ops) -> Any:
        return original(k, k_rev, n, profile.replace(bidir_combine="sum"), primitives)

    return both


# --- profiles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", profile_names())
def test_a_port_under_another_profile_is_nearest_to_that_one(name: str, layer: Callable[..., Investigation]) -> None:
    other = load_profile(name)

    def port(bench: Bench, rung: Rung) -> Trace:
        built = build_port(bench.pair, bench.case.options, other, rung, bench.state)
        return run_port(bench.pair, built, bench.inputs, rung)

    mine = load_profile("mlx_stable" if other.semantics == CANONICAL.semantics else "canonical")
    answer = layer(mine).attribute(port)
    nearest = load_profile(answer.profiles[0].name)
    assert nearest.semantics == other.semantics
    assert answer.profiles[0].closer > 1e4
    assert f"nearest profile: {nearest.name}, " in profile_sentence(answer, mine)


# --- what has no name -----------------------------------------------------------------------------------------


def disturbed(relative: float) -> Callable[[Bench, Rung], Trace]:
    """A port whose outputs are off at random, by a part of their own size."""

    def port(bench: Bench, rung: Rung) -> Trace:
        trace = run_the_port(bench, rung)
        rng = np.random.Generator(np.random.Philox(bench.case.seed))
        y = trace["y"]
        wrong = replace(y, values=y.values * (1 + relative * rng.standard_normal(y.values.shape)))
        return Trace({**trace.tensors, "y": wrong}, trace.outputs)

    return port


@pytest.mark.parametrize("relative", [1e-3, 1e-1])
def test_an_unknown_fault_is_not_explained(relative: float, layer: Callable[..., Investigation]) -> None:
    answer = layer().attribute(disturbed(relative))
    assert answer.status == "unexplained"
    assert answer.behaves_as == ()
    assert answer.explained < 0.1
    assert sentence(answer).startswith("no known alternative explains it (explained ")


def test_a_share_of_a_meaning_is_no_meaning_but_fails_the_gate(layer: Callable[..., Investigation]) -> None:
    investigation = layer()
    (alternative,) = (each for each in ALTERNATIVES if each.name == "gelu=tanh")

    def half_way(bench: Bench, rung: Rung) -> Trace:
        trace = run_the_port(bench, rung)
        step = alternative_trace(bench, alternative)["y"].values - bench.truth["y"].values
        return Trace({"y": replace(trace["y"], values=trace["y"].values + step / 2)}, ("y",))

    answer = investigation.attribute(half_way)
    assert (answer.status, answer.behaves_as, answer.violations) == ("unexplained", (), ("gelu=tanh",))
    assert answer.finding("gelu=tanh").beta == pytest.approx(0.5, abs=0.01)
    assert "traces of gelu=tanh (beta " in sentence(answer)


def _halved_value(patch: pytest.MonkeyPatch) -> None:
    def call(self: Any, x: mx.array) -> mx.array:
        gate, value = mx.split(self.gated_layers(x), 2, axis=-1)
        return self.layernorm(self.wo(self.act(gate) * mx.abs(value)) + x)

    patch.setattr(mlp.GatedMlp, "__call__", call)


def _shifted_gate(patch: pytest.MonkeyPatch) -> None:
    original = mixer.ShortConvolution.__call__
    patch.setattr(mixer.ShortConvolution, "__call__", lambda self, x: mx.roll(original(self, x), 3, axis=-1))


@pytest.mark.parametrize("plant", [_halved_value, _shifted_gate])
def test_a_meaning_outside_the_library_is_given_no_name(
    plant: Callable[[pytest.MonkeyPatch], None], layer: Callable[..., Investigation], monkeypatch: pytest.MonkeyPatch
) -> None:
    investigation = layer()
    plant(monkeypatch)
    answer = investigation.attribute()
    assert (answer.status, answer.behaves_as) == ("unexplained", ())


def _raise(_bench: Bench, _rung: Rung) -> Trace:
    raise ZeroDivisionError("planted")


def _infinite(bench: Bench, rung: Rung) -> Trace:
    return disturbed(np.inf)(bench, rung)


def _short(bench: Bench, rung: Rung) -> Trace:
    trace = run_the_port(bench, rung)
    return Trace({"y": replace(trace["y"], values=trace["y"].values[:1])}, ("y",))


def _nameless(bench: Bench, rung: Rung) -> Trace:
    return Trace({"z": run_the_port(bench, rung)["y"]}, ("z",))


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (_raise, "raised ZeroDivisionError: planted"),
        (_infinite, "NaN or infinity"),
        (_short, "shape (1, 24, 24)"),
        (_nameless, "no output y; it has z"),
    ],
)
def test_a_port_without_usable_outputs_cannot_be_attributed(
    port: Callable[[Bench, Rung], Trace], words: str, layer: Callable[..., Investigation]
) -> None:
    answer = layer().attribute(port)
    assert answer.status == "impossible"
    assert words in sentence(answer)
    assert not answer.passed


# --- correct ports --------------------------------------------------------------------------------------------


def assert_all_near_zero(answer: Attribution) -> None:
    assert answer.status == "agrees", sentence(answer)
    assert answer.violations == ()
    counted = [finding for finding in answer.findings if finding.error < number("standard_error")]
    assert counted
    assert all(abs(finding.beta) < number("beta") for finding in counted)


@pytest.mark.parametrize("seed", range(6))
def test_a_correct_layer_has_every_beta_near_zero(seed: int, layer: Callable[..., Investigation]) -> None:
    answer = layer(seed=seed).attribute()
    assert_all_near_zero(answer)
    assert all(abs(finding.beta) < 8 * finding.error for finding in answer.findings if finding.observable)
    observable = {finding.name for finding in answer.findings if finding.observable}
    assert observable >= PLANTED.keys()


@pytest.mark.parametrize("name", sorted({pair.name for pair in PAIRS} - {"layer", "encoder", "masked_lm"}))
def test_every_correct_component_has_every_beta_near_zero(name: str) -> None:
    (pair,) = select([name])
    assert_all_near_zero(attribute(pair, probes(pair, 0), load_profile("mlx_stable"), F32, ALTERNATIVES))


def test_what_the_cases_cannot_show_is_listed_as_not_observable(layer: Callable[..., Investigation]) -> None:
    answer = layer().attribute()
    lines = table_lines(answer)
    assert len(lines) == 1 + len(answer.findings)
    blind = next(line for line in lines if line.startswith("filter.normalized=missing"))
    assert "not observable: the same on these cases" in blind
    assert not answer.finding("filter.normalized=missing").observable


def test_a_finding_that_was_not_tried_is_refused(layer: Callable[..., Investigation]) -> None:
    with pytest.raises(KeyError, match=r"gelu=erf"):
        layer().attribute().finding("gelu=erf")


# --- reports --------------------------------------------------------------------------------------------------


def test_a_failure_is_explained_in_two_lines_and_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = Case.make("layer", {"batch": 1, "L": 1, "hidden_size": 3, "intermediate_size": 2}, ladder=FINE_LADDER)
    PLANTED["bidir_space=freq"].plant(monkeypatch)
    start = time.process_time()
    profile = load_profile("mlx_stable")
    lines = explain(LAYER, smallest, profile, F32)
    assert time.process_time() - start < 10
    assert lines[0].startswith("behaves as if: bidir_space=freq (beta 1.0")
    assert lines[1].startswith("nearest profile: torch_avg, ")
    assert lines[1].endswith("e6 times closer")
    assert len(lines) == 2
