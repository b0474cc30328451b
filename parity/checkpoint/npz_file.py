"""Archives of numpy.savez and mlx.core.savez, without their objects, which would be pickles.

Source: numpy/lib/format.py, versions 1.0 to 3.0 of the .npy format.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, Final

from parity.checkpoint.archive import Member
from parity.checkpoint.dtypes import BY_NPY, Dtype
from parity.checkpoint.tensors import File, LazyTensor, checked_shape, in_order, shown
from parity.errors import CheckpointError

MAX_HEADER: Final = 10_000
"""Bytes of an .npy header, as numpy.load allows them: a header is parsed as Python, which long ones can overwhelm."""

_SUFFIX: Final = ".npy"


def read_npz(file: File, members: Mapping[str, Member]) -> dict[str, LazyTensor]:
    """Return the arrays of an archive whose members all are .npy, by name without that ending.

    Raises:
        CheckpointError: A header is broken, an array is of objects or of another byte order, or a size does not fit.
    """
    return {name.removesuffix(_SUFFIX): _array(file, member) for name, member in members.items()}


def _array(file: File, member: Member) -> LazyTensor:
    start, header = _header(file, member)
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise CheckpointError(f"the header of {member.name!r} has not the keys descr, fortran_order and shape")
    dtype = _dtype(member.name, header["descr"])
    shape = checked_shape(header["shape"])
    strides = in_order(shape[::-1])[::-1] if header["fortran_order"] is True else in_order(shape)
    tensor = LazyTensor(dtype, shape, strides, file, start)
    if tensor.nbytes != member.offset + member.size - start:
        rest = member.offset + member.size - start
        raise CheckpointError(f"{member.name!r} of shape {shape} takes {tensor.nbytes} bytes, and has {rest}")
    return tensor


def _header(file: File, member: Member) -> tuple[int, Any]:
    """Return where the numbers start, and the header."""
    head = file.read(member.offset, min(member.size, 12))
    version = head[6:8]
    if head[:6] != b"\x93NUMPY" or version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00") or len(head) < 12:
        raise CheckpointError(f"member {member.name!r} is no .npy array of version 1 to 3")
    prefix = 10 if version == b"\x01\x00" else 12
    length = int.from_bytes(head[8:prefix], "little")
    if length > MAX_HEADER or prefix + length > member.size:
        raise CheckpointError(f"member {member.name!r} declares a header of {length} bytes; {MAX_HEADER} are allowed")
    text = file.read(member.offset + prefix, length)
    try:
        header = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"the header of {member.name!r} cannot be read: {shown(error)}") from None
    return member.offset + prefix + length, header


def _dtype(name: str, description: Any) -> Dtype:
    if not isinstance(description, str) or description[:1] not in "<|=" or description[1:] not in BY_NPY:
        if isinstance(description, str) and "O" in description:
            raise CheckpointError(f"member {name!r} holds objects, which only a pickle can restore: refused")
        raise CheckpointError(f"member {name!r} is of kind {shown(description)}; known, all '<': {', '.join(BY_NPY)}")
    return BY_NPY[description[1:]]
