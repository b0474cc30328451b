"""A file that is read by position, and tensors that are read from it when they are asked for.

Files are never mapped: one that shrinks under a map kills the process, one that is read gives an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from parity.checkpoint.dtypes import Dtype
from parity.errors import CheckpointError
from parity.plain import one_line
from parity.spec.arrays import AnyArray

CHUNK: Final = 2**22
"""Bytes that are read at once."""

MAX_RANK: Final = 32
"""Axes of a tensor; NumPy's own limit was 32 for long, and no checkpoint comes near."""


LONGEST_SHOWN: Final = 200
"""Characters of a name that a message shows."""


class Tensor(Protocol):
    """What a writer needs: a kind of numbers, a shape, and the bytes in order, some at a time."""

    @property
    def dtype(self) -> Dtype:
        """The kind of numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    def chunks(self) -> Iterator[bytes]:
        """The numbers, little-endian, last axis fastest."""


class File:
    """A regular file, open for reading by position; whatever else a path leads to is refused.

    Raises:
        CheckpointError: There is none, it cannot be opened, or it is a folder, a pipe or a device.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Without blocking, since a pipe that nobody writes to would never open.
            self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
        found = os.fstat(self._number)
        self.size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            self.close()
            kind = "a folder: name a file in it" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise CheckpointError(f"is {kind}")

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    def same_as(self, path: Path) -> bool:
        """Whether `path` leads to this very file."""
        try:
            return os.path.samestat(os.fstat(self._number), path.stat())
        except OSError:
            return False

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on.

        Raises:
            CheckpointError: The file ends before, or cannot be read.
        """
        parts, end = [], offset + count
        while offset < end:
            try:
                part = os.pread(self._number, end - offset, offset)
            except (OSError, OverflowError) as error:
                raise CheckpointError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
            if not part:
                raise CheckpointError(f"ends at byte {offset}, where {end - offset} more were expected: truncated?")
            parts.append(part)
            offset += len(part)
        return b"".join(parts)


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor in a file: its numbers are read when they are asked for, and not kept.

    Attributes:
        dtype: Kind of its numbers.
        shape: Lengths of its axes.
        strides: Steps between neighbours along each axis, in numbers.
        file: Where it lies.
        offset: Byte of its first number.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    file: File
    offset: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize

    def swapped(self) -> LazyTensor:
        """Return the tensor with its last two axes exchanged; nothing is read."""
        return replace(
            self,
            shape=(*self.shape[:-2], *self.shape[:-3:-1]),
            strides=(*self.strides[:-2], *self.strides[:-3:-1]),
        )

    def bits(self) -> AnyArray:
        """Read the tensor; returns its bits as unsigned integers, an array of its own.

        Raises:
            CheckpointError: The file was cut short meanwhile.
        """
        if not self.size:
            return np.empty(self.shape, self.dtype.bits)
        span = 1 + sum((length - 1) * step for length, step in zip(self.shape, self.strides, strict=True))
        whole = np.empty(span, self.dtype.bits)
        into = whole.view(np.uint8)
        place = 0
        for chunk in self._parts(span * self.dtype.itemsize):
            into[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)
            place += len(chunk)
        if _in_order(self.shape, self.strides):
            return whole.reshape(self.shape)
        steps = tuple(step * self.dtype.itemsize for step in self.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(whole, self.shape, steps)).reshape(self.shape)

    def numpy(self) -> AnyArray:
        """Read the tensor; returns its values, bfloat16 as `ml_dtypes.bfloat16`, in an array of its own."""
        return self.bits().view(self.dtype.values)

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes in order, at most `CHUNK` at a time where they lie so in the file."""
        if _in_order(self.shape, self.strides):
            yield from self._parts(self.nbytes)
        else:
            yield self.bits().tobytes()

    def at_same_place(self, other: LazyTensor) -> bool:
        """Whether both are the very same bytes of the same file."""
        return (self.file, self.offset, self.strides, self.shape, self.dtype) == (
            other.file,
            other.offset,
            other.strides,
            other.shape,
            other.dtype,
        )

    def _parts(self, count: int) -> Iterator[bytes]:
        for start in range(0, count, CHUNK):
            yield self.file.read(self.offset + start, min(CHUNK, count - start))


def shown(text: object) -> str:
    """Return a text of a file as a message shows it: on one line, and short however long it is."""
    whole = str(text)
    return one_line(whole[:LONGEST_SHOWN]) + ("..." if len(whole) > LONGEST_SHOWN else "")


def quoted(path: Path) -> str:
    """Return a path as a message names it."""
    return f"'{one_line(path)}'"


def checked_shape(shape: object) -> tuple[int, ...]:
    """Return a declared shape if it is one.

    Raises:
        CheckpointError: It is no list of a few integers that are not negative.
    """
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK:
        raise CheckpointError(f"a shape is a list of at most {MAX_RANK} lengths; got {_shown(shape)}")
    for length in shape:
        if type(length) is not int or not 0 <= length < 2**63:
            raise CheckpointError(f"a length is an integer from 0 on; got {_shown(length)} in a shape")
    return tuple(shape)


def in_order(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor whose last axis is fastest."""
    strides = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def _in_order(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the numbers lie one after another; the step along an axis of one is never taken."""
    return all(
        length == 1 or step == wanted for length, step, wanted in zip(shape, strides, in_order(shape), strict=True)
    )


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:  # Python refuses to spell out very long ones
        return f"an integer of {value.bit_length()} bits"
    return type(value).__name__ if isinstance(value, list | tuple | dict) else f"{value!r:.40}"
