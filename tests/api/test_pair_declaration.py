"""What a pair says of itself: arguments that are not as documented are refused, and the defaults do what they say."""

from __future__ import annotations

import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn as mnn
from small_pairs import Tall, TallPort, linear_pair, run
from torch import nn as tnn

import parity
from parity.api import InputSpec, LengthClass, Pair, complete, named_outputs
from parity.backends.conditioning import jittered
from parity.backends.reference import fresh_parameters
from parity.cases import Case, draw_parameters
from parity.errors import CaseError, ConfigError
from parity.run import plan_cases
from parity.spec.profile import CANONICAL, HyperProfile

REFUSED = {
    "a name with a space": ({"name": "my pair"}, "letters, digits.*'my pair'"),
    "a reference that is no function": ({"reference": tnn.Linear(2, 2).weight}, "reference= is a function"),
    "a builder with an unknown parameter": (
        {"port": lambda c, device: c},
        "profile and ops; it has a parameter 'device'",
    ),
    "a reference that wants the seam": ({"reference": lambda c, ops: c}, "parameter 'ops'"),
    "a builder without a parameter": ({"reference": lambda: None}, "no parameter that must be given"),
    "no configuration": ({"configurations": []}, r"at least one configuration; got \[\]"),
    "configurations in a set": ({"configurations": {3}}, "a Hypothesis strategy, or a list"),
    "a nested configuration": ({"configurations": [{"sizes": [1, 2]}]}, "'sizes' is a list; plain values alone"),
    "null": ({"configurations": [{"n": None}]}, "'n' is a NoneType; plain values alone"),
    "a key that a case has": ({"configurations": [{"seed": 1}]}, "'seed' is taken"),
    "a key that is no text": ({"configurations": [{1: 1}]}, "keys of a configuration are text; got 1"),
    "inputs that are a shape": ({"inputs": (2, 3)}, r"inputs= is a mapping by name.*\(2, 3\)"),
    "a rename that is no pattern": ({"renames": {"(": ""}}, r"'\(' is no regular expression"),
    "weights and renames": ({"weights": dict, "renames": {"a": "b"}}, "renames= would be ignored"),
    "weights that are no function": ({"weights": "sanitize"}, "weights= is a function.*'sanitize'"),
    "a pattern instead of a list": ({"reference_only": "head"}, "reference_only= is a list.*'head'"),
    "a call for one side": ({"call": {"port": len}}, "each of reference, port; got 'port'"),
    "a call that is text": ({"call": "forward"}, "call= is a function"),
    "parameters of another kind": ({"parameters": "trained"}, "'drawn', 'as built' or a mapping"),
    "a parameter rule that is none": ({"parameters": {"w": "kept"}}, r"parameters\['w'\] is 'as built' or a function"),
    "an unknown rung": ({"rungs": ["f32", "f8"]}, "unknown rung 'f8'.*f64, f32, bf16, f16"),
    "no rung": ({"rungs": []}, "unknown rung none"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_an_argument_that_is_not_as_documented_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        linear_pair(**changes)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="tolerance"):
        linear_pair(tolerance=1)


def test_the_package_shows_its_public_names_and_no_other() -> None:
    assert (parity.Pair, parity.InputSpec) == (Pair, InputSpec)
    with pytest.raises(AttributeError, match="no attribute 'Peer'; public are InputSpec, LengthClass, Pair"):
        parity.Peer  # noqa: B018


# --- configurations and builders ------------------------------------------------------------------------------------


def test_a_list_of_configurations_is_run_whole() -> None:
    cases = plan_cases_of(linear_pair(configurations=[3, 5, 7]))
    assert {case.options["CONFIGURATION"] for case in cases} == {3, 5, 7}


def test_a_strategy_is_drawn_and_its_corpus_always_runs() -> None:
    sizes = st.fixed_dictionaries({"n": st.integers(1, 4)})
    pair = linear_pair(
        configurations=sizes,
        corpus=[{"n": 17}],
        reference=lambda c: tnn.Linear(c["n"], 2),
        port=lambda c: mnn.Linear(c["n"], 2),
        inputs=lambda c: {"x": (1, c["n"])},
    )
    drawn = [case.options["n"] for case in plan_cases_of(pair)]
    assert drawn[0] == 17
    assert set(drawn[1:]) <= {1, 2, 3, 4}
    assert drawn[1:]


def test_a_strategy_that_draws_more_than_plain_values_is_refused_when_it_does() -> None:
    with pytest.raises(ConfigError, match="pair 'linear': configuration key 'n' is a list"):
        plan_cases_of(linear_pair(configurations=st.fixed_dictionaries({"n": st.just([1])})))


def plan_cases_of(pair: Pair) -> list[Case]:
    from parity.run import Plan

    completed = complete(pair)
    return plan_cases(Plan([completed], [CANONICAL], ("f32",), "quick", 0), completed)


def test_every_plain_value_survives_the_command_line() -> None:
    given = {"b": True, "c": 1.5, "d": "x", "e": 3}
    case = Case.make("linear", given)
    assert Case.from_json("linear", case.to_json()).options == given


def test_builders_get_the_configuration_and_what_they_name() -> None:
    asked: list[Any] = []

    def reference(configuration: Any, profile: HyperProfile) -> Any:
        asked.append((configuration, profile.name))
        return tnn.Linear(configuration, 2)

    def port(configuration: Any, *, ops: Any) -> Any:
        asked.append((configuration, ops))
        return mnn.Linear(configuration, 2)

    pair = complete(linear_pair(reference=reference, port=port))
    pair.reference({"CONFIGURATION": 3}, CANONICAL)
    pair.port({"CONFIGURATION": 3}, CANONICAL, "the primitives")
    assert asked == [(3, "canonical"), (3, "the primitives")]
    assert (pair.reads_profile, pair.lifted) == (True, False)


def test_a_pair_that_reads_no_profile_has_one_meaning_and_is_lifted() -> None:
    pair = complete(linear_pair())
    assert pair.meaning(CANONICAL, {}) == pair.meaning(CANONICAL.replace(name="other", gelu_mode="tanh"), {})
    assert pair.lifted


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        pytest.param(
            {"reference": lambda n: 1 / 0}, CaseError, "reference= raised on configuration 3: Zero", id="raises"
        ),
        pytest.param({"reference": lambda n: n}, ConfigError, "builds a torch.nn.Module; got int", id="no module"),
        pytest.param({"inputs": lambda n: {"x": "big"}}, CaseError, "input 'x' is an InputSpec or a shape", id="shape"),
        pytest.param({"inputs": lambda n: {}}, CaseError, "at least one input", id="no input"),
        pytest.param({"inputs": {"x": (2, 5)}}, CaseError, r"cannot be run on x \(2, 5\): RuntimeError", id="misfit"),
    ],
)
def test_a_mistake_in_a_function_of_the_author_is_one_line(changes: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        run(linear_pair(**changes), "f32")
    assert "\n" not in str(caught.value)


def test_a_port_that_builds_no_module_fails_in_its_own_words() -> None:
    results = run(linear_pair(port=lambda n: n), "f32")
    assert "builds an mlx.nn.Module; got int" in results.failures[0].reason


# --- inputs and calls -----------------------------------------------------------------------------------------------


def test_a_shape_is_an_input_of_floats_along_whose_last_axis_but_one_it_varies() -> None:
    specs = complete(linear_pair(inputs={"x": (2, 5, 3), "v": [4], "ids": InputSpec((2, 5), "ids", high=9)})).inputs({})
    assert specs["x"] == InputSpec((2, 5, 3), positions=1)
    assert specs["v"] == InputSpec((4,), positions=0)
    assert specs["ids"].kind == "ids"


class Named(tnn.Module):
    def forward(self, b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return a - b


class NamedPort(mnn.Module):
    def __call__(self, a: mx.array, b: mx.array) -> mx.array:
        return a - b


class Unnamed(mnn.Module):
    def __call__(self, first: mx.array, second: mx.array) -> mx.array:
        return first - second


INPUTS = {"a": (2, 3), "b": (2, 3)}


def test_inputs_go_by_name_where_the_module_names_them() -> None:
    pair = linear_pair(reference=lambda n: Named(), port=lambda n: NamedPort(), inputs=INPUTS)
    assert run(pair).verdict == "pass"


def test_inputs_go_by_position_where_it_does_not() -> None:
    pair = linear_pair(reference=lambda n: Named(), port=lambda n: Unnamed(), inputs=INPUTS)
    assert run(pair).verdict == "pass"
    other_order = dict(reversed(INPUTS.items()))
    assert run(linear_pair(reference=pair.reference, port=pair.port, inputs=other_order)).verdict == "fail"


def test_either_side_can_have_a_call_of_its_own() -> None:
    pair = linear_pair(
        reference=lambda n: tnn.Conv1d(n, n, 2),
        port=lambda n: mnn.Conv1d(n, n, 2),
        inputs=lambda n: {"x": (2, 6, n)},
        call={
            "reference": lambda module, inputs: module(inputs["x"].transpose(1, 2)).transpose(1, 2),
            "port": lambda module, inputs: module(inputs["x"]),
        },
    )
    assert run(pair).verdict == "pass"


@dataclass
class Output:
    logits: Any
    cache: Any = None


Two = namedtuple("Two", "left right")
ONE, OTHER = torch.ones(1), torch.zeros(1)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        pytest.param(ONE, ["y"], id="tensor"),
        pytest.param((ONE, OTHER), ["y[1]", "y[0]"], id="tuple"),
        pytest.param({"a": ONE, "b": OTHER}, ["b", "a"], id="dictionary"),
        pytest.param(OrderedDict(logits=ONE, past=None), ["logits"], id="as transformers has it"),
        pytest.param(Output(ONE, [(OTHER, OTHER)]), ["cache[0][0]", "cache[0][1]", "logits"], id="dataclass"),
        pytest.param(Two(torch.arange(3), ONE), ["left", "right"], id="named tuple, integers never the main one"),
        pytest.param((torch.arange(3), ONE > 0), ["y[1]", "y[0]"], id="integers and booleans alone"),
        pytest.param((ONE, ONE * 1j, 3, None), ["y[0]"], id="complex numbers and what is no tensor left out"),
        pytest.param(mx.zeros(2), ["y"], id="array of MLX"),
        pytest.param([mx.zeros(2), mx.arange(3), mx.zeros(2) * 1j], ["y[1]", "y[0]"], id="list of MLX"),
    ],
)
def test_outputs_have_names_and_the_main_one_comes_last(result: Any, names: list[str]) -> None:
    assert list(named_outputs(result)) == names


def test_the_main_output_can_be_named_and_a_tensor_alone_answers_for_it() -> None:
    assert list(named_outputs({"a": ONE, "b": OTHER}, "b")) == ["a", "b"]
    assert list(named_outputs(ONE, "b")) == ["b"]


@pytest.mark.parametrize(
    ("result", "main", "words"),
    [
        ((1, None), "", "no tensor of floats, integers or booleans; got tuple"),
        ({"a": ONE}, "b", "no output called 'b'; got a"),
        ({"a": ONE, "b": ONE > 0}, "b", "main= names floats, on which accuracy is measured: a; got 'b'"),
    ],
)
def test_no_output_is_refused(result: Any, main: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        named_outputs(result, main)


def test_an_output_that_the_port_lacks_fails() -> None:
    calls = {"reference": lambda m, i: {"y": m(i["x"]), "z": m(i["x"])}, "port": lambda m, i: m(i["x"])}
    pair = linear_pair(call=calls)
    assert "the port has no such tensor" in {failure.reason for failure in run(pair, "f32").failures}


# --- parameters -----------------------------------------------------------------------------------------------------


def values_of(parameters: Any, **fresh: Any) -> dict[str, Any]:
    pair = complete(linear_pair(parameters=parameters))
    return draw_parameters(pair, Case.make("linear", {"CONFIGURATION": 3}, ladder=("f64",)), fresh)


def test_parameters_are_drawn_and_scales_stay_around_one() -> None:
    found = values_of("drawn", weight=np.zeros((50, 40)), bias=np.zeros(400), scale=np.ones(400))
    assert np.std(found["weight"]) == pytest.approx(1 / np.sqrt(40), rel=0.1)
    assert np.std(found["bias"]) == pytest.approx(0.3, rel=0.2)
    assert found["scale"].min() > 0
    assert np.mean(found["scale"]) == pytest.approx(1, rel=0.1)
    assert np.std(found["scale"]) > 0.1


def test_parameters_as_built_stay() -> None:
    built = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(values_of("as built", weight=built)["weight"], built)


def test_a_pattern_decides_on_what_it_matches_and_the_rest_is_drawn() -> None:
    rules = {"table$": "as built", "^gain$": lambda built, rng: built + 5}
    found = values_of(rules, table=np.ones(3), gain=np.ones(3), bias=np.zeros(3))
    np.testing.assert_array_equal(found["table"], np.ones(3))
    np.testing.assert_array_equal(found["gain"], 6 * np.ones(3))
    assert found["bias"].all()


def test_strata_are_tested_where_they_are_given() -> None:
    assert run(linear_pair(), "f32").assessments == []
    wide = LengthClass("wide", 24)  # type: ignore[arg-type]
    assessments = run(linear_pair(strata=[wide], inputs=lambda n: {"x": (9, n)}), "f32").assessments
    assert [assessment.stratum.length_class for assessment in assessments] == ["wide"]
    assert assessments[0].passed
    assert assessments[0].cases > 0


def test_a_port_that_is_less_accurate_than_the_reference_fails_its_strata() -> None:
    wide = LengthClass("wide", 24)  # type: ignore[arg-type]
    coarse = linear_pair(
        strata=[wide],
        inputs=lambda n: {"x": (9, n)},
        call={"reference": lambda m, i: m(i["x"]), "port": lambda m, i: m(i["x"]) * (1 + 2.0**-21)},
    )
    failing = [assessment for assessment in run(coarse, "f32").assessments if not assessment.passed]
    assert [assessment.stratum.component for assessment in failing] == ["linear"]


# --- trees ----------------------------------------------------------------------------------------------------------


def test_another_tree_and_another_layout_pass_and_what_has_no_counterpart_is_listed() -> None:
    pair = linear_pair(
        configurations=[5], reference=Tall, port=TallPort, inputs=lambda n: {"x": (2, n + 2, n)}
    )  # L = 7, C = 5
    results = run(pair)
    assert results.verdict == "pass", results.failures
    assert results.unpaired == {"linear": {"drop": "the port has no such tensor"}}
    assert {row.tensor for row in results.rows if row.kind != "gradient"} == {"conv", "act", "y"}


def test_a_square_intermediate_in_another_layout_is_no_failure() -> None:
    pair = linear_pair(configurations=[5], reference=Tall, port=TallPort, inputs=lambda n: {"x": (2, n, n)})
    assert run(pair).verdict == "pass"


def test_a_square_output_in_another_layout_is_a_failure() -> None:
    pair = linear_pair(
        configurations=[5],
        reference=Tall,
        port=TallPort,
        inputs=lambda n: {"x": (2, n, n)},
        call={"reference": lambda m, i: m(i["x"]), "port": lambda m, i: m(i["x"]).swapaxes(1, 2)},
    )
    results = run(pair)
    assert {failure.first_bad for failure in results.failures} == {"y"}


def test_a_wrong_intermediate_of_another_tree_is_named_first() -> None:
    class Wrong(TallPort):
        def __init__(self, dim: int) -> None:
            super().__init__(dim)
            self.act = mnn.GELU("tanh")

    pair = linear_pair(configurations=[4], reference=Tall, port=Wrong, inputs=lambda n: {"x": (2, 6, n)})
    failure = run(pair, "f64").failures[0]
    assert failure.first_bad == "act"
    assert failure.meaning is not None
    assert failure.meaning.kind == "different meaning"


def test_a_constant_outside_the_state_dict_is_neither_drawn_nor_jittered() -> None:
    module = Tall(3).double()
    moved, _ = jittered(module, {}, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(moved.get_buffer("table"), module.get_buffer("table"))
    assert not torch.equal(moved.get_parameter("conv.bias"), module.get_parameter("conv.bias"))
    assert set(fresh_parameters(Tall(3))) == {"conv.weight", "conv.bias"}


# --- float64 --------------------------------------------------------------------------------------------------------


class Sigmoid(tnn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)


class Leaking(mnn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        coarse = x.astype(mx.float32) if x.dtype == mx.float64 else x
        return mx.sigmoid(coarse).astype(x.dtype)


def test_the_operation_that_leaked_is_named_in_the_failure() -> None:
    pair = linear_pair(reference=lambda n: Sigmoid(), port=lambda n: Leaking())
    failure = run(pair, "f64").failures[0]
    assert failure.meaning is not None
    assert failure.meaning.kind == "precision leak"
    assert failure.meaning.leaks == ("array.astype",)
    assert re.search(r"^precision leak: error at f64 .*; precision leak in array\.astype$", failure.meaning.sentence)


def test_without_a_leak_the_lifted_port_agrees_at_every_rung() -> None:
    pair = linear_pair(reference=lambda n: Sigmoid(), port=lambda n: mnn.Sigmoid(), parameters="as built")
    results = run(pair, "f64", "f32", "bf16", "f16")
    assert (results.verdict, {row.rung for row in results.rows}) == ("pass", {"f64", "f32", "bf16", "f16"})
