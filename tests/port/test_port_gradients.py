"""Parameters are stored once, and the gradient of a shared one gathers what comes from all of its places."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from port_twins import Twins, twins

from mlx_impl import BertForMaskedLM, Embedding, HyenaFilter, Linear, Sin
from mlx_impl.weights import parameters
from parity.backends.gradients import port_gradients, reference_gradients
from parity.pairs import Pair
from parity.spec.config import ModelConfig
from parity.spec.precision import RUNGS
from parity.suites import PAIRS, select

Gradients = dict[str, npt.NDArray[np.float64]]
COMPONENTS: Final = [pair for pair in PAIRS if not pair.fresh]

# Both sides in float64, summed in another order: 6e-13 is the largest seen, behind two layers of sines of sines.
BOUND: Final = 1e-11


def both(built: Twins) -> tuple[Gradients, Gradients]:
    """Gradients of parameters and float inputs at float64, of reference and port, inputs under `input:<name>`."""
    by_reference = reference_gradients(built.pair, built.reference, built.inputs, RUNGS["f64"])
    by_port = port_gradients(built.pair, built.port("f64"), built.inputs, RUNGS["f64"])
    reference, port = (
        {**named, **{f"input:{name}": value for name, value in inputs.items()}}
        for named, inputs in (by_reference, by_port)
    )
    return reference, port


def distances(expected: Gradients, actual: Gradients) -> dict[str, float]:
    """Rel L2 of every gradient of `expected`, absolute where that is zero."""
    return {
        name: float(np.linalg.norm(actual[name] - value) / (np.linalg.norm(value) or 1.0))
        for name, value in expected.items()
    }


@pytest.mark.parametrize("pair", COMPONENTS, ids=lambda pair: pair.name)
def test_gradients_are_the_references_in_float64(pair: Pair) -> None:
    for structure in pair.corpus[:2]:
        measured = distances(*both(twins(pair, structure)))
        assert measured
        assert {name: distance for name, distance in measured.items() if not distance <= BOUND} == {}


@pytest.mark.parametrize(
    "options",
    [
        {"bidirectional": True},
        {"bidirectional": False},
        {"bidirectional": True, "num_inner_mlps": 0},
        {"bidirectional": True, "linear_mixer": True},
    ],
    ids=["six places", "three places", "one place each way", "owned by the reverse network"],
)
def test_the_shared_frequency_hears_from_all_of_its_places(options: dict[str, object]) -> None:
    structure = {"batch": 2, "d_model": 4, "L": 7, "seq_len": 9, "emb_dim": 5, "order": 6, "w": 10, **options}
    expected, actual = both(twins(select(["hyena_filter"])[0], structure))
    frequencies = [name for name in expected if name.endswith("freq")]
    assert len(frequencies) == 1
    assert np.abs(expected[frequencies[0]]).max() > 0
    assert distances(expected, actual)[frequencies[0]] <= BOUND


def test_a_place_with_a_sine_of_its_own_would_be_seen() -> None:
    structure = {"batch": 2, "d_model": 4, "L": 7, "seq_len": 9, "emb_dim": 5, "order": 6, "bidirectional": True}
    built = twins(select(["hyena_filter"])[0], structure)
    expected, _ = both(built)
    port = built.port("f64")
    sequence = list(port.implicit_filter_rev._sequence)
    apart = Sin(6, ops=port.ops)
    apart.freq = mx.array(port.implicit_filter.layers[1].freq)  # the same values, no longer the same object
    sequence[3] = apart
    object.__setattr__(port.implicit_filter_rev, "_sequence", tuple(sequence))
    actual, _ = port_gradients(built.pair, port, built.inputs, RUNGS["f64"])
    assert (
        distances({"implicit_filter.1.freq": expected["implicit_filter.1.freq"]}, actual)["implicit_filter.1.freq"]
        > 1e-3
    )


def test_the_tied_table_hears_from_the_look_up_and_from_the_decoder() -> None:
    built = twins(select(["masked_lm"])[0], select(["masked_lm"])[0].corpus[0])
    expected, actual = both(built)
    name = "bert.embeddings.word_embeddings.weight"
    assert distances(expected, actual)[name] <= BOUND
    untouched = np.setdiff1d(np.arange(len(expected[name])), built.inputs["ids"])
    assert np.abs(actual[name][untouched]).min(axis=1).max() > 0


# --- stored once ----------------------------------------------------------------------------------------

SMALL: Final = ModelConfig(vocab_size=9, hidden_size=4, intermediate_size=4, num_hidden_layers=2, hyena_filter_order=3)


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in tree_flatten(model.parameters())]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("linear_mixer", [False, True])
def test_a_filter_stores_its_frequency_once(bidirectional: bool, linear_mixer: bool) -> None:
    model = HyenaFilter(2, bidirectional=bidirectional, linear_mixer=linear_mixer)
    expected = (
        [] if linear_mixer and not bidirectional else ["implicit_filter" + "_rev" * linear_mixer + ".layers.1.freq"]
    )
    assert [name for name in names(model) if name.endswith("freq")] == expected


def test_every_place_runs_the_one_sine() -> None:
    model = HyenaFilter(2, bidirectional=True)
    sequence = model.implicit_filter._sequence + model.implicit_filter_rev._sequence
    assert len({id(layer) for layer in sequence if isinstance(layer, Sin)}) == 1


def test_the_decoder_has_no_table_of_its_own() -> None:
    model = BertForMaskedLM(SMALL)
    assert [name for name in names(model) if "decoder" in name] == ["cls.predictions.decoder.bias"]


def test_a_new_table_reaches_the_decoder() -> None:
    model = BertForMaskedLM(SMALL)
    hidden = mx.ones((1, 1, 4))
    model.bert.embeddings.word_embeddings.weight = mx.zeros((9, 4))
    assert mx.array_equal(model.cls.predictions.decoder(hidden)[0, 0], model.cls.predictions.decoder.bias)


def test_no_array_appears_under_two_names() -> None:
    arrays = list(parameters(BertForMaskedLM(SMALL)).values())
    assert len({id(array) for array in arrays}) == len(arrays)


def test_buffers_are_frozen_and_everything_else_is_trained() -> None:
    model = BertForMaskedLM(SMALL)
    trained = {name for name, _ in tree_flatten(model.trainable_parameters())}
    frozen = {name for name in names(model) if name not in trained}
    assert {name.rsplit(".", 1)[1] for name in frozen} == {"t", "deltas"}
    assert any(name.endswith("pos_emb.z") for name in trained)


# --- the padding row ------------------------------------------------------------------------------------


def table_gradient(padding_idx: int | None) -> npt.NDArray[np.float32]:
    table, ids = Embedding(5, 3, padding_idx=padding_idx), mx.array([[0, 2, 2, 4]])
    loss = nn.value_and_grad(table, lambda: mx.sum(mx.square(table(ids))))
    return np.array(loss()[1]["weight"])


def test_the_padding_row_passes_no_gradient() -> None:
    gradient = table_gradient(padding_idx=2)
    assert (gradient[2] == 0).all()
    assert (gradient[[0, 4]] != 0).all()


def test_without_a_padding_row_every_row_that_was_read_passes_it() -> None:
    gradient = table_gradient(padding_idx=None)
    assert (gradient[[0, 2, 4]] != 0).all()
    assert (gradient[[1, 3]] == 0).all()


def test_the_padding_row_is_read_like_any_other() -> None:
    table = Embedding(5, 3, padding_idx=2)
    assert mx.array_equal(table(mx.array([2, 1])), table.weight[mx.array([2, 1])])


def test_a_linear_layer_without_bias_stores_none() -> None:
    assert names(Linear(3, 2, bias=False)) == ["weight"]
    assert sorted(names(Linear(3, 2))) == ["bias", "weight"]
