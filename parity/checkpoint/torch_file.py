"""Files of torch.save, both formats, and the state dict inside them.

Source: torch/serialization.py, `_save` and `_legacy_save`; torch/csrc/jit/serialization, names of an archive's members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parity.checkpoint.archive import Member
from parity.checkpoint.pickled import Entries, Opaque, PickledTensor, Stream, read_pickle, read_pickle_and_storages
from parity.checkpoint.tensors import File, LazyTensor, shown
from parity.errors import CheckpointError

MAX_PICKLE: Final = 2**26
"""Bytes of a pickle: the model of 720 tensors takes 100,000 of them."""

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001

WRAPPINGS: Final[Mapping[tuple[str, ...], str]] = {
    ("state", "model"): "Composer",
    ("state_dict",): "wrapped in state_dict",
    ("model_state_dict",): "wrapped in model_state_dict",
    ("model",): "wrapped in model",
    ("module",): "wrapped in module",
}
"""Where training programs put the state dict in what they save."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of one file under its own names, and what the file wraps them in ("plain" if nothing)."""

    tensors: dict[str, LazyTensor]
    wrapping: str


@dataclass(frozen=True)
class _Place:
    offset: int
    size: int


def read_zip(file: File, members: Mapping[str, Member]) -> StateDict:
    """Return the state dict of an archive that torch.save wrote.

    Raises:
        CheckpointError: It is of torch.jit.save, of a big-endian machine, broken, or holds no state dict.
    """
    pickle_name = _pickle_name(members)
    folder = pickle_name.removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order is not None and file.read(order.offset, min(order.size, 16)) != b"little":
        raise CheckpointError("was written on a machine of another byte order")
    member = members[pickle_name]
    if member.size > MAX_PICKLE:
        raise CheckpointError(f"the pickle has {member.size} bytes; {MAX_PICKLE} are allowed")
    found = read_pickle(Stream(file, member.offset, member.offset + member.size))
    places = {
        name.removeprefix(f"{folder}data/"): _Place(member.offset, member.size)
        for name, member in members.items()
        if name.startswith(f"{folder}data/")
    }
    return _state_dict(file, found, places)


def _pickle_name(members: Mapping[str, Member]) -> str:
    names = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in members):
        raise CheckpointError("is a TorchScript archive, which holds code: save its state_dict() with torch.save")
    if len(names) != 1:
        raise CheckpointError(f"is a ZIP archive of neither torch.save nor numpy.savez: {len(names)} members data.pkl")
    return names[0]


def read_legacy(file: File) -> StateDict:
    """Return the state dict of a file in the format before PyTorch 1.6: pickles, then the storages one after another.

    Raises:
        CheckpointError: It is no such file, broken, cut, or holds no state dict.
    """
    stream = Stream(file, 0, min(file.size, MAX_PICKLE))
    if read_pickle(stream) != _MAGIC:
        raise CheckpointError(
            "is a pickle that torch.save did not write; only tensors can be read, save a state dict with torch.save"
        )
    protocol, system = read_pickle(stream), read_pickle(stream)
    little = isinstance(system, Entries) and system.get("little_endian", True)
    if protocol != _LEGACY_PROTOCOL or little is not True:
        raise CheckpointError("was written by an unknown protocol, or on a machine of another byte order")
    found, item_sizes = read_pickle_and_storages(stream)
    keys = read_pickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise CheckpointError("its list of storages is broken")
    return _state_dict(file, found, _legacy_places(file, stream.tell(), keys, item_sizes))


def _legacy_places(file: File, offset: int, keys: list[str], item_sizes: Mapping[str, int]) -> dict[str, _Place]:
    places = {}
    for key in keys:
        if key not in item_sizes:
            raise CheckpointError(f"nothing says what the numbers of storage {shown(key)!r} are")
        count = int.from_bytes(file.read(offset, 8), "little")
        size = count * item_sizes[key]
        offset += 8
        if offset + size > file.size:
            raise CheckpointError(
                f"storage {shown(key)!r} declares {count} numbers, more than the file has: truncated?"
            )
        places[key] = _Place(offset, size)
        offset += size
    if offset != file.size:
        raise CheckpointError(f"{file.size - offset} bytes follow the last storage")
    return places


def _state_dict(file: File, found: Any, places: Mapping[str, _Place]) -> StateDict:
    entries, wrapping = _unwrapped(found)
    if entries.others:
        raise CheckpointError(f"{entries.others} entries of the state dict have a key that is no text")
    tensors = {}
    for name, value in entries.items():
        if not isinstance(value, PickledTensor):
            named = "a table" if isinstance(value, Entries) else type(value).__name__
            what = value.name if isinstance(value, Opaque) else named
            raise CheckpointError(f"{shown(name)!r} of the state dict is no tensor that can be read, but {what}")
        tensors[name] = _placed(file, shown(name), value, places)
    return StateDict(tensors, wrapping)


def _unwrapped(found: Any) -> tuple[Entries, str]:
    for path, wrapping in WRAPPINGS.items():
        inner = found
        for key in path:
            inner = inner.get(key) if isinstance(inner, Entries) else None
        if isinstance(inner, Entries):
            return inner, wrapping
    if not isinstance(found, Entries):
        what = f"a {found.name}" if isinstance(found, Opaque) else f"a {type(found).__name__}"
        raise CheckpointError(f"holds {what}, no state dict; save model.state_dict() with torch.save")
    return found, "plain"


def _placed(file: File, name: str, tensor: PickledTensor, places: Mapping[str, _Place]) -> LazyTensor:
    storage, dtype = tensor.storage, tensor.dtype
    place = places.get(storage.key)
    if place is None:
        raise CheckpointError(f"the numbers of {name!r} are missing: storage {shown(storage.key)!r}")
    declared = (storage.start + storage.count) * (1 if storage.dtype is None else storage.dtype.itemsize)
    if declared > place.size or (storage.start == 0 and declared != place.size):
        raise CheckpointError(f"the storage of {name!r} declares {declared} bytes and has {place.size}")
    made = LazyTensor(dtype, tensor.shape, tensor.strides, file, place.offset + tensor.offset * dtype.itemsize)
    span = 1 + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=True))
    if made.size and (tensor.offset + span) * dtype.itemsize > place.size:
        raise CheckpointError(f"{name!r} of shape {tensor.shape} reaches beyond its storage of {place.size} bytes")
    if made.nbytes > place.size:
        raise CheckpointError(
            f"{name!r} of shape {tensor.shape} has more numbers than its storage of {place.size} bytes"
        )
    return made
