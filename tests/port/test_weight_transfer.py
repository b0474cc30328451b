"""A state dict goes into the port and comes back bit for bit, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx import nn

import mlx_impl
from mlx_impl import weights
from mlx_impl.ops import Ops
from parity.backends.convert import mlx_from_numpy
from parity.backends.reference import build_reference, load_reference, state_of
from parity.errors import WeightsError
from parity.pairs import Pair, Structure
from parity.spec.checkpoint import set_aside_reason
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL
from parity.suites import PAIRS, select

State = dict[str, mx.array]


def port_and_state(pair: Pair, structure: Structure, seed: int = 0) -> tuple[nn.Module, State]:
    """A port, and a state dict of the reference's names with bits of its own in every tensor, aliases alike."""
    reference = build_reference(pair, structure, CANONICAL)
    stream = np.random.Generator(np.random.Philox(seed))
    values: dict[int, Any] = {}
    state: State = {}
    for name, tensor in reference.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            drawn = values.setdefault(id(tensor), stream.standard_normal(tensor.shape).astype(np.float32))
            state[name] = mlx_from_numpy(drawn, "float32")
        else:
            state[name] = mx.array(tensor.numpy().astype(np.int32))
    return pair.port(structure, CANONICAL, Ops(CANONICAL)), state


def bits(array: mx.array) -> tuple[mx.Dtype, tuple[int, ...], bytes]:
    return array.dtype, array.shape, np.array(array).tobytes()


# --- there and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_a_state_dict_comes_back_bit_for_bit(pair: Pair, data: st.DataObject, seed: int) -> None:
    port, state = port_and_state(pair, data.draw(pair.structures, label="structure"), seed)
    back = weights.to_state(weights.load(port, state))
    used = {name: tensor for name, tensor in state.items() if set_aside_reason(name) is None}
    assert {name: bits(tensor) for name, tensor in back.items()} == {
        name: bits(tensor) for name, tensor in used.items()
    }


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_parameters_come_back_bit_for_bit(pair: Pair) -> None:
    port, state = port_and_state(pair, pair.corpus[0])
    weights.load(port, state)
    before = {name: bits(array) for name, array in weights.parameters(port).items()}
    back = weights.from_state(port, weights.to_state(port))
    assert {name: bits(array) for name, array in back.items()} == before


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_the_port_has_the_names_and_shapes_of_the_reference(pair: Pair) -> None:
    for structure in pair.corpus:
        port, state = port_and_state(pair, structure)
        expected = {name: tensor.shape for name, tensor in state.items() if set_aside_reason(name) is None}
        assert {name: tensor.shape for name, tensor in weights.to_state(port).items()} == expected


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_what_the_port_returns_fills_the_reference(pair: Pair) -> None:
    port, state = port_and_state(pair, pair.corpus[0])
    back = {name: np.array(tensor) for name, tensor in weights.to_state(weights.load(port, state)).items()}
    reference = load_reference(build_reference(pair, pair.corpus[0], CANONICAL), back)
    assert all(np.array_equal(state_of(reference)[name], value) for name, value in back.items())


MANIFESTS: Final = json.loads(
    (Path(__file__).parents[1] / "data" / "m2_bert_checkpoints.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_port_writes_the_public_checkpoints_names_and_shapes(name: str) -> None:
    manifest = MANIFESTS[name]
    model = getattr(mlx_impl, manifest["head"])(ModelConfig.parse(manifest["config"]))  # lazy: nothing is computed
    layers = {
        manifest["per_layer_prefix"].format(i=layer) + key: shape
        for layer in range(manifest["num_layers"])
        for key, shape in manifest["per_layer"].items()
    }
    expected = {key: shape for key, shape in {**manifest["shared"], **layers}.items() if set_aside_reason(key) is None}
    assert {key: list(tensor.shape) for key, tensor in weights.to_state(model).items()} == expected


# --- mistakes -------------------------------------------------------------------------------------------

MIXER: Final = select(["monarch_mixer"])[0]
WEIGHT, ALIAS = "in_linear.weight", "filter_fn.implicit_filter_rev.3.freq"
STORED: Final = "filter_fn.implicit_filter.1.freq"


def missing(state: State) -> None:
    del state[WEIGHT]


def missing_alias(state: State) -> None:
    del state[ALIAS]


def left_over(state: State) -> None:
    state["in_linear.weights"] = state[WEIGHT]


def transposed(state: State) -> None:
    state[WEIGHT] = state[WEIGHT].T


def one_axis_more(state: State) -> None:
    state["filter_fn.bias"] = state["filter_fn.bias"][None]


def scalar(state: State) -> None:
    state["short_filter.weight"] = mx.array(1.0)


def not_a_number(state: State) -> None:
    state[WEIGHT] = mx.where(mx.arange(state[WEIGHT].shape[1]) == 1, mx.nan, state[WEIGHT])


def infinite(state: State) -> None:
    state[WEIGHT] = mx.where(mx.arange(state[WEIGHT].shape[1]) == 1, -mx.inf, state[WEIGHT])


def disagreeing(state: State) -> None:
    state[ALIAS] = state[ALIAS] + 1


MISTAKES: Final[dict[str, tuple[Callable[[State], None], str]]] = {
    "missing": (missing, f"missing {WEIGHT}"),
    "missing alias": (missing_alias, f"missing {ALIAS}"),
    "left over": (left_over, "left over in_linear.weights"),
    "transposed": (
        transposed,
        r"shape of in_linear.weight is \(12, 36\) in the port's layout, the port has \(36, 12\)",
    ),
    "one axis more": (one_axis_more, r"shape of filter_fn.bias is \(1, 12\)"),
    "scalar": (scalar, r"shape of short_filter.weight is \(\)"),
    "NaN": (not_a_number, f"NaN or infinity in {WEIGHT}"),
    "infinity": (infinite, f"NaN or infinity in {WEIGHT}"),
    "disagreeing alias": (disagreeing, f"{ALIAS} differs from {STORED}, with which it is shared"),
}


@pytest.mark.parametrize(("spoil", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(spoil: Callable[[State], None], message: str) -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    spoil(state)
    with pytest.raises(WeightsError, match=r"^1 problem\(s\) with the weights: " + message):
        weights.from_state(port, state)


@pytest.mark.parametrize(("spoil", "message"), MISTAKES.values(), ids=MISTAKES)
def test_the_reference_refuses_it_too(spoil: Callable[[State], None], message: str) -> None:
    _, state = port_and_state(MIXER, MIXER.corpus[0])
    spoil(state)
    name = "in_linear.weights" if spoil is left_over else message.split(" is ")[0].removeprefix("shape of ")
    arrays = {key: np.array(value) for key, value in state.items()}
    with pytest.raises(WeightsError) as caught:
        load_reference(build_reference(MIXER, MIXER.corpus[0], CANONICAL), arrays)
    part = "of the same parameter" if spoil is disagreeing else name
    assert part in str(caught.value)


def test_a_refused_state_dict_leaves_the_port_as_it_was() -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    before = {name: bits(array) for name, array in weights.parameters(port).items()}
    missing(state)
    with pytest.raises(WeightsError, match="missing"):
        weights.load(port, state)
    assert {name: bits(array) for name, array in weights.parameters(port).items()} == before


def test_several_problems_are_all_listed() -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    for spoil in (left_over, missing, one_axis_more, disagreeing):
        spoil(state)
    with pytest.raises(WeightsError) as caught:
        weights.from_state(port, state)
    message = str(caught.value)
    assert message.startswith("4 problem(s)")
    parts = (f"missing {WEIGHT}", "left over in_linear.weights", "shape of filter_fn.bias", f"{ALIAS} differs")
    assert [part for part in parts if part not in message] == []


def test_an_empty_state_dict_names_every_tensor_that_is_missing() -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    with pytest.raises(WeightsError) as caught:
        weights.from_state(port, {})
    assert str(caught.value).count("missing ") == len(state)


# --- names, axes, ties ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["position_ids", "bert.embeddings.position_ids", "attention.filter_fn.flashfft.twiddle"]
)
def test_constants_are_set_aside_by_name_whatever_they_hold(name: str) -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    weights.from_state(port, {**state, name: mx.array([mx.nan])})


def test_a_constant_under_another_name_is_left_over() -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    with pytest.raises(WeightsError, match=r"left over flash_fft\.twiddle"):
        weights.from_state(port, {**state, "flash_fft.twiddle": mx.array([1.0])})


def test_the_axes_of_the_short_convolution_are_moved() -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    channels = state["short_filter.weight"].shape[0]
    taps = mx.array(np.arange(3 * channels, dtype=np.float32).reshape(channels, 1, 3))
    moved = weights.from_state(port, {**state, "short_filter.weight": taps})["short_filter.weight"]
    assert moved.shape == (channels, 3, 1)
    np.testing.assert_array_equal(np.array(moved)[:, :, 0], np.array(taps)[:, 0, :])


def test_the_taps_arrive_in_their_order() -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    channels = state["short_filter.weight"].shape[0]
    taps = mx.broadcast_to(mx.array([1.0, 10.0, 100.0]), (channels, 1, 3))
    weights.load(port, {**state, "short_filter.weight": taps, "short_filter.bias": mx.zeros(channels)})
    impulse = mx.broadcast_to(mx.array([1.0, 0, 0, 0, 0]), (1, channels, 5))
    np.testing.assert_array_equal(np.array(port.short_filter(impulse))[0, 0], [100, 10, 1, 0, 0])


def test_no_other_tensor_is_moved() -> None:
    tensor = mx.arange(24).reshape(2, 3, 4)
    assert weights.move_axes("mlp.wo.weight", tensor) is tensor
    assert mx.array_equal(weights.move_axes("attention.short_filter.weight", tensor), tensor.swapaxes(1, 2))
    assert weights.move_axes("not_short_filter.weight", tensor) is tensor


@pytest.mark.parametrize(
    ("checkpoint", "port"),
    [
        ("implicit_filter.0.weight", "implicit_filter.layers.0.weight"),
        ("a.filter_fn.implicit_filter_rev.6.weight", "a.filter_fn.implicit_filter_rev.layers.6.weight"),
        ("a.implicit_filter.12.freq", "a.implicit_filter.layers.12.freq"),
        ("implicit_filter.3", "implicit_filter.layers.3"),
        ("bert.encoder.layer.11.attention.in_linear.weight", "bert.encoder.layer.11.attention.in_linear.weight"),
        ("my_implicit_filter.0.weight", "my_implicit_filter.0.weight"),
        ("implicit_filter", "implicit_filter"),
    ],
)
def test_a_name_is_translated_both_ways(checkpoint: str, port: str) -> None:
    assert weights.port_name(checkpoint) == port
    assert weights.checkpoint_name(port) == checkpoint


def test_every_alias_is_known_by_the_name_that_stores_it() -> None:
    port, _ = port_and_state(MIXER, {**MIXER.corpus[0], "residual_long_conv": False})
    places = [f"filter_fn.implicit_filter{net}.{i}.freq" for net in ("", "_rev") for i in (1, 3, 5)]
    assert weights.ties(port) == dict.fromkeys(places[1:], places[0])


def test_gradients_take_the_same_way_back_as_weights() -> None:
    port, state = port_and_state(MIXER, MIXER.corpus[0])
    some = {"short_filter.weight": mx.ones((36, 3, 1)), "filter_fn.implicit_filter.layers.1.freq": mx.ones((1, 16))}
    back = weights.to_state(port, some)
    assert back["short_filter.weight"].shape == (36, 1, 3)
    assert {name for name in back if "freq" in name} == {
        name for name in state if name.startswith("filter_fn.") and "freq" in name
    }
