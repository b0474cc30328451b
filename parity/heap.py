"""Keeps memory that was freed in the process, for the next tensor of its size.

glibc returns a freed block above some megabytes to the system, and every page of the next one is a fault again, which
the system answers with a page of zeros. Small blocks are kept, so that time grows faster than the number of elements.

Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; figures in docs/speed.md.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
LARGEST_KEPT: Final = (1 << 30, 1 << 25)
"""Bytes of a block up to which it comes from memory that is kept: what older versions take is the second."""
NEVER: Final = -1
"""Threshold of free memory that is returned to the system: none is."""


def keep_freed_memory() -> bool:
    """Have this process keep what it frees from now on, and return whether it does: glibc alone can be told so."""
    set_option = _of_glibc("mallopt")
    if set_option is None:
        return False
    taken = any(set_option(_MMAP_THRESHOLD, size) for size in LARGEST_KEPT)
    return taken and bool(set_option(_TRIM_THRESHOLD, NEVER))


def return_freed_memory() -> None:
    """Return what is free by now to the system, kept or not, where glibc can be told so: malloc_trim(3)."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
