"""What a conversion notes beside its output: the configuration, where each value is from, and what was set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.checkpoint.dtypes import DTYPES
from parity.checkpoint.json_file import read_object
from parity.checkpoint.tensors import File, checked_shape, quoted, shown
from parity.errors import CheckpointError
from parity.plain import json_text

MARK: Final = "parity_checkpoint"
VERSION: Final = 1
MAX_RECORD: Final = 2**22


@dataclass(frozen=True)
class Noted:
    """A tensor that was set aside."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Record:
    """The file beside a converted checkpoint.

    Attributes:
        head: The model's class.
        layout: "mlx" or "torch".
        config: The whole configuration.
        assumed: Keys that no name or shape tells, with the reason.
        set_aside: What was not carried over.
    """

    head: str
    layout: str
    config: Mapping[str, Any]
    assumed: Mapping[str, str]
    set_aside: tuple[Noted, ...]

    def text(self) -> str:
        """Return it as JSON."""
        return json_text(
            {
                MARK: VERSION,
                "head": self.head,
                "layout": self.layout,
                "config": dict(self.config),
                "assumed": dict(self.assumed),
                "set_aside": [
                    {"name": noted.name, "dtype": noted.dtype, "shape": list(noted.shape), "reason": noted.reason}
                    for noted in self.set_aside
                ],
            }
        )


def record_path(path: Path) -> Path:
    """Return where the record of a checkpoint stands: the same name, ending in .json."""
    return path.with_suffix(".json")


def constants_path(path: Path) -> Path:
    """Return where the constants of a checkpoint stand if they were kept: the same name, in .constants.safetensors."""
    return path.with_suffix(".constants.safetensors")


def read_record(path: Path) -> Record | None:
    """Return the record beside a checkpoint, or None where there is none; other people's JSON is none.

    Raises:
        CheckpointError: There is one, of another version or broken.
    """
    place = record_path(path)
    if place == path or not place.is_file():
        return None
    file = File(place)
    try:
        if file.size > MAX_RECORD:
            return None
        data = file.read(0, file.size)
    finally:
        file.close()
    if f'"{MARK}"'.encode() not in data:
        return None
    try:
        return _record(read_object(data, "it"))
    except CheckpointError as error:
        raise CheckpointError(f"has a broken record beside it, {quoted(place)}: {error}") from None


def read_configuration(path: Path) -> dict[str, Any]:
    """Return the keys of a published configuration, whatever they are.

    Raises:
        CheckpointError: It cannot be read, is no JSON object, or is very large.
    """
    try:
        file = File(path)
        try:
            if file.size > MAX_RECORD:
                raise CheckpointError(f"has {file.size} bytes; a configuration has at most {MAX_RECORD}")
            found = read_object(file.read(0, file.size), "it")
        finally:
            file.close()
    except CheckpointError as error:
        raise CheckpointError(f"configuration {quoted(path)} {error}") from None
    config = found.get("config")
    return config if isinstance(config, dict) and MARK in found else found


def _record(found: dict[str, Any]) -> Record:
    if found.get(MARK) != VERSION:
        raise CheckpointError(f"version {shown(found.get(MARK))} is unknown; this is version {VERSION}")
    config, assumed, aside = found.get("config"), found.get("assumed"), found.get("set_aside")
    if not isinstance(config, dict) or not isinstance(assumed, dict) or not isinstance(aside, list):
        raise CheckpointError("config, assumed and set_aside must be tables and a list")
    noted = tuple(map(_noted, aside))
    return Record(str(found.get("head")), str(found.get("layout")), config, assumed, noted)


def _noted(entry: Any) -> Noted:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.get("dtype") not in DTYPES:
        raise CheckpointError("an entry of set_aside has no name or no known dtype")
    return Noted(entry["name"], entry["dtype"], checked_shape(entry.get("shape")), shown(entry.get("reason")))
