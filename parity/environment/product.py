"""Which library multiplied: the bits of MLX's own product against those of every `sgemm_` in the process.

The linker's answer (`linkage.mlx_blas`) is where a name would be looked up now; MLX may have bound it before. Two
libraries add 512 products in different orders, so the bits of one product tell them apart.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from parity.environment.linkage import describe_library, provider, vendor_of
from parity.spec.arrays import AnyArray

_TERMS: Final = 512
_ROWS: Final = 48
_SEED: Final = 20_261_122
_SAME: Final = 0.9
"""Share of equal numbers from which two products are one library's: where operands lie in memory may change a few,
another order of summation more than half."""


def blas_in_effect() -> str:
    """Return the library whose product is MLX's, as `linkage.describe_library` labels it.

    "Accelerate" on macOS. "unknown" where no library in the process gives the same bits, or several do.
    """
    if platform.system() == "Darwin":
        return "Accelerate"
    rng = np.random.Generator(np.random.Philox(_SEED))
    x, y = (rng.standard_normal(shape, np.float32) for shape in ((_ROWS, _TERMS), (_TERMS, _ROWS)))
    with mx.stream(mx.cpu):
        made = np.array(mx.array(x) @ mx.array(y))
    same = [path for path in _candidates() if np.mean(_product(path, x, y) == made) > _SAME]
    return describe_library(same[0], vendor_of(same[0])) if len(same) == 1 else "unknown"


def _candidates() -> list[Path]:
    """Every library of the process that exports `sgemm_` itself."""
    found: dict[Path, None] = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        path = Path(fields[5]) if len(fields) == 6 and ".so" in fields[5] else None
        if path is not None and path not in found and path.is_file() and _exports(path):
            found[path] = None
    return list(found)


def _exports(path: Path) -> bool:
    """Whether a library that is loaded has `sgemm_`, its own and not one of those that it needs."""
    try:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    if not hasattr(library, "sgemm_"):
        return False
    return provider(library, "sgemm_") == path.resolve()


def _product(path: Path, x: AnyArray, y: AnyArray) -> AnyArray:
    """Return x @ y by the library's `sgemm_`, called as a row-major cblas does: the factors exchanged."""
    function: Any = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD).sgemm_
    (m, k), n = x.shape, y.shape[1]
    out = np.zeros((m, n), np.float32)

    def integer(value: int) -> Any:
        return ctypes.byref(ctypes.c_int(value))

    one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
    function(
        b"N", b"N", integer(n), integer(m), integer(k), ctypes.byref(one),
        y.ctypes.data_as(ctypes.c_void_p), integer(n), x.ctypes.data_as(ctypes.c_void_p), integer(k),
        ctypes.byref(zero), out.ctypes.data_as(ctypes.c_void_p), integer(n),
    )  # fmt: skip
    return out
