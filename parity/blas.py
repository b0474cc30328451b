"""Which library multiplies MLX's matrices on Linux: chosen before MLX is loaded, since the linker asks only once.

MLX's wheel for the CPU of Linux brings the reference BLAS: a few GFLOP/s. Its `cblas_sgemm` calls `sgemm_` through the
dynamic linker, and whatever exported that name globally before answers: torch's own libtorch_cpu does, with MKL's or
OpenBLAS's. On macOS MLX calls Accelerate, and there is nothing to choose.

No framework is imported here. `parity.environment.linkage` says afterwards who answers.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Final

from parity.errors import ConfigError
from parity.plain import one_line

SYMBOL: Final = "sgemm_"
CHOICES: Final = ("auto", "bundled", "torch")


def choose_blas(choice: str) -> None:
    """Load the library that is to multiply MLX's matrices; must come before `import mlx.core`.

    Args:
        choice: `bundled` leaves MLX the library that its wheel brings; `torch` takes torch's; a path takes that
            library; `auto` is `torch` where it can be had (Linux, MLX not loaded yet), else `bundled`.

    Raises:
        ConfigError: The library cannot be had, exports no `sgemm_`, or MLX has been loaded already.
    """
    if choice == "bundled":
        return
    possible = platform.system() == "Linux" and "mlx.core" not in sys.modules
    if choice == "auto":
        path = torch_library()
        if possible and path is not None:
            _load(path)
        return
    if platform.system() != "Linux":
        raise ConfigError(f"--mlx-blas {one_line(choice)}: there is a choice on Linux alone; use bundled or auto")
    if not possible:
        raise ConfigError(f"--mlx-blas {one_line(choice)}: MLX is loaded already; choose before it is, or use auto")
    _load(_chosen(choice))


def torch_library() -> Path | None:
    """Return the library of the installed torch that exports `sgemm_` on Linux, None where there is none."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "lib" / "libtorch_cpu.so"
    return path if path.is_file() else None


def _chosen(choice: str) -> Path:
    if choice == "torch":
        path = torch_library()
        if path is None:
            raise ConfigError("--mlx-blas torch: the installed torch brings no libtorch_cpu.so; use bundled or a path")
        return path
    path = Path(choice)
    if not path.is_file():
        raise ConfigError(f"--mlx-blas takes {', '.join(CHOICES)} or the path of a library; got {one_line(choice)!r}")
    return path.resolve()


def _load(path: Path) -> None:
    import ctypes

    try:
        library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL)
        if not hasattr(library, SYMBOL):
            raise ConfigError(f"--mlx-blas: {one_line(path)!r} exports no {SYMBOL}, which MLX's products end in")
        ctypes.CDLL(str(path), mode=os.RTLD_GLOBAL)
    except OSError as error:
        raise ConfigError(f"--mlx-blas: {one_line(path)!r} cannot be loaded: {one_line(error)}") from None
