"""Files with the names, shapes and formats of a checkpoint and random numbers, since the real ones are not at hand.

Numbers are likely ones, so that a model computes something with them: weights N(0, 1 / fan-in), gains near 1,
frequencies near 10, positions and decays by their formulas. They depend on the seed and the name alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from zlib import crc32

import numpy as np

from parity.checkpoint.dtypes import DTYPES, Dtype
from parity.checkpoint.layout import LAYER, POSITION_IDS, Head, state_shapes, state_ties
from parity.checkpoint.tensors import CHUNK, Tensor
from parity.checkpoint.writers import OnTensor, write_npz, write_safetensors, write_torch, write_torch_legacy
from parity.errors import CheckpointError
from parity.files import staged_file, write_whole
from parity.spec.arrays import AnyArray
from parity.spec.config import ModelConfig

Form = Literal["composer", "plain", "legacy", "safetensors", "npz", "shards"]
FORMS: Final[tuple[Form, ...]] = ("composer", "plain", "legacy", "safetensors", "npz", "shards")

CONSTANTS_OF_A_LAYER: Final = 29
"""Tables of the fused transform in a layer: 12 * 29 + 718 = 1066 tensors, as reported of the 32k checkpoint."""

_SHARDS: Final = 3
_REMEDY: Final = "nothing was written; choose another OUT"


@dataclass(frozen=True)
class Generated:
    """A tensor whose numbers are made when they are written.

    Attributes:
        name: What decides, with the seed, on its numbers: the first name of a shared parameter.
        dtype: Kind of its numbers.
        shape: Lengths of its axes.
        seed: See `name`.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    seed: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the numbers, at most `CHUNK` bytes of float32 at a time."""
        fixed = _by_formula(self.name, self.shape)
        if fixed is not None:
            yield fixed.astype(self.dtype.values).tobytes()
            return
        drawn = np.random.Generator(np.random.Philox(key=[self.seed, crc32(self.name.encode())]))
        mean, deviation = _distribution(self.name, self.shape)
        size = math.prod(self.shape)
        for start in range(0, size, CHUNK // 4):
            part = drawn.standard_normal(min(CHUNK // 4, size - start), np.float32)
            yield (part * np.float32(deviation) + np.float32(mean)).astype(self.dtype.values).tobytes()


def generated_state(
    head: Head, config: ModelConfig, seed: int, dtype: str = "F32", constants: bool = False
) -> dict[str, Tensor]:
    """Return a state dict of generated tensors, aliases included.

    Args:
        head: The model's class.
        config: Its configuration.
        seed: Of the numbers.
        dtype: Kind of all but `position_ids`.
        constants: With tables of a fused transform, as retrieval checkpoints carry them.
    """
    ties = state_ties(head, config)
    state: dict[str, Tensor] = {
        name: Generated(ties.get(name, name), DTYPES["I64" if name == POSITION_IDS else dtype], shape, seed)
        for name, shape in state_shapes(head, config).items()
    }
    if constants:
        for layer in range(config.num_hidden_layers):
            for number in range(CONSTANTS_OF_A_LAYER):
                name = f"{LAYER}{layer}.attention.filter_fn.flashfft.table_{number}"
                state[name] = Generated(name, DTYPES["F16"], (16, 16, 2), seed)
    return state


def generate(
    out: Path,
    head: Head,
    config: ModelConfig,
    form: Form,
    *,
    seed: int = 0,
    dtype: str = "F32",
    constants: bool = False,
    on_tensor: OnTensor = lambda name: None,
) -> int:
    """Write a generated checkpoint; returns how many tensors it has.

    Args:
        out: Where to; of `shards` the index, beside which the shards are put.
        head, config, seed, dtype, constants: As `generated_state`.
        form: The format; `composer` as Composer's trainer saves it, `model.` before every name.
        on_tensor: Called after each tensor.

    Raises:
        CheckpointError: The form is unknown.
        OutputError: It cannot be written.
    """
    state = generated_state(head, config, seed, dtype, constants)
    ties = state_ties(head, config)
    if form == "shards":
        _write_shards(out, state, on_tensor)
        return len(state)
    if form not in FORMS:
        raise CheckpointError(f"no form is called {form!r}; there are {', '.join(FORMS)}")
    with staged_file(out, _REMEDY) as file:
        if form == "composer":
            prefixed = {f"model.{name}": tensor for name, tensor in state.items()}
            tied = {f"model.{alias}": f"model.{name}" for alias, name in ties.items()}
            write_torch(file, prefixed, tied, on_tensor, wrapping=("state", "model"))
        elif form == "safetensors":
            write_safetensors(file, state, {"format": "pt"}, on_tensor)
        elif form == "npz":
            write_npz(file, state, on_tensor)
        else:
            writer = write_torch_legacy if form == "legacy" else write_torch
            writer(file, state, ties, on_tensor)
    return len(state)


def _write_shards(out: Path, state: Mapping[str, Tensor], on_tensor: OnTensor) -> None:
    names = sorted(state)
    places: dict[str, str] = {}
    for number in range(_SHARDS):
        shard = f"{out.name.split('.')[0]}-{number + 1:05}-of-{_SHARDS:05}.safetensors"
        mine = names[number::_SHARDS]
        with staged_file(out.parent / shard, _REMEDY) as file:
            write_safetensors(file, {name: state[name] for name in mine}, {"format": "pt"}, on_tensor)
        places |= dict.fromkeys(mine, shard)
    write_whole(out, json.dumps({"metadata": {}, "weight_map": places}, indent=1), _REMEDY)


_FORMULAS: Final[Mapping[str, Callable[[tuple[int, ...]], AnyArray]]] = {
    "position_ids": lambda shape: np.arange(shape[1])[None],
    "pos_emb.t": lambda shape: np.linspace(0, 1, shape[1])[None, :, None],
    "pos_emb.z": lambda shape: _positions(shape[1], shape[2])[None],
    "modulation.deltas": lambda shape: np.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, shape[2])[None, None],
}


def _by_formula(name: str, shape: tuple[int, ...]) -> AnyArray | None:
    formula = next((formula for ending, formula in _FORMULAS.items() if name.endswith(ending)), None)
    return None if formula is None else formula(shape)


def _positions(length: int, columns: int) -> AnyArray:
    """Return t, then the real and the imaginary parts of exp(-i f w), (length, columns)."""
    bands = (columns - 1) // 2
    f = np.linspace(1e-4, bands - 1, bands) if bands > 1 else np.array([1e-4])
    angles = np.outer(2 * np.pi * np.arange(length) / length, f)
    return np.concatenate([np.linspace(0, 1, length)[:, None], np.cos(angles), -np.sin(angles)], axis=1)


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return mean and standard deviation of a parameter."""
    if name.endswith(".freq"):
        return 10.0, 0.5
    if name.lower().endswith("layernorm.weight"):
        return 1.0, 0.1
    if name.endswith(("filter_fn.bias", "filter_fn2.bias")):
        return 0.0, 1.0
    return 0.0, 0.1 if len(shape) == 1 else 1 / math.sqrt(shape[-1])
