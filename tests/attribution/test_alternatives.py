"""The library: each alternative is another meaning, shown on a case that is not blind to it, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

import reference_torch
from parity.attribution import Alternative, Probe, replaced
from parity.attribution.evidence import alternative_trace, applicable
from parity.backends.reference import run_reference
from parity.examine import Bench
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL, HyperProfile, load_profile, profile_names
from parity.suites import PAIRS, select
from parity.suites.m2_bert_alternatives import ALTERNATIVES, EQUIVALENT, probes
from parity.trace import Trace
from reference_torch import activations, blockdiag, fft_conv, heads, hyena, mixer, mlp, model, norm

HOSTS = (activations, blockdiag, fft_conv, heads, hyena, mixer, mlp, model, norm)
TANH_AVERAGE = CANONICAL.replace(name="tanh_average", gelu_mode="tanh", bidir_space="freq", bidir_combine="avg")
"""Where `gelu=erf`, `bidir_space=time` and `bidir_combine=sum` are alternatives and not what is."""

NOTICED = 1e-9
"""Relative change from which two float64 computations are two meanings: rounding, times conditioning, stays below."""

each_alternative = pytest.mark.parametrize("alternative", ALTERNATIVES, ids=lambda each: each.name)
Benches = Callable[[str, HyperProfile], list[Bench]]


@pytest.fixture(scope="module")
def benches() -> Benches:
    """Benches of a component's probes under a profile, made once."""
    made: dict[tuple[str, str], list[Bench]] = {}

    def of(name: str, profile: HyperProfile) -> list[Bench]:
        if (name, profile.name) not in made:
            (pair,) = select([name])
            asked = probes(pair, seed=7)
            made[name, profile.name] = [Bench(probe.pair(pair), probe.case, profile) for probe in asked]
        return made[name, profile.name]

    return of


def stacked(trace: Trace, bench: Bench) -> Array:
    return np.concatenate([trace[name].values.ravel() for name in bench.truth.outputs])


def change(bench: Bench, trace: Trace) -> float:
    """Relative L2 distance of all outputs from the truth."""
    truth = stacked(bench.truth, bench)
    return float(np.linalg.norm(stacked(trace, bench) - truth) / np.linalg.norm(truth))


def smallest_component(alternative: Alternative) -> str:
    """The first component of the suite, leaves first, that an alternative concerns."""
    return next(pair.name for pair in PAIRS if pair.name in alternative.components)


def everything_named() -> dict[str, Any]:
    """Every name of the reference's modules and of their classes, and what it stands for."""
    named = {f"{host.__name__}.{name}": value for host in HOSTS for name, value in vars(host).items()}
    for place, value in list(named.items()):
        if isinstance(value, type) and issubclass(value, nn.Module):
            named |= {f"{place}.{name}": part for name, part in vars(value).items()}
    return named


def test_the_library_is_large_and_its_names_are_unique() -> None:
    names = [alternative.name for alternative in ALTERNATIVES]
    assert len(names) == len(set(names)) >= 25


def test_every_component_has_alternatives_and_every_alternative_concerns_one() -> None:
    known = {pair.name for pair in PAIRS}
    assert {name for alternative in ALTERNATIVES for name in alternative.components} == known


@each_alternative
def test_an_alternative_is_another_meaning_on_a_case_that_is_not_blind(
    alternative: Alternative, benches: Benches
) -> None:
    components = [smallest_component(alternative), *(["layer"] if "layer" in alternative.components else [])]
    for name in components:
        shown = [
            change(bench, alternative_trace(bench, alternative))
            for profile in (CANONICAL, TANH_AVERAGE)
            if applicable([alternative], bench_pair(name), profile)
            for bench in benches(name, profile)
        ]
        if max(shown) > NOTICED:
            return
    raise AssertionError(f"{alternative.name} changes nothing on any probe of {', '.join(components)}")


def bench_pair(name: str) -> Any:
    return select([name])[0]


@each_alternative
def test_an_alternative_leaves_the_reference_as_it_was(alternative: Alternative, benches: Benches) -> None:
    bench = benches(smallest_component(alternative), CANONICAL)[0]
    before, names = dict(bench.module.state_dict()), everything_named()
    alternative_trace(bench, alternative)
    again = run_reference(bench.pair, bench.module, bench.inputs, RUNGS["f64"])
    assert everything_named() == names
    assert bench.module.state_dict().keys() == before.keys()
    assert all(again[name].values.tobytes() == bench.truth[name].values.tobytes() for name in bench.truth)


@pytest.mark.parametrize("alternative", EQUIVALENT, ids=lambda each: each.name)
def test_other_words_for_the_same_change_rounding_alone(alternative: Alternative, benches: Benches) -> None:
    for bench in benches("layer", CANONICAL):
        assert change(bench, alternative_trace(bench, alternative)) < NOTICED


def test_without_a_change_nothing_is_noticed(benches: Benches) -> None:
    nothing = Alternative("nothing", "no change", frozenset({"layer"}))
    for bench in benches("layer", CANONICAL):
        assert change(bench, alternative_trace(bench, nothing)) == 0.0


NO_EPSILON = ("layer_norm.eps=1e-12", "layer_norm.eps=1e-12 outside")
DOUBLES: dict[HyperProfile, set[tuple[str, str]]] = {
    CANONICAL: set(),
    TANH_AVERAGE: {
        ("bidir_combine=sum", "fft.scale=1/l"),
        ("reverse=swapped", "kernel=correlated"),
        ("fft.length=l", "fft.length=l wrapped"),
    },
}
"""Two names for one computation, beside an epsilon too small to see: what follows where spectra are averaged."""


@pytest.mark.parametrize("profile", DOUBLES, ids=lambda profile: profile.name)
def test_two_names_are_two_meanings_but_for_known_doubles(profile: HyperProfile, benches: Benches) -> None:
    cases = benches("layer", profile)
    truth = np.concatenate([stacked(bench.truth, bench) for bench in cases])
    outputs = {
        each.name: np.concatenate([stacked(alternative_trace(bench, each), bench) for bench in cases])
        for each in applicable(ALTERNATIVES, bench_pair("layer"), profile)
    }
    noticed = NOTICED * np.linalg.norm(truth)
    changing = [name for name, output in outputs.items() if np.linalg.norm(output - truth) > noticed]
    pairs = [(first, second) for i, first in enumerate(changing) for second in changing[i + 1 :]]
    same = {pair for pair in pairs if np.linalg.norm(outputs[pair[0]] - outputs[pair[1]]) < noticed}
    assert same - {NO_EPSILON} == DOUBLES[profile]


# --- the pieces it is made of ---------------------------------------------------------------------------------


def test_a_patch_is_undone_after_an_exception() -> None:
    before = vars(reference_torch.Gelu)["forward"]

    def interrupted() -> None:
        with replaced((reference_torch.Gelu, "forward", str), (reference_torch.LayerNorm, "forward", str)):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert vars(reference_torch.Gelu)["forward"] is before
    assert "forward" not in vars(reference_torch.LayerNorm)


def test_a_patch_of_a_name_that_does_not_exist_is_refused_and_undoes_the_others() -> None:
    before = vars(reference_torch.Gelu)["forward"]
    with (
        pytest.raises(AttributeError, match="no_such_name"),
        replaced((reference_torch.Gelu, "forward", str), (reference_torch.Gelu, "no_such_name", str)),
    ):
        pass
    assert vars(reference_torch.Gelu)["forward"] is before


@pytest.mark.parametrize("name", profile_names())
def test_what_a_profile_says_already_is_no_alternative_to_it(name: str) -> None:
    profile = load_profile(name)
    tried = {each.name for each in applicable(ALTERNATIVES, bench_pair("layer"), profile)}
    assert f"gelu={profile.gelu_mode}" not in tried
    assert f"bidir_space={profile.bidir_space}" not in tried
    assert f"bidir_combine={profile.bidir_combine}" not in tried
    assert len(tried & {"bidir_space=time", "bidir_space=freq", "bidir_combine=avg", "bidir_combine=sum"}) == 2


def test_a_probe_puts_its_rules_before_the_pairs_own() -> None:
    pair = bench_pair("mlp")
    probe = probes(pair, 0)[-1]
    assert probe.parameters
    assert probe.pair(pair).parameters == (*probe.parameters, *pair.parameters)
    assert Probe(probe.case).pair(pair).parameters == pair.parameters
