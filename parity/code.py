"""Which code is at hand: hashes over the project's packages, and over the files beside somebody's own pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

PACKAGES: Final = ("parity", "reference_torch", "mlx_impl")


def code_hash() -> str:
    """Return 16 hexadecimal digits of SHA-256 over every file of the project's packages, by name and content."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for name, file in _files(resources.files(package), package):
            content = file.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def folder_hash(folder: Path) -> str:
    """Return the same digits over the Python files of a folder, those of somebody's own pairs and models."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _files(folder: Traversable, name: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        place = f"{name}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _files(entry, place)
        elif entry.is_file():
            yield place, entry
