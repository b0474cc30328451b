"""Which BLAS does MLX call? Answered by the dynamic linker itself.

A wheel brings its own BLAS, but a library preloaded, or loaded with RTLD_GLOBAL, that exports the same symbol
wins. So the question is asked as the linker asks it: the global scope first, then MLX's own dependencies. A
list of what is mapped (/proc/self/maps) would name every OpenBLAS that NumPy and SciPy brought, which MLX
never calls.

Source: dlsym(3) and dladdr(3) of the Linux man-pages; ml-explore/mlx, mlx/backend/cpu/gemms/cblas.cpp.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import ClassVar, Final

import mlx.core

# MLX calls the cblas_ names. A reference CBLAS passes on to the Fortran names, which another library may own.
_SYMBOLS: Final = ("cblas_sgemm", "cblas_dgemm", "sgemm_", "dgemm_")
_VENDOR_SYMBOLS: Final = {
    "openblas_get_config": "OpenBLAS",
    "bli_info_get_version_str": "BLIS",
    "MKL_Get_Version_String": "MKL",
}


class _SymbolInfo(ctypes.Structure):
    """The C structure Dl_info that dladdr fills."""

    _fields_: ClassVar = [
        ("file_name", ctypes.c_char_p),
        ("file_base", ctypes.c_void_p),
        ("symbol_name", ctypes.c_char_p),
        ("symbol_address", ctypes.c_void_p),
    ]


def mlx_blas() -> tuple[str, ...]:
    """Name the libraries that answer MLX's matrix products on the CPU, by file name only, sorted.

    More than one name means that the entry points are spread over several libraries (one of them interposed).
    Empty where the system has no way to ask.
    """
    match platform.system():
        case "Darwin":
            return ("Accelerate",)
        case "Linux":
            return tuple(sorted({describe_library(path, vendor_of(path)) for path in _providers()}))
        case _:
            return ()


def describe_library(path: Path, vendor: str | None) -> str:
    """Label one BLAS without its folder: `[bundled ]<vendor> (<file name>)`.

    Args:
        path: where the library lies; inside a folder `mlx` or `mlx*.libs` it is "bundled".
        vendor: who made it, None when it exports none of the names that tell.
    """
    bundled = any(re.fullmatch(r"mlx|mlx\w*\.libs", folder) for folder in path.parent.parts)
    plain = "reference BLAS" if path.name.startswith(("libblas", "libcblas")) else "unknown BLAS"
    return f"{'bundled ' if bundled else ''}{vendor or plain} ({path.name})"


def _providers() -> set[Path]:
    process = ctypes.CDLL(None)
    # RTLD_NOLOAD: a handle on the extension that is already in the process, never a second copy.
    extension = ctypes.CDLL(mlx.core.__file__, mode=os.RTLD_NOLOAD)
    found = (provider(process, symbol) or provider(extension, symbol) for symbol in _SYMBOLS)
    return {path for path in found if path is not None}


def provider(scope: ctypes.CDLL, symbol: str) -> Path | None:
    """Return the library that a name leads to in a scope, None where it leads nowhere."""
    if not hasattr(scope, symbol):
        return None
    information = _SymbolInfo()
    address = ctypes.cast(getattr(scope, symbol), ctypes.c_void_p)
    if ctypes.CDLL(None).dladdr(address, ctypes.byref(information)) == 0:
        return None
    return Path(os.fsdecode(information.file_name)).resolve()


def vendor_of(path: Path) -> str | None:
    """Return who made a library that is loaded, None when it exports none of the names that tell."""
    library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
    return next((vendor for symbol, vendor in _VENDOR_SYMBOLS.items() if hasattr(library, symbol)), None)
