"""Bundles in the folder of a report: each is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from parity.errors import OutputError
from parity.replay.bundle import SUFFIX

BUNDLES: Final = "bundles"
"""Folder of the bundles inside a report's."""


def write_bundle(folder: Path, name: str, data: bytes) -> Path:
    """Put the bundle `name` into `folder`, which is made; written beside its place and then renamed.

    Raises:
        OutputError: It cannot be written.
    """
    staged = folder / f".parity-{os.getpid()}-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with staged.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return staged.replace(folder / name)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"bundle {name!r} cannot be written in {str(folder)!r}: {error.strerror or error}") from None


def remove_bundles(report: Path) -> None:
    """Take the bundles of the report in folder `report` away, and their folder if nothing else is in it.

    Raises:
        OSError: One cannot be removed.
    """
    folder = report / BUNDLES
    if not folder.is_dir():
        return
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
