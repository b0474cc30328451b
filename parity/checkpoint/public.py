"""The seven public checkpoints, and how a model differs from the nearest of them.

Source: the published configurations and the files of M2-BERT on the Hugging Face hub, listed in `public.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log2
from types import MappingProxyType
from typing import Any

from parity.checkpoint.inference import Inferred
from parity.checkpoint.layout import Head, Shape, state_shapes
from parity.errors import CheckpointError
from parity.spec.config import ModelConfig


@dataclass(frozen=True)
class PublicCheckpoint:
    """One public checkpoint: its head, its configuration, and the shape of each of its tensors."""

    name: str
    head: Head
    config: ModelConfig
    keys: tuple[str, ...]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Difference:
    """A key that differs: the checkpoint's value and the public one's."""

    key: str
    value: Any
    public: Any


@cache
def public_checkpoints() -> Mapping[str, PublicCheckpoint]:
    """Return the public checkpoints by name."""
    manifests = json.loads(files("parity.checkpoint").joinpath("public.json").read_text(encoding="utf-8"))
    return MappingProxyType({name: _public(name, manifest) for name, manifest in manifests.items()})


def public_called(name: str) -> PublicCheckpoint:
    """Return the public checkpoint `name`.

    Raises:
        CheckpointError: None is called so.
    """
    if name not in public_checkpoints():
        raise CheckpointError(f"no public checkpoint is called {name!r}; there are {', '.join(public_checkpoints())}")
    return public_checkpoints()[name]


def nearest(inferred: Inferred) -> tuple[PublicCheckpoint, list[Difference]]:
    """Return the public checkpoint with the fewest keys that differ, sizes by their ratio, and those keys."""
    found = [(public, differences(inferred, public)) for public in public_checkpoints().values()]
    return min(found, key=lambda pair: (len(pair[1]), sum(map(_distance, pair[1]))))


def differences(inferred: Inferred, public: PublicCheckpoint) -> list[Difference]:
    """Return what differs from a public checkpoint: the head, the keys that it publishes, and any other switch."""
    found = [Difference("head", inferred.head, public.head)]
    keys = dict.fromkeys((*public.keys, *inferred.read, *(assumed.key for assumed in inferred.assumed)))
    found += [Difference(key, getattr(inferred.config, key), getattr(public.config, key)) for key in keys]
    return [difference for difference in found if difference.value != difference.public]


def _distance(difference: Difference) -> float:
    sizes = difference.value, difference.public
    if all(type(size) is int and size > 0 for size in sizes):
        return abs(log2(sizes[0]) - log2(sizes[1]))
    return 1.0


def _public(name: str, manifest: Mapping[str, Any]) -> PublicCheckpoint:
    layers = {
        manifest["per_layer_prefix"].format(i=layer) + key: tuple(shape)
        for layer in range(manifest["num_layers"])
        for key, shape in manifest["per_layer"].items()
    }
    shapes = {key: tuple(shape) for key, shape in manifest["shared"].items()} | layers
    config = ModelConfig.parse(manifest["config"])
    return PublicCheckpoint(name, manifest["head"], config, tuple(manifest["config"]), shapes)


def same_shapes(inferred: Inferred, public: PublicCheckpoint) -> bool:
    """Whether a whole model of the inferred configuration has exactly the names and shapes of the public one."""
    return state_shapes(inferred.head, inferred.config) == public.shapes
