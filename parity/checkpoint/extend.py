"""More positions: the tables of positions repeated, as long-context checkpoints were made from short ones.

| tensor                       | row i of L                    |
|------------------------------|-------------------------------|
| `position_embeddings.weight` | the old row i mod n           |
| `pos_emb.z`                  | the old row i mod n           |
| `pos_emb.t`                  | i / (L - 1)                   |
| `position_ids`               | i                             |

`t` is no parameter: the decay of a filter spans the length for which it is built, so it is made anew. Everything else
is copied bit for bit. What comes out is another model, which wants training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_impl.weights import port_name
from parity.checkpoint.convert import (
    Conversion,
    Count,
    Finite,
    require_free,
    require_room,
    require_suffix,
    write_tensors,
)
from parity.checkpoint.dtypes import DTYPES, Dtype
from parity.checkpoint.layout import POSITION_IDS
from parity.checkpoint.model import Checkpoint, move_axes, open_checkpoint
from parity.checkpoint.record import Noted, Record, record_path
from parity.checkpoint.tensors import LazyTensor, Tensor
from parity.checkpoint.writers import byte_count
from parity.errors import CheckpointError
from parity.files import staged_file, write_whole

LONGEST: Final = 2**20
"""Positions up to which a model is extended: a table of 1,048,576 rows of 1,024 numbers has 4 GiB."""

_TABLES: Final = {"bert.embeddings.position_embeddings.weight": 0, "pos_emb.z": 1}
"""Endings of the tables that are repeated, each with the axis of positions."""

_TIMES: Final = "pos_emb.t"
_REMEDY: Final = "nothing was written; choose another OUT"


@dataclass(frozen=True)
class Tiled:
    """A tensor repeated along one axis, before which there are only axes of length 1, up to a length."""

    tensor: LazyTensor
    axis: int
    length: int

    @property
    def dtype(self) -> Dtype:
        """Kind of its numbers."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        shape = self.tensor.shape
        return (*shape[: self.axis], self.length, *shape[self.axis + 1 :])

    def chunks(self) -> Iterator[bytes]:
        """Yield the old rows as often as they fit, and then as many as are left."""
        rows = self.tensor.shape[self.axis]
        for _ in range(self.length // rows):
            yield from self.tensor.chunks()
        left = self.tensor.nbytes // rows * (self.length % rows)
        for chunk in self.tensor.chunks():
            yield chunk[:left]
            left = max(0, left - len(chunk))


@dataclass(frozen=True)
class Times:
    """The numbers i / (L - 1), of shape (1, L, 1)."""

    dtype: Dtype
    shape: tuple[int, ...]

    def chunks(self) -> Iterator[bytes]:
        """Yield them."""
        yield np.linspace(0, 1, self.shape[1]).astype(self.dtype.values).tobytes()


def extend(
    path: Path,
    out: Path,
    length: int,
    *,
    overrides: Mapping[str, Any] | None = None,
    published: Mapping[str, Any] | None = None,
    force: bool = False,
    on_tensor: Callable[[str, int], None] = lambda name, total: None,
) -> Conversion:
    """Write a checkpoint of more positions, names and axes as in the file; it and its record are whole or not there.

    Args:
        path: A checkpoint of either layout.
        out: Where to; its ending says the format.
        length: Positions L, more than there are.
        overrides, published: As `open_checkpoint`.
        force: Replace what is there.
        on_tensor: Called with a tensor's name and how many there are, once it is written.

    Raises:
        CheckpointError: The file is refused, is no whole model, holds NaN or infinity, or has as many positions.
        OutputError: Something is there already, does not fit on the disk, or cannot be written.
    """
    with open_checkpoint(path, overrides, published) as checkpoint:
        _require_longer(checkpoint, length)
        require_suffix(checkpoint.layout, out)
        tensors = _tensors(checkpoint, length)
        require_free(checkpoint, out, False, force)
        require_room(out, list(tensors.values()))
        lost = tuple(
            Noted(one.name, one.tensor.dtype.name, one.tensor.shape, one.reason)
            for one in checkpoint.set_aside
            if one.name not in tensors
        )
        with staged_file(out, _REMEDY) as file:
            write_tensors(
                file,
                out.suffix,
                checkpoint.layout,
                tensors,
                checkpoint.ties,
                lambda name: on_tensor(name, len(tensors)),
            )
            file.flush()  # a disk that is full is seen before anything is put in its place
            # Before `out` is put in its place, so that it never stands there without its configuration.
            write_whole(record_path(out), _record(checkpoint, length, lost).text(), _REMEDY)
        layout = checkpoint.layout
    restored = sum(isinstance(tensor, Count) for tensor in tensors.values())
    return Conversion(
        out, record_path(out), None, layout, len(tensors), restored, lost, sum(map(byte_count, tensors.values()))
    )


def _require_longer(checkpoint: Checkpoint, length: int) -> None:
    config = checkpoint.config
    longest = max(config.long_conv_l_max, config.max_position_embeddings)
    if not longest < length <= LONGEST:
        raise CheckpointError(f"has {longest} positions; --length takes more, up to {LONGEST}; got {length}")


def _tensors(checkpoint: Checkpoint, length: int) -> dict[str, Tensor]:
    whole: dict[str, Tensor] = {}
    stored = checkpoint.stored if checkpoint.layout == "mlx" else checkpoint.tensors
    for name, tensor in stored.items():
        axis = next((axis for ending, axis in _TABLES.items() if name.endswith(ending)), None)
        if name.endswith(_TIMES):
            whole[name] = Times(tensor.dtype, (1, length, 1))
        elif axis is not None:
            # Read once to see that its numbers are numbers; then its rows are written as often as they are needed.
            for _ in Finite(name, tensor).chunks():
                pass
            whole[name] = Tiled(tensor, axis, length)
        else:
            whole[name] = Finite(name, tensor)
    if checkpoint.layout == "mlx":
        return {port_name(name): _moved(name, one) for name, one in whole.items()}
    if any(one.name == POSITION_IDS for one in checkpoint.set_aside):
        whole[POSITION_IDS] = Count(DTYPES["I64"], (1, length))
    return whole


def _moved(name: str, tensor: Tensor) -> Tensor:
    return Finite(name, move_axes(name, tensor.tensor)) if isinstance(tensor, Finite) else tensor


def _record(checkpoint: Checkpoint, length: int, lost: tuple[Noted, ...]) -> Record:
    changes = {"long_conv_l_max": length, "max_position_embeddings": length}
    config = checkpoint.config.model_copy(update=changes).model_dump(mode="json")
    assumed = {assumed.key: assumed.reason for assumed in checkpoint.inferred.assumed}
    return Record(checkpoint.head, checkpoint.layout, config, assumed, lost)
