"""The header of a safetensors file, checked.

Source: the format's description in huggingface/safetensors, README.md: eight bytes with the length of the header, the
header in JSON, then the tensors without gaps.
"""

from __future__ import annotations

from typing import Any, Final

from parity.checkpoint.dtypes import DTYPES
from parity.checkpoint.json_file import read_object
from parity.checkpoint.tensors import File, LazyTensor, checked_shape, in_order, shown
from parity.errors import CheckpointError

MAX_HEADER: Final = 2**22
"""Bytes of a header: 25,000 tensors. JSON of a few million empty lists takes twenty times its own size in memory."""


def read_safetensors(file: File) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file by name, in the order of its header.

    Raises:
        CheckpointError: The header is too long, no JSON, or describes tensors that overlap, leave gaps, do not fit.
    """
    length = int.from_bytes(file.read(0, 8), "little")
    if length > file.size - 8:
        raise CheckpointError(f"declares a header of {length} bytes, more than the file has: truncated?")
    if length > MAX_HEADER:
        raise CheckpointError(f"declares a header of {length} bytes; {MAX_HEADER} are allowed")
    header = read_object(file.read(8, length), "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ of the header is no table of texts")
    start = 8 + length
    places = {name: _checked(shown(name), entry) for name, entry in header.items()}
    _require_cover(places, file.size - start)
    return {
        name: LazyTensor(dtype, shape, in_order(shape), file, start + begin)
        for name, (dtype, shape, begin, _) in places.items()
    }


def _checked(name: str, entry: Any) -> tuple[Any, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{name!r} of the header has not the keys dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(f"{name!r} is of dtype {shown(entry['dtype'])}; known: {', '.join(DTYPES)}")
    shape, offsets = checked_shape(entry["shape"]), checked_shape(entry["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"data_offsets of {name!r} are no beginning and end: {offsets}")
    size = dtype.itemsize
    for length in shape:
        size *= length
    if offsets[1] - offsets[0] != size:
        raise CheckpointError(f"{name!r} of shape {shape} takes {size} bytes, and has {offsets[1] - offsets[0]}")
    return dtype, shape, *offsets


def _require_cover(places: dict[str, tuple[Any, tuple[int, ...], int, int]], size: int) -> None:
    """Require that the tensors follow each other without gaps, to the end of the file."""
    reached, last = 0, "the header"
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin < reached:
            raise CheckpointError(f"{shown(name)!r} overlaps {shown(last)!r}")
        if begin > reached:
            raise CheckpointError(
                f"{begin - reached} bytes between {shown(last)!r} and {shown(name)!r} are no tensor's"
            )
        reached, last = end, name
    if reached > size:
        raise CheckpointError(f"{shown(last)!r} ends {reached - size} bytes behind the end of the file: truncated?")
    if reached < size:
        raise CheckpointError(f"{size - reached} bytes follow the last tensor")
