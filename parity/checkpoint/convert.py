"""From PyTorch's names, axes and formats to the MLX port's, and back, one piece of one tensor at a time.

| what                | torch                       | MLX                                             |
|---------------------|-----------------------------|-------------------------------------------------|
| names and axes      | the checkpoint's            | those of `mlx_impl.weights`, the one table      |
| shared parameters   | under every name            | once, under the first                           |
| constants           | `position_ids` written anew | not carried; in a file beside, if asked for     |
| formats             | .pt, .bin, .safetensors     | .safetensors, .npz                              |
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from mlx_impl.weights import port_name
from parity.checkpoint.dtypes import DTYPES, Dtype
from parity.checkpoint.layout import POSITION_IDS, state_shapes
from parity.checkpoint.model import Checkpoint, Layout, move_axes, open_checkpoint
from parity.checkpoint.opening import open_file
from parity.checkpoint.record import Noted, Record, constants_path, record_path
from parity.checkpoint.tensors import LazyTensor, Tensor, quoted, shown
from parity.checkpoint.writers import byte_count, write_npz, write_safetensors, write_torch
from parity.errors import CheckpointError, OutputError
from parity.files import staged_file, write_whole

SUFFIXES: Final[Mapping[Layout, tuple[str, ...]]] = {
    "mlx": (".safetensors", ".npz"),
    "torch": (".safetensors", ".pt", ".bin"),
}
_METADATA: Final[Mapping[Layout, Mapping[str, str]]] = {"mlx": {"format": "mlx"}, "torch": {"format": "pt"}}


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote.

    Attributes:
        out: The file.
        record: The JSON beside it.
        constants: The file of constants beside it, None if none were kept.
        layout: "mlx" or "torch".
        written: Tensors in `out`, of them `restored` made anew: names of shared parameters and `position_ids`.
        restored: See `written`.
        set_aside: What is not in `out`.
        nbytes: Bytes of the numbers in `out`.
    """

    out: Path
    record: Path
    constants: Path | None
    layout: Layout
    written: int
    restored: int
    set_aside: tuple[Noted, ...]
    nbytes: int


def convert(
    path: Path,
    out: Path,
    *,
    to: Layout | None = None,
    overrides: Mapping[str, Any] | None = None,
    published: Mapping[str, Any] | None = None,
    force: bool = False,
    keep_constants: bool = False,
    on_tensor: Callable[[str, int], None] = lambda name, total: None,
) -> Conversion:
    """Convert a checkpoint; `out` and its record are there whole or not at all.

    Args:
        path: A checkpoint of either layout.
        out: Where to; its ending says the format.
        to: The layout; the other one than the file's by default.
        overrides, published: As `open_checkpoint`.
        force: Replace what is there.
        keep_constants: Write what is set aside into a safetensors file beside, from which converting back restores it.
        on_tensor: Called with a tensor's name and how many there are, once it is written.

    Raises:
        CheckpointError: The file is refused, is no whole model, or holds NaN or infinity.
        OutputError: Something is there already, does not fit on the disk, or cannot be written.
    """
    with ExitStack() as open_files:
        checkpoint = open_files.enter_context(open_checkpoint(path, overrides, published))
        layout: Layout = to or ("torch" if checkpoint.layout == "mlx" else "mlx")
        require_suffix(layout, out)
        constants = _constants(checkpoint, path, open_files)
        tensors, lost = _tensors(checkpoint, layout, constants)
        beside: dict[str, Tensor] = dict(constants) if keep_constants and layout == "mlx" else {}
        require_free(checkpoint, out, bool(beside), force)
        require_room(out, [*tensors.values(), *beside.values()])
        with staged_file(out, _REMEDY) as file:
            write_tensors(
                file, out.suffix, layout, tensors, checkpoint.ties, lambda name: on_tensor(name, len(tensors))
            )
            if beside:
                with staged_file(constants_path(out), _REMEDY) as other:
                    write_safetensors(other, beside, _METADATA["torch"], lambda _: None)
            file.flush()  # a disk that is full is seen before anything is put in its place
            # Before `out` is put in its place, so that it never stands there without its configuration.
            write_whole(record_path(out), _record(checkpoint, layout, lost).text(), _REMEDY)
    return Conversion(
        out,
        record_path(out),
        constants_path(out) if beside else None,
        layout,
        len(tensors),
        sum(name in checkpoint.ties or isinstance(tensor, Count) for name, tensor in tensors.items()),
        lost,
        sum(map(byte_count, tensors.values())),
    )


_REMEDY: Final = "nothing was written; choose another OUT"


@dataclass(frozen=True)
class Count:
    """The numbers 0, 1, 2, ... of shape (1, n): `position_ids` made anew."""

    dtype: Dtype
    shape: tuple[int, ...]

    def chunks(self) -> Iterator[bytes]:
        """Yield them."""
        yield np.arange(self.shape[-1], dtype=self.dtype.values).tobytes()


@dataclass(frozen=True)
class Finite:
    """A tensor that refuses to be written if it holds NaN or infinity."""

    name: str
    tensor: LazyTensor

    @property
    def dtype(self) -> Dtype:
        """Kind of its numbers."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        return self.tensor.shape

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes, or raise `CheckpointError`."""
        mask = self.dtype.exponent
        for chunk in self.tensor.chunks():
            if mask and bool(np.any((np.frombuffer(chunk, self.dtype.bits) & mask) == mask)):
                raise CheckpointError(f"NaN or infinity in {self.name}: no model computes anything with it")
            yield chunk


def _tensors(
    checkpoint: Checkpoint, layout: Layout, constants: Mapping[str, LazyTensor]
) -> tuple[dict[str, Tensor], tuple[Noted, ...]]:
    """Return what is written by name, and what is not."""
    if layout == "mlx":
        stored = {port_name(name): Finite(name, move_axes(name, one)) for name, one in checkpoint.stored.items()}
        aside = tuple(
            Noted(one.name, one.tensor.dtype.name, one.tensor.shape, one.reason) for one in checkpoint.set_aside
        )
        return dict(stored), aside or _still_aside(checkpoint, {})
    whole: dict[str, Tensor] = {name: Finite(name, one) for name, one in checkpoint.tensors.items()}
    whole |= constants
    if POSITION_IDS not in whole and (count := _count(checkpoint)) is not None:
        whole[POSITION_IDS] = count
    return whole, _still_aside(checkpoint, whole)


def _still_aside(checkpoint: Checkpoint, written: Mapping[str, Any]) -> tuple[Noted, ...]:
    if checkpoint.record is None:
        return ()
    return tuple(noted for noted in checkpoint.record.set_aside if noted.name not in written)


def _count(checkpoint: Checkpoint) -> Count | None:
    """Return `position_ids` if the model has them, and they were not missing from what it was converted from."""
    shape = state_shapes(checkpoint.head, checkpoint.config).get(POSITION_IDS)
    if shape is None or (checkpoint.layout == "torch" and checkpoint.record is None):
        return None
    if checkpoint.record is None:
        return Count(DTYPES["I64"], shape)
    noted = next((noted for noted in checkpoint.record.set_aside if noted.name == POSITION_IDS), None)
    return None if noted is None else Count(DTYPES[noted.dtype], shape)


def _constants(checkpoint: Checkpoint, path: Path, open_files: ExitStack) -> dict[str, LazyTensor]:
    """Return what was set aside: of this file, or kept beside it when it was made."""
    if checkpoint.set_aside:
        return {one.name: one.tensor for one in checkpoint.set_aside}
    place = constants_path(path)
    if checkpoint.layout != "mlx" or checkpoint.record is None or not place.is_file():
        return {}
    kept = open_file(place)
    open_files.callback(kept.close)
    noted = {noted.name: noted for noted in checkpoint.record.set_aside}
    for name, tensor in kept.tensors.items():
        if name not in noted or (noted[name].dtype, noted[name].shape) != (tensor.dtype.name, tensor.shape):
            raise CheckpointError(
                f"{quoted(place)} holds {shown(name)!r}, which the conversion did not note so; remove the file"
            )
    return kept.tensors


def _record(checkpoint: Checkpoint, layout: Layout, lost: tuple[Noted, ...]) -> Record:
    config = checkpoint.config.model_dump(mode="json")
    assumed = {assumed.key: assumed.reason for assumed in checkpoint.inferred.assumed}
    return Record(checkpoint.head, layout, config, assumed, lost)


def require_suffix(layout: Layout, out: Path) -> None:
    """Require that a file's ending names a format of the layout, or raise `OutputError`."""
    if out.suffix not in SUFFIXES[layout]:
        raise OutputError(
            f"{quoted(out)} has no ending of a checkpoint for {layout}; allowed: {', '.join(SUFFIXES[layout])}"
        )


def require_free(checkpoint: Checkpoint, out: Path, constants: bool, force: bool) -> None:
    """Require that nothing but what may be replaced is where files are to stand, or raise `OutputError`."""
    outputs = [out, record_path(out), *([constants_path(out)] if constants else [])]
    for place in outputs:
        if any(file.same_as(place) for file in checkpoint.file.files):
            raise OutputError(f"{quoted(place)} is the checkpoint itself; choose another OUT")
        if place.is_dir():
            raise OutputError(f"{quoted(place)} is a folder; choose another OUT")
        if not force and (place.exists() or place.is_symlink()):
            raise OutputError(f"{quoted(place)} is there already; choose another OUT, or --force replaces it")


def require_room(out: Path, tensors: list[Tensor]) -> None:
    """Require that the disk has room for tensors, or raise `OutputError`."""
    needed = sum(map(byte_count, tensors))
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise OutputError(f"cannot write into {quoted(out.parent)}: {error.strerror}; choose another OUT") from None
    if needed > free:
        raise OutputError(f"{quoted(out)} takes {needed} bytes, and {free} are free; choose another disk")


def write_tensors(
    file: IO[bytes],
    suffix: str,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    ties: Mapping[str, str],
    on_tensor: Callable[[str], None],
) -> None:
    """Write tensors in the format that an ending names."""
    if suffix == ".npz":
        write_npz(file, tensors, on_tensor)
    elif suffix == ".safetensors":
        write_safetensors(file, tensors, _METADATA[layout], on_tensor)
    else:
        write_torch(file, tensors, ties, on_tensor)
