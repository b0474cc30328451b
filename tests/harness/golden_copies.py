"""Copies of golden files with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"

Tensors = dict[str, npt.NDArray[Any]]
Metadata = dict[str, str]
Change = Callable[[Tensors, Metadata], object]


def unchanged(tensors: Tensors, metadata: Metadata) -> None:
    """Change nothing."""


def read(name: str) -> tuple[Tensors, Metadata]:
    """Return tensors and metadata of the golden file `name`."""
    with safe_open(GOLDENS / f"{name}.safetensors", framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118


def copy_of(name: str, folder: Path, change: Change = unchanged) -> Path:
    """Write the golden file `name` into `folder` after `change`."""
    tensors, metadata = read(name)
    change(tensors, metadata)
    path = folder / f"{name}.safetensors"
    save_file({key: np.ascontiguousarray(array) for key, array in tensors.items()}, path, metadata=metadata)
    return path


def times(tensor: str, factor: float) -> Change:
    """Multiply one tensor."""
    return lambda tensors, _: tensors.update({tensor: (tensors[tensor] * factor).astype(tensors[tensor].dtype)})


def put(tensor: str, values: npt.ArrayLike) -> Change:
    """Add or replace one tensor by float32 values."""
    return lambda tensors, _: tensors.update({tensor: np.asarray(values, dtype=np.float32)})


def without(prefix: str) -> Change:
    """Remove every tensor whose name begins with `prefix`."""

    def change(tensors: Tensors, _: Metadata) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


def first_element(tensor: str, value: float) -> Change:
    """Set the first element of one tensor."""

    def change(tensors: Tensors, _: Metadata) -> None:
        array = tensors[tensor].copy()
        array.flat[0] = value
        tensors[tensor] = array

    return change


def config(**changes: Any) -> Change:
    """Change keys of the configuration; None removes one."""

    def change(_: Tensors, metadata: Metadata) -> None:
        merged = {**json.loads(metadata["config"]), **changes}
        metadata["config"] = json.dumps({key: value for key, value in merged.items() if value is not None})

    return change


def described(**changes: str) -> Change:
    """Replace metadata."""
    return lambda _, metadata: metadata.update(changes)


def undescribed(key: str) -> Change:
    """Remove metadata."""
    return lambda _, metadata: metadata.pop(key)
