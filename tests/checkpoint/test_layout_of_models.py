"""Names, shapes and ties of a state dict: those of the published files, of the reference and of the port."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from checkpoint_pieces import HEADS, ROOT, TINY
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_impl
import reference_torch
from mlx_impl.weights import AXIS_MOVES, checkpoint_name, parameters, port_name, ties
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM, Head, state_shapes, state_ties
from parity.checkpoint.model import move_axes
from parity.checkpoint.public import public_checkpoints
from parity.checkpoint.tensors import LazyTensor, in_order
from parity.spec.checkpoint import set_aside_reason
from parity.spec.config import ModelConfig

EVERY_PUBLIC = pytest.mark.parametrize("name", public_checkpoints())


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Configurations of every structure, small."""
    booleans = ("bidirectional", "residual_long_conv", "hyena_training_additions", "use_glu_mlp", "use_monarch_mlp")
    return TINY.model_copy(
        update={
            **{key: draw(st.booleans(), label=key) for key in (*booleans, "use_positional_encodings")},
            "attention_pooling": draw(st.booleans(), label="attention_pooling"),
            "hidden_size": draw(st.integers(3, 12), label="hidden_size"),
            "intermediate_size": draw(st.integers(5, 40), label="intermediate_size"),
            "monarch_mlp_nblocks": draw(st.integers(1, 4), label="blocks"),
            "num_hidden_layers": draw(st.integers(1, 3), label="layers"),
            "hyena_emb_dim": draw(st.sampled_from([3, 5, 7]), label="emb_dim"),
            "num_labels": draw(st.integers(1, 4), label="num_labels"),
        }
    )


def reference(head: Head, config: ModelConfig) -> Any:
    with torch.device("meta"):
        return getattr(reference_torch, head)(config)


@EVERY_PUBLIC
def test_names_and_shapes_are_those_of_the_published_file(name: str) -> None:
    public = public_checkpoints()[name]
    assert state_shapes(public.head, public.config) == public.shapes
    assert len(public.shapes) == (720 if public.head == MASKED_LM else 718)


def test_the_published_files_in_the_package_are_those_of_the_tests() -> None:
    there = (ROOT / "parity" / "checkpoint" / "public.json").read_bytes()
    assert there == (ROOT / "tests" / "data" / "m2_bert_checkpoints.json").read_bytes()


@given(head=st.sampled_from(HEADS), config=configs())
@settings(max_examples=40)
def test_names_shapes_and_ties_are_the_references(head: Head, config: ModelConfig) -> None:
    model = reference(head, config)
    assert state_shapes(head, config) == {key: tuple(one.shape) for key, one in model.state_dict().items()}
    names = defaultdict(list)
    for key, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(key)
    ours = state_ties(head, config)
    groups = {name: frozenset([name, *(alias for alias in ours if ours[alias] == name)]) for name in ours.values()}
    assert set(groups.values()) == {frozenset(group) for group in names.values() if len(group) > 1}


@given(head=st.sampled_from(HEADS), config=configs())
@settings(max_examples=10)
def test_names_shapes_and_ties_are_the_ports(head: Head, config: ModelConfig) -> None:
    port = getattr(mlx_impl, head)(config)
    ours = {name: shape for name, shape in state_shapes(head, config).items() if set_aside_reason(name) is None}
    tied = state_ties(head, config)
    assert tied == ties(port)
    stored = {port_name(name): shape for name, shape in ours.items() if name not in tied}
    theirs = {name: tuple(array.shape) for name, array in parameters(port).items()}
    assert stored.keys() == theirs.keys()
    moved = {
        name: shape[:-2] + shape[:-3:-1] if "short_filter.weight" in name else shape for name, shape in stored.items()
    }
    assert moved == theirs


@pytest.mark.parametrize("head", HEADS)
def test_the_ports_table_moves_the_axes_that_are_moved_here(head: Head) -> None:
    # Each move of the table exchanges the last two axes; another kind of move needs another line in move_axes.
    import mlx.core as mx

    probe = mx.arange(24).reshape(2, 3, 4)
    for move in AXIS_MOVES.values():
        assert mx.array_equal(move(probe), probe.swapaxes(-1, -2))
    targets = parameters(getattr(mlx_impl, head)(TINY))
    for name, shape in state_shapes(head, TINY).items():
        moved = move_axes(name, LazyTensor(None, shape, in_order(shape), None, 0))  # type: ignore[arg-type]
        target = targets.get(port_name(name))
        assert target is None or tuple(target.shape) == moved.shape
        assert checkpoint_name(port_name(name)) == name


def test_a_classifier_has_no_decoder() -> None:
    assert not any(name.startswith("cls.") for name in state_shapes(CLASSIFICATION, TINY))
