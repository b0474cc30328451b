"""Profiles share the truth of a component exactly where its reference reads none of the knobs that they differ in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parity import run
from parity.backends.gradients import draw_cotangents, gradients_of_reference
from parity.backends.reference import build_reference, run_reference
from parity.cases import Case, corpus_cases, draw_cases
from parity.errors import ConfigError
from parity.examine import Bench, Modules
from parity.gradients import varied_inputs
from parity.pairs import Pair, Structure
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL, SEMANTIC, HyperProfile, load_profile, profile_names
from parity.suites import PAIRS
from parity.suites.m2_bert import FFTCONV, MLP, POOLER

TURNED: Mapping[str, Any] = {
    "gelu_mode": "tanh",
    "bidir_space": "freq",
    "bidir_combine": "avg",
    "layer_norm_eps": 1e-3,
}
"""Every knob that changes the meaning, off its canonical value."""

DRAWN = 6

CLAIMS = [pytest.param(pair, knob, id=f"{pair.name}-{knob}") for pair in PAIRS for knob in SEMANTIC]


def cases_of(pair: Pair) -> list[Case]:
    return [*corpus_cases(pair, 0), *draw_cases(pair, DRAWN, 0)]


def reads_somewhere(pair: Pair, knob: str) -> bool:
    return any(knob in pair.reads(case.options) for case in cases_of(pair))


def bits(pair: Pair, case: Case, profile: HyperProfile) -> dict[str, bytes]:
    """All that a bench takes from the reference: fresh and filled parameters, every tensor, every gradient."""
    modules = Modules(pair, case, profile)
    bench = Bench(pair, case, profile, modules=modules)
    fresh = build_reference(pair, case.options, profile).state_dict()
    found = {f"fresh {name}": tensor.numpy().tobytes() for name, tensor in fresh.items()}
    found |= {f"filled {name}": np.asarray(array).tobytes() for name, array in bench.state.items()}
    for rung in ("f64", "f32"):
        trace = bench.reference(RUNGS[rung])
        found |= {f"{rung} {name}": tensor.values.tobytes() for name, tensor in trace.everything.items()}
    if not pair.fresh:
        cotangents = draw_cotangents(bench.truth, case.seed)
        gradients = gradients_of_reference(
            pair, bench.module, bench.inputs, RUNGS["f64"], cotangents, varied_inputs(bench)
        )
        found |= {name: tensor.values.tobytes() for name, tensor in gradients.items()}
    return found


def differing(pair: Pair, case: Case) -> list[str]:
    """What changes in the reference where every knob that it does not read, so `pair` says, is turned."""
    read = pair.reads(case.options)
    turned = CANONICAL.replace(**{knob: value for knob, value in TURNED.items() if knob not in read})
    plain, other = bits(pair, case, CANONICAL), bits(pair, case, turned)
    assert plain.keys() == other.keys()
    return [name for name, value in plain.items() if other[name] != value]


def recorded(pair: Pair, case: Case) -> set[str]:
    """The knobs that the reference of a case is seen to look at, as it is built and as it runs."""
    seen: set[str] = set()

    class Watched(HyperProfile):
        def __getattribute__(self, name: str) -> Any:
            if name in SEMANTIC:
                seen.add(name)
            return super().__getattribute__(name)

    inputs = Bench(pair, case, CANONICAL).inputs
    run_reference(pair, build_reference(pair, case.options, Watched(name="watched"), "float64"), inputs, RUNGS["f64"])
    return seen


def without(pair: Pair, knob: str) -> Pair:
    """A pair whose list of what its reference reads lacks a knob."""
    return replace(pair, reads=lambda structure: set(pair.reads(structure)) - {knob})


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_what_a_reference_does_not_read_changes_no_bit_of_it(pair: Pair) -> None:
    for case in cases_of(pair):
        assert not differing(pair, case), case.to_json()


@pytest.mark.parametrize(("pair", "knob"), CLAIMS)
def test_a_knob_that_is_read_and_left_out_is_seen(pair: Pair, knob: str) -> None:
    found = any(differing(without(pair, knob), case) for case in cases_of(pair) if knob in pair.reads(case.options))
    assert found == reads_somewhere(pair, knob)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_reference_reads_what_its_pair_says_and_nothing_else(pair: Pair) -> None:
    for case in cases_of(pair):
        assert recorded(pair, case) == set(pair.reads(case.options)), case.to_json()


@pytest.mark.parametrize(
    ("bidirectional", "gelu", "meanings"),
    [(False, False, 1), (True, False, 3), (False, True, 1), (True, True, 3)],
)
def test_the_packaged_profiles_have_as_many_meanings_as_the_reference_can_tell_apart(
    bidirectional: bool, gelu: bool, meanings: int
) -> None:
    structure: Structure = {"batch": 1, "d_model": 2, "L": 3, "bidirectional": bidirectional, "gelu": gelu}
    profiles = [load_profile(name) for name in profile_names()]
    assert len({FFTCONV.meaning(profile, structure) for profile in profiles}) == meanings


@pytest.mark.parametrize(("pair", "shared"), [(MLP, True), (replace(MLP, reads=lambda _structure: SEMANTIC), False)])
def test_a_truth_is_computed_once_for_profiles_that_share_it(
    pair: Pair, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Case, str]] = []

    class Counted(Bench):
        def __init__(self, pair: Pair, case: Case, profile: HyperProfile, *more: Any, **named: Any) -> None:
            made.append((case, profile.name))
            super().__init__(pair, case, profile, *more, **named)

    monkeypatch.setattr(run, "Bench", Counted)
    cases = corpus_cases(MLP, 0)[:1]
    profiles = [load_profile(name) for name in ("canonical", "torch_like", "mlx_stable")]
    results = execute(Plan((pair,), profiles, ("f64",), "quick", 0, cases, bench=Counted), Results({}))
    assert len({row.profile for row in results.rows}) == 3
    assert len(made) == (1 if shared else 2)


def test_sharing_a_truth_that_the_profiles_do_not_share_fails_the_port() -> None:
    """A wrong list never passes what is wrong: the port reads its own profile, and the truth is another's."""
    profiles = [CANONICAL, CANONICAL.replace(name="other", gelu_mode="tanh")]
    case = corpus_cases(MLP, 0)[0]
    right, wrong = (
        execute(Plan((pair,), profiles, ("f64",), "quick", 0, [case]), Results({}))
        for pair in (MLP, without(MLP, "gelu_mode"))
    )
    assert not right.failures
    assert {(failure.profile, failure.rung) for failure in wrong.failures} == {("other", "f64")}


def test_a_list_with_a_knob_of_no_meaning_is_refused() -> None:
    pair = replace(POOLER, reads=lambda _structure: ("fft_norm",))
    with pytest.raises(ConfigError, match=r"pair 'pooler': reads= names 'fft_norm'; allowed: gelu_mode, bidir_space"):
        pair.meaning(CANONICAL, {})
