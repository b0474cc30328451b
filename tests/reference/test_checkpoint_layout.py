"""The whole models have the names, shapes, ties and counts of the seven public checkpoints."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import nn

import reference_torch
from parity.spec.config import ModelConfig

MANIFESTS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "m2_bert_checkpoints.json").read_text(encoding="utf-8")
)
EVERY_CHECKPOINT = pytest.mark.parametrize("name", MANIFESTS)

# Stated beside the manifest, so that a manifest that were edited to fit would not pass.
UNIQUE: Final = {
    "m2-bert-80m": 80_267_328,
    "m2-bert-110m": 115_583_616,
    "m2-bert-260m": 259_133_760,
    "m2-bert-341m": 341_038_144,
}


@cache
def model(name: str) -> nn.Module:
    """The model of a checkpoint on torch's meta device: names and shapes without memory."""
    manifest = MANIFESTS[name]
    with torch.device("meta"):
        built: nn.Module = getattr(reference_torch, manifest["head"])(ModelConfig.parse(manifest["config"]))
    return built


def expected_shapes(name: str) -> dict[str, list[int]]:
    manifest = MANIFESTS[name]
    layers = {
        manifest["per_layer_prefix"].format(i=layer) + key: shape
        for layer in range(manifest["num_layers"])
        for key, shape in manifest["per_layer"].items()
    }
    return {**manifest["shared"], **layers}


def elements(tensors: dict[str, torch.Tensor]) -> int:
    return sum(prod(tensor.shape) for tensor in tensors.values())


def test_there_are_seven_checkpoints_of_both_heads() -> None:
    assert len(MANIFESTS) == 7
    assert {manifest["head"] for manifest in MANIFESTS.values()} == {"BertForMaskedLM", "BertForSequenceClassification"}


@EVERY_CHECKPOINT
def test_names_and_shapes_are_the_checkpoints(name: str) -> None:
    state = {key: list(tensor.shape) for key, tensor in model(name).state_dict().items()}
    assert state == expected_shapes(name)


@EVERY_CHECKPOINT
def test_the_state_dict_has_as_many_tensors_as_the_checkpoint(name: str) -> None:
    assert len(model(name).state_dict()) == MANIFESTS[name]["tensors"] == (720 if name in UNIQUE else 718)


@EVERY_CHECKPOINT
def test_the_number_of_unique_parameters_is_the_published_one(name: str) -> None:
    count = elements(dict(model(name).named_parameters()))
    assert count == MANIFESTS[name]["unique_parameters"]
    assert count == UNIQUE.get(name, count)


@EVERY_CHECKPOINT
def test_counting_every_tensor_of_the_state_dict_gives_the_number_that_people_quote(name: str) -> None:
    count = elements(model(name).state_dict())
    assert count == MANIFESTS[name]["elements_with_ties"]


@EVERY_CHECKPOINT
def test_names_are_tied_as_in_the_checkpoint_and_no_others(name: str) -> None:
    shared = defaultdict(list)
    for key, parameter in model(name).named_parameters(remove_duplicate=False):
        shared[id(parameter)].append(key)
    tied = {frozenset(keys) for keys in shared.values() if len(keys) > 1}
    # The manifest lists the ties of layer 0; the other layers repeat them.
    expected = {
        frozenset(key.replace(".layer.0.", f".layer.{layer}.") for key in keys)
        for keys in MANIFESTS[name]["ties"]
        for layer in range(MANIFESTS[name]["num_layers"])
    }
    assert tied == expected


@pytest.mark.parametrize(
    "changes", [{"bidirectional": False}, {"residual_long_conv": False}, {"use_positional_encodings": False}], ids=str
)
def test_a_switch_that_is_off_takes_its_names_away(changes: dict[str, bool]) -> None:
    with torch.device("meta"):
        other = reference_torch.BertForMaskedLM(ModelConfig.parse({**MANIFESTS["m2-bert-80m"]["config"], **changes}))
    assert other.state_dict().keys() < expected_shapes("m2-bert-80m").keys()
