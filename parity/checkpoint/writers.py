"""Writers of every format, tensor by tensor: what is in memory at any time is one piece of one tensor.

Source: as for the readers; torch's own reader takes the archives of `write_torch` (`tests/checkpoint`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import IO, Final

from parity.checkpoint.dtypes import Dtype
from parity.checkpoint.tensors import Tensor, in_order
from parity.errors import CheckpointError

OnTensor = Callable[[str], None]

ALIGNMENT: Final = 64
"""Bytes to which numbers are aligned, as torch.save and numpy do it."""

_UNSAFE: Final = frozenset({"C128"})
"""Kinds of numbers for which safetensors has no name."""

_LOCAL_HEADER: Final = 30
_ARCHIVE: Final = "archive"


def byte_count(tensor: Tensor) -> int:
    """Return how many bytes the numbers of a tensor take."""
    return prod(tensor.shape) * tensor.dtype.itemsize


def write_safetensors(
    file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], on_tensor: OnTensor
) -> None:
    """Write a safetensors file: wide kinds first, so that every tensor is aligned to its own width.

    Raises:
        CheckpointError: The format has no name for a kind of numbers.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype.name in _UNSAFE:
            raise CheckpointError(f"{name} is {tensor.dtype.torch}, for which safetensors has no name; choose .pt")
        end = place + byte_count(tensor)
        header[name] = {"dtype": tensor.dtype.name, "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        _copy(file, tensors[name])
        on_tensor(name)


def write_npz(file: IO[bytes], tensors: Mapping[str, Tensor], on_tensor: OnTensor) -> None:
    """Write an archive as numpy.savez does; bfloat16 is two bytes without a meaning, as mlx.core.savez writes it.

    Raises:
        CheckpointError: NumPy has no name for a kind of numbers.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, tensor in tensors.items():
            if not tensor.dtype.npy:
                raise CheckpointError(f"{name} is {tensor.dtype.torch}, which npz cannot hold; choose .safetensors")
            header = _npy_header(tensor.dtype, tensor.shape)
            with _member(archive, f"{name}.npy", len(header) + byte_count(tensor)) as member:
                member.write(header)
                _copy(member, tensor)
            on_tensor(name)


def write_torch(
    file: IO[bytes],
    tensors: Mapping[str, Tensor],
    ties: Mapping[str, str],
    on_tensor: OnTensor,
    wrapping: tuple[str, ...] = (),
) -> None:
    """Write what torch.save of a state dict writes, in the zip format.

    Args:
        file: Where to.
        tensors: By name.
        ties: Every alias, with the name whose storage it shares.
        on_tensor: Called after each tensor.
        wrapping: Keys under which the state dict lies; ("state", "model") for Composer.
    """
    keys = _storage_keys(tensors, ties)
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (
            ("data.pkl", _state_pickle(tensors, ties, keys, wrapping, view=b"")),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            with _member(archive, f"{_ARCHIVE}/{name}", len(text)) as member:
                member.write(text)
        for name, tensor in tensors.items():
            if name in keys:
                with _member(archive, f"{_ARCHIVE}/data/{keys[name]}", byte_count(tensor)) as member:
                    _copy(member, tensor)
            on_tensor(name)


def write_torch_legacy(
    file: IO[bytes],
    tensors: Mapping[str, Tensor],
    ties: Mapping[str, str],
    on_tensor: OnTensor,
    wrapping: tuple[str, ...] = (),
) -> None:
    """Write what torch.save wrote before PyTorch 1.6: pickles, then the storages. Arguments as `write_torch`."""
    keys = _storage_keys(tensors, ties)
    system = b"}" + _text("protocol_version") + _integer(1001) + b"s" + _text("little_endian") + b"\x88s"
    file.write(_pickled(_integer(0x1950A86A20F9469CFC6C)) + _pickled(_integer(1001)) + _pickled(system))
    file.write(_state_pickle(tensors, ties, keys, wrapping, view=b"N"))
    file.write(_pickled(b"](" + b"".join(map(_text, keys.values())) + b"e"))
    for name, tensor in tensors.items():
        if name in keys:
            file.write(_stored_count(tensor).to_bytes(8, "little"))
            _copy(file, tensor)
        on_tensor(name)


def _storage_keys(tensors: Mapping[str, Tensor], ties: Mapping[str, str]) -> dict[str, str]:
    """Return the key of every name that has a storage of its own."""
    owners = [name for name in tensors if ties.get(name) not in tensors]
    return {name: str(number) for number, name in enumerate(owners)}


def _stored_count(tensor: Tensor) -> int:
    """Return how many numbers a storage counts: bytes, where torch has no class of storages for the kind."""
    return prod(tensor.shape) if tensor.dtype.storage else byte_count(tensor)


def _state_pickle(
    tensors: Mapping[str, Tensor],
    ties: Mapping[str, str],
    keys: Mapping[str, str],
    wrapping: Iterable[str],
    view: bytes,
) -> bytes:
    """Return the pickle of a state dict, opcode by opcode; `view` is what follows a storage's count in its id."""
    entries = b"".join(
        _text(name) + _tensor(tensor, keys.get(name) or keys[ties[name]], view) for name, tensor in tensors.items()
    )
    inner = _NEW_ORDERED_DICT + b"(" + entries + b"u"
    for key in reversed(tuple(wrapping)):
        inner = b"}" + _text(key) + inner + b"s"
    return _pickled(inner)


def _tensor(tensor: Tensor, key: str, view: bytes) -> bytes:
    dtype = tensor.dtype
    kind = _name("torch", dtype.storage) if dtype.storage else _name("torch.storage", "UntypedStorage")
    place = b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _integer(_stored_count(tensor)) + view + b"tQ"
    window = _integer(0) + _lengths(tensor.shape) + _lengths(in_order(tensor.shape)) + b"\x89" + _NEW_ORDERED_DICT
    if dtype.storage:
        return _name("torch._utils", "_rebuild_tensor_v2") + b"(" + place + window + b"tR"
    return _name("torch._utils", "_rebuild_tensor_v3") + b"(" + place + window + _name("torch", dtype.torch) + b"tR"


def _pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


_NEW_ORDERED_DICT: Final = _name("collections", "OrderedDict") + b")R"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + value.to_bytes(4, "little")
    size = value.bit_length() // 8 + 1  # with a bit for the sign
    return b"\x8a" + size.to_bytes(1) + value.to_bytes(size, "little")


def _lengths(lengths: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_integer, lengths)) + b"t"


def _npy_header(dtype: Dtype, shape: tuple[int, ...]) -> bytes:
    order = "|" if dtype.itemsize == 1 else "<"
    text = f"{{'descr': '{order}{dtype.npy}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padded = text + b" " * (-(10 + len(text) + 1) % ALIGNMENT) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def _member(archive: zipfile.ZipFile, name: str, size: int) -> IO[bytes]:
    """Open a member of a known size for writing, its bytes aligned in the archive."""
    info = zipfile.ZipInfo(name)  # of 1980, so that the same numbers give the same file
    info.file_size = size
    wide = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0
    start = archive.start_dir + _LOCAL_HEADER + len(name.encode()) + wide
    padding = -(start + 4) % ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    return archive.open(info, "w", force_zip64=bool(wide))


def _copy(file: IO[bytes], tensor: Tensor) -> None:
    for chunk in tensor.chunks():
        file.write(chunk)
