"""How kernels are compiled, and when what was compiled for an earlier process may be used.

The machine code is kept in `NUMBA_CACHE_DIR`, else beside the source, else in the user's cache folder, else not at all.
numba forgets what it has kept of a file if that file changes, and takes no notice of others whose constants and
functions went into the code. So a file of kernels states a hash of those, and a change of any has to change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba


def kernels_of(file: str, parts: Sequence[str], built_on: str) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator that compiles a kernel when it is first called, or takes what was kept of it.

    Where no folder can be written numba refuses to keep anything: the kernel is then compiled in every process.

    Args:
        file: The file of the kernels, `__file__`.
        parts: Names of the files of this folder whose constants and functions go into them.
        built_on: `hash_of` those, as it was when `file` was last changed.

    Raises:
        RuntimeError: They have changed since.
    """
    found = hash_of([Path(__file__).with_name(part) for part in parts])
    if found != built_on:
        raise RuntimeError(
            f"{Path(file).name} was written for other contents of {', '.join(parts)}: their hash is {found!r}, it says "
            f"{built_on!r}. Write {found!r} there, so that nothing compiled for the others is used"
        )

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
        except RuntimeError:
            return numba.njit(nogil=True, error_model="numpy")(function)

    return compiled


def hash_of(files: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits of SHA-256 over the contents of files, line ends apart."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"\n".join(file.read_bytes().splitlines()))
    return digest.hexdigest()[:16]
