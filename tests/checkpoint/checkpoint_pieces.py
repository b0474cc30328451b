"""Small and hollow checkpoint files: every format with random numbers, and full-size ones that take no room."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from parity.checkpoint.dtypes import DTYPES, Dtype
from parity.checkpoint.generate import FORMS, Form, generate
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM, POSITION_IDS, Head, Shape
from parity.checkpoint.opening import open_file
from parity.checkpoint.writers import _state_pickle, _storage_keys
from parity.spec.config import ModelConfig

ROOT: Final = Path(__file__).parents[2]
TINY_CHECKPOINT: Final = ROOT / "tests" / "data" / "tiny_composer.pt"

TINY: Final = ModelConfig(
    hidden_size=24,
    intermediate_size=96,
    vocab_size=40,
    num_hidden_layers=2,
    max_position_embeddings=16,
    long_conv_l_max=16,
    hyena_filter_order=12,
)
PEAK: Final = """
import resource, sys
from pathlib import Path
def peak():
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss, which on Linux begins at the size of the process that started this one.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
"""
"""Source of a function that returns the peak resident size of its process in bytes."""

HEADS: Final[tuple[Head, ...]] = (MASKED_LM, CLASSIFICATION)

FILE_NAMES: Final[Mapping[Form, str]] = {
    "composer": "epoch.pt",
    "plain": "state.pt",
    "legacy": "pytorch_model.bin",
    "safetensors": "model.safetensors",
    "npz": "model.npz",
    "shards": "model.safetensors.index.json",
}
assert set(FILE_NAMES) == set(FORMS)


def small_file(
    folder: Path,
    form: Form = "composer",
    head: Head = MASKED_LM,
    config: ModelConfig = TINY,
    dtype: str = "F32",
    constants: bool = False,
) -> Path:
    """Write a generated checkpoint of a small model; returns its path."""
    path = folder / FILE_NAMES[form]
    generate(path, head, config, form, seed=7, dtype=dtype, constants=constants)
    return path


def contents(path: Path) -> dict[str, tuple[Dtype, Shape, bytes]]:
    """Everything in a checkpoint by the file's own names."""
    file = open_file(path)
    found = {name: (one.dtype, one.shape, b"".join(one.chunks())) for name, one in file.tensors.items()}
    file.close()
    return found


def bare(found: Mapping[str, tuple[Dtype, Shape, bytes]]) -> dict[str, tuple[Dtype, Shape, bytes]]:
    """Contents of a Composer file under the names inside."""
    return {name.removeprefix("model."): value for name, value in found.items()}


class Hollow:
    """A tensor of a shape alone."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.shape = shape
        self.dtype = DTYPES["I64" if name.endswith(POSITION_IDS) else "F16" if "flashfft" in name else "F32"]
        self.nbytes = int(np.prod(shape, dtype=object)) * self.dtype.itemsize

    def chunks(self) -> list[bytes]:
        return []


def _counted(name: str, tensor: Hollow) -> bytes:
    """The numbers that are written even so: `position_ids` must be 0, 1, 2, ..."""
    return np.arange(tensor.shape[-1], dtype=np.int64).tobytes() if name.endswith(POSITION_IDS) else b""


def hollow_safetensors(path: Path, shapes: Mapping[str, Shape]) -> None:
    """Write a safetensors file of full length whose numbers are a hole."""
    place, header, tensors = 0, {}, {name: Hollow(name, shape) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype.name,
            "shape": tensor.shape,
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(_counted(name, tensor))
        file.truncate(8 + len(text) + place)


def hollow_composer(path: Path, shapes: Mapping[str, Shape], ties: Mapping[str, str], wide: bool = False) -> None:
    """Write a Composer file of full length whose numbers are a hole; `wide` with 64-bit sizes and places throughout."""
    tensors = {f"model.{name}": Hollow(name, shape) for name, shape in shapes.items()}
    tied = {f"model.{alias}": f"model.{name}" for alias, name in ties.items()}
    keys = _storage_keys(tensors, tied)
    pickled = _state_pickle(tensors, tied, keys, ("state", "model"), b"")
    members = [("e/data.pkl", len(pickled), pickled), ("e/byteorder", 6, b"little")]
    members += [(f"e/data/{key}", tensors[name].nbytes, _counted(name, tensors[name])) for name, key in keys.items()]
    directory = b""
    with path.open("wb") as file:
        for name, size, content in members:
            start = file.tell()
            file.write(_local_header(name, size) + content)
            file.seek(start + 30 + len(name) + size)
            directory += _entry(name, size, start, wide)
        start = file.tell()
        file.write(directory + _end(len(members), len(directory), start, wide))


def _local_header(name: str, size: int) -> bytes:
    small = min(size, 0xFFFFFFFF)
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, small, small, len(name), 0) + name.encode()


def _entry(name: str, size: int, start: int, wide: bool) -> bytes:
    extra = struct.pack("<2H3Q", 1, 24, size, size, start) if wide else b""
    size, start = (0xFFFFFFFF, 0xFFFFFFFF) if wide else (size, start)
    fields = (b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, size, size, len(name), len(extra), 0, 0, 0, 0, start)
    return struct.pack("<4s6H3L5H2L", *fields) + name.encode() + extra


def _end(count: int, size: int, start: int, wide: bool) -> bytes:
    if not wide:
        return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    return record + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
