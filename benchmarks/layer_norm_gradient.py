"""The gradient of MLX's LayerNorm by its input on a graphics processor, against float64, over widths of a row.

    python benchmarks/layer_norm_gradient.py                 # every width in a process of its own
    python benchmarks/layer_norm_gradient.py --device cpu 9

The smallest that shows what `mlx_impl.ops.library_gradient_errs` avoids; 15 rows of noise, weights near 1. Exit status
0 if `mx.fast.layer_norm` errs, or ends its process, where that function says and nowhere else, 1 if not (then it is
time to change the function), 3 where there is no such device.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

os.environ.setdefault("MLX_ENABLE_TF32", "0")

import mlx.core as mx
import numpy as np

from mlx_impl.ops import Ops, library_gradient_errs
from parity.spec.profile import CANONICAL

WIDTHS: Final = (2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 16, 33, 64, 100, 127, 254, 768, 770, 1023, 3072)
ROWS: Final = 15
EPS: Final = 1e-5
WRONG: Final = 1e-4
"""Relative errors beyond are no rounding: float32's are about 1e-7, of two numbers that nearly cancel 1e-5."""


def gradient(x: Any, weight: Any, g: Any) -> Any:
    """The derivative of sum(layer_norm(x) g) by x, in float64."""
    centred = x - x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + EPS)
    normed, wg = centred * inverse, weight * g
    return inverse * (wg - wg.mean(-1, keepdims=True) - normed * (wg * normed).mean(-1, keepdims=True))


def error(width: int, of_library: bool) -> float:
    """Return the relative L2 error of `mx.fast.layer_norm`, or of the port's own operation."""
    draw = np.random.Generator(np.random.Philox(width))
    x, g = (draw.standard_normal((ROWS, width)).astype(np.float32) for _ in range(2))
    weight = (1 + 0.1 * draw.standard_normal(width)).astype(np.float32)
    exact = gradient(*(a.astype(np.float64) for a in (x, weight, g)))
    norm: Any = mx.fast.layer_norm if of_library else Ops(CANONICAL).layer_norm
    bias = mx.zeros((width,))
    found = mx.grad(lambda v: (norm(v, mx.array(weight), bias, EPS) * mx.array(g)).sum())(mx.array(x))
    return float(np.linalg.norm(np.array(found) - exact) / np.linalg.norm(exact))


def asked(width: int, device: str, of_library: bool) -> str:
    """Return the error as a process of its own prints it, or how that process ended."""
    words = [sys.executable, __file__, "--device", device, "--alone", "library" if of_library else "port", str(width)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return ended.stdout.strip() if ended.returncode == 0 else ended.stderr.strip().splitlines()[-1]


def compared(width: int, device: str) -> bool:
    """Print a width's line, and return whether both are as `library_gradient_errs` says."""
    library, own = (asked(width, device, of_library) for of_library in (True, False))
    wrong = [not found[0].isdigit() or float(found) > WRONG for found in (library, own)]
    sys.stdout.write(f"{width:5d}  {library:>18}  {own:>10}{'  wrong' if wrong[0] else ''}\n")
    return wrong == [library_gradient_errs(width), False]


def main(arguments: Sequence[str]) -> int:
    """Print a line for each width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("widths", type=int, nargs="*", default=WIDTHS, help="numbers in a row")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--alone", choices=("library", "port"), help="print the error of one of them, in this process")
    chosen = parser.parse_args(arguments)
    if chosen.device == "gpu" and not (mx.cuda.is_available() or mx.metal.is_available()):
        sys.stderr.write("no graphics processor that MLX can use: nothing to measure\n")
        return 3
    mx.set_default_device(mx.gpu if chosen.device == "gpu" else mx.cpu)
    if chosen.alone:
        sys.stdout.write(f"{error(chosen.widths[0], chosen.alone == 'library'):.1e}\n")
        return 0
    sys.stdout.write("width  mx.fast.layer_norm  the port's\n")
    as_said = [compared(width, chosen.device) for width in chosen.widths]
    return 0 if all(as_said) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
