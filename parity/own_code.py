"""Hashes of somebody's own code: of every file whose change can change what a pair of theirs computes.

For every target: all Python files beneath its folder, and the files of all modules outside of it that were imported
while the targets of a run were loaded, or that they and what they import name in an import statement, as one inside of
a function that is called later. The interpreter's library and installed packages are left out, since the versions of
packages are kept elsewhere, and so is this project's own code, which has a hash of its own.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final

from parity.code import PACKAGES
from parity.errors import TargetError
from parity.targets import imported_by, source_file

MOST_FILES: Final = 20_000
"""Python files beneath the folder of a target; beyond, somebody's whole disk would be read before every run."""

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_SKIPPED: Final = _INSTALLED | {"__pycache__", "node_modules"}


def own_code(targets: Sequence[str]) -> dict[str, str]:
    """Return 16 hexadecimal digits of SHA-256 by target; all targets of a run together, since they share modules.

    Args:
        targets: Own targets that have been loaded.

    Raises:
        TargetError: A file cannot be read, or a folder holds too many.
    """
    modules = _modules(targets)
    return {target: _hash(target, modules) for target in targets}


def _hash(target: str, modules: dict[str, Path]) -> str:
    file = source_file(target)
    files = {path.relative_to(file.parent).as_posix(): path for path in _beneath(file.parent, target)}
    inside = set(files.values())
    files |= {f"import {name}": path for name, path in modules.items() if path not in inside}
    digest = hashlib.sha256()
    for name in sorted(files):
        content = _read(files[name])
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _beneath(folder: Path, target: str) -> list[Path]:
    """Return the Python files beneath a folder; of a folder of installed packages, those in it alone."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        below = Path(place)
        folders[:] = [] if below.name in _INSTALLED else sorted(name for name in folders if _walked(below / name))
        found += [below / name for name in names if name.endswith(".py") and not name.startswith(".")]
        if len(found) > MOST_FILES:
            raise TargetError(
                f"the folder of target {target!r}, {str(folder)!r}, holds more than {MOST_FILES} Python files; a run "
                "is told from one of other code by all of them: put the target into a folder of its own"
            )
    return [path for path in found if path.is_file()]


def _walked(folder: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name in _SKIPPED
    return not hidden and not (folder / "pyvenv.cfg").exists()


def _modules(targets: Sequence[str]) -> dict[str, Path]:
    """Return the files of the modules that the targets import, by name; not theirs, which lie in their folders."""
    theirs = {source_file(target) for target in targets}
    found: dict[str, Path] = {}
    waiting: list[tuple[str, Path]] = []
    for name in dict.fromkeys(name for target in targets for name in imported_by(target)):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            waiting.append((name, Path(file).resolve()))
    while waiting:
        name, path = waiting.pop()
        if name in found or not _is_own(name, path):
            continue
        found[name] = path
        waiting += [place for each in _named(name, path) for place in _located(each)]
    return {name: path for name, path in found.items() if path not in theirs}


def _is_own(name: str, path: Path) -> bool:
    if name.partition(".")[0] in PACKAGES or not path.is_file() or _INSTALLED & set(path.parts):
        return False
    paths = sysconfig.get_paths()
    library = (Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    return not any(path.is_relative_to(folder) for folder in library)


def _named(module: str, path: Path) -> Iterator[str]:
    """Yield the names in the import statements of a file, wherever they stand; `from a import b` may mean `a.b`."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(_read(path))
    except (SyntaxError, ValueError):  # its content counts, though nothing can be imported by it
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module or ""]))
            yield from (f"{base}.{alias.name}" for alias in node.names if base)


def _located(name: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of a dotted name and of the packages that it lies in, as far as they are found; none is run."""
    path: Sequence[str] | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:end]), path)
        if spec is None:
            return
        if spec.has_location and spec.origin is not None:
            yield spec.name, Path(spec.origin).resolve()
            if not _is_own(spec.name, Path(spec.origin).resolve()):
                return
        path = spec.submodule_search_locations
        if path is None:
            return


def _spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Ask the finders as an import would, but not `sys.modules`: what others have imported makes no difference."""
    specs = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TargetError(f"source file {str(path)!r} cannot be read: {error.strerror or error}") from None
