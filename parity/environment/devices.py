"""Devices: whether they are there, and in how many bits they really multiply float32.

A GPU with matrix units may round the factors of a float32 product to TF32's 11 significant bits and call the result
float32. MLX does so by default on CUDA; `MLX_ENABLE_TF32=0` turns it off, if it is set before MLX is imported.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Final

import mlx.core as mx
import numpy as np
import torch

from parity.errors import DeviceError
from parity.spec.arrays import AnyArray
from parity.spec.devices import Devices, PortDevice, ReferenceDevice
from parity.spec.precision import RUNGS
from parity.spec.profile import HyperProfile
from parity.torch_switches import ieee_products

TF32_U: Final = 2.0**-11
"""Unit roundoff of TF32, whose numbers have 11 significant bits."""

_FEWEST_BITS: Final = 18.0
"""Below, float32 was not multiplied in float32: its own roundings leave 20 and more at these sizes, TF32's about 11."""

_SIZES: Final = (32, 256)
"""Rows, terms and columns of the products: kernels are chosen by size, and the worst one counts."""

_SEED: Final = 20_261_123

Multiply = Callable[[AnyArray, AnyArray], AnyArray]
"""Product of two float32 matrices, as NumPy sees it."""


def require_devices(devices: Devices) -> None:
    """Refuse devices that are not there.

    Raises:
        DeviceError: MLX or torch has no such device here.
    """
    if devices.port == "gpu" and not mx.is_available(mx.gpu):
        raise DeviceError(
            "--port-device gpu: MLX has no GPU here; install MLX's CUDA build on a machine with such a card, or use "
            "Apple silicon, or take --port-device cpu"
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[devices.reference]:
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise DeviceError(
            f"--reference-device {devices.reference}: torch has no such device here; it has {found}: take one of "
            "these, or a build of torch with that device"
        )


def backend_of(device: PortDevice) -> str:
    """Return what computes on the port's device: `cpu`, `cuda` or `metal`."""
    if device == "cpu":
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def product_bits(multiply: Multiply) -> float:
    """Return the significant bits that float32 products have: as `measure_bits`, the least over two sizes.

    E is the largest, over the rows of a product, of the rms of |y - t| sqrt(K) / (|x||w|) over its columns, t computed
    in float64; bits = -log2 E, at most 24.
    """
    generator = np.random.Generator(np.random.Philox(_SEED))
    worst = 2.0 ** -RUNGS["f32"].digits
    for size in _SIZES:
        x, w = (generator.standard_normal((size, size), np.float32) for _ in range(2))
        exact, scale = (f(x).astype(np.float64) @ f(w).astype(np.float64) for f in (np.array, np.abs))
        error = (multiply(x, w).astype(np.float64) - exact) / scale * math.sqrt(size)
        worst = max(worst, float(np.sqrt(np.mean(np.square(error), axis=-1)).max()))
    return -math.log2(worst)


@functools.cache
def port_product_bits(device: PortDevice) -> float:
    """Return the significant bits of MLX's float32 products on the port's device, measured once a process."""

    def multiply(x: AnyArray, w: AnyArray) -> AnyArray:
        with mx.stream(mx.gpu if device == "gpu" else mx.cpu):
            return np.array(mx.array(x) @ mx.array(w))

    return product_bits(multiply)


@functools.cache
def reference_product_bits(device: ReferenceDevice) -> float:
    """Return those of torch on the reference's device, with TF32 off as the reference has it, once a process."""

    def multiply(x: AnyArray, w: AnyArray) -> AnyArray:
        with ieee_products(device):
            made = torch.from_numpy(x).to(device) @ torch.from_numpy(w).to(device)
            return np.array(made.cpu().numpy())

    return product_bits(multiply)


def multiplies_in_tf32(device: PortDevice) -> bool:
    """Whether float32 products of the port's device were measured to have far fewer bits than float32."""
    return port_product_bits(device) < _FEWEST_BITS


def product_findings(devices: Devices, profiles: Sequence[HyperProfile]) -> list[str]:
    """Return, in words, where float32 products are not what a profile says, or what the reference needs.

    Args:
        devices: Where both sides run.
        profiles: Those of the run; `matmul_precision=tf32` asks for what others must not have.
    """
    found = []
    exact = [profile.name for profile in profiles if profile.matmul_precision == "ieee"]
    if exact and multiplies_in_tf32(devices.port):
        found.append(
            f"port on {devices.port}: the device multiplies float32 in TF32 (measured "
            f"{port_product_bits(devices.port):.0f} bits), and {', '.join(exact)} says matmul_precision=ieee; set "
            "MLX_ENABLE_TF32=0 before MLX is imported, or choose matmul_precision=tf32"
        )
    if reference_product_bits(devices.reference) < _FEWEST_BITS:
        found.append(
            f"reference on {devices.reference}: torch multiplies float32 in fewer bits than float32 has (measured "
            f"{reference_product_bits(devices.reference):.0f}): no comparison in accuracy with it means anything; take "
            "--reference-device cpu"
        )
    return found
