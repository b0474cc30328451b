"""Which code is at hand: a hash over the project's packages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Final

PACKAGES: Final = ("parity", "reference_torch", "mlx_impl")
WITHOUT_PORT: Final = ("parity", "reference_torch")
"""What predictions of the reference follow from: they know no port."""
SUFFIXES: Final = frozenset({".py", ".json", ".jinja", ".js", ".css", ".csv", ".inc"})
"""Of the files that a run reads; what editors and desktops leave beside them changes nothing."""


def code_hash(packages: Sequence[str] = PACKAGES) -> str:
    """Return 16 hexadecimal digits of SHA-256 over every file of the project's packages that a run reads."""
    digest = hashlib.sha256()
    for package in packages:
        for name, file in _files(resources.files(package), package):
            content = file.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _files(folder: Traversable, name: str) -> Iterator[tuple[str, Traversable]]:
    shown = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in sorted(shown, key=lambda entry: entry.name):
        place = f"{name}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _files(entry, place)
        elif entry.is_file() and PurePath(entry.name).suffix in SUFFIXES:
            yield place, entry
