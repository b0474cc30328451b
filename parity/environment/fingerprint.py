"""Everything about a machine and its libraries that may change a bit of a result, and a short key over it.

No field holds a folder, a host name or a user name, so a fingerprint can be published beside a report.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import mlx.core as mx
import torch

from parity.environment.devices import port_product_bits, reference_product_bits
from parity.environment.linkage import mlx_blas
from parity.environment.processor import read_processor
from parity.spec.devices import ON_CPU, Devices
from parity.spec.version import __version__

_PACKAGES: Final = ("torch", "mlx", "numpy", "scipy", "hypothesis", "einops")
# Switches by which MKL, ATen, oneDNN, OpenBLAS and MLX choose other kernels or other roundings.
_SWITCHES: Final = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MLX_ENABLE_TF32",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
# Reported for the reader only: the operating system's kernel, and packages that compute nothing.
_BITLESS_FIELDS: Final = frozenset({"system_release", "port_product_bits", "reference_product_bits"})
_DEVICE_FIELDS: Final = frozenset({"port_device", "reference_device", "reference_gpu_name", "torch_cuda"})
_BITLESS_PACKAGES: Final = frozenset({"python", "hypothesis", "einops", "mlx-parity"})


@dataclass(frozen=True)
class Environment:
    """One machine with its libraries, as found.

    Attributes:
        versions: package name to version.
        system: operating system, 'Linux' or 'Darwin'.
        system_release: version of the operating system's kernel.
        libc: C library with version, whose scalar functions MLX calls on the CPU; '' where unknown.
        machine: instruction set architecture, 'x86_64' or 'arm64'.
        cpu_model: the name that the CPU gives itself.
        cpu_flags: sorted SIMD extensions that select kernels.
        cores: logical cores.
        torch_threads: threads in one torch operator.
        torch_libraries: 'blas', 'lapack', 'mkl', 'onednn', 'fft' to name or version, None if torch lacks it.
        torch_cpu_capability: widest instruction set that ATen's own kernels use, such as 'AVX512'.
        torch_fp32_precision: 'matmul' and 'conv' to what torch allows float32 to become inside oneDNN.
        mlx_device: MLX's default device.
        mlx_gpu: 'metal', 'cuda' or None.
        mlx_gpu_name: what MLX calls that GPU, None without one.
        mlx_blas: the BLAS that MLX calls on the CPU, file names only.
        switches: environment variables that change bits, None where unset. MLX_ENABLE_TF32 unset means on.
        port_device: where the port runs, at f64 on the CPU all the same; 'cpu' or 'gpu'.
        reference_device: where the reference runs, with TF32 off: 'cpu', 'cuda' or 'mps'.
        reference_gpu_name: what torch calls that GPU, None without one.
        torch_cuda: version of CUDA that torch was built for, None without one or where the reference does not use it.
        port_product_bits, reference_product_bits: significant bits that float32 products were measured to have there,
            None where both sides run on the CPU and nothing was asked.
    """

    versions: Mapping[str, str]
    system: str
    system_release: str
    libc: str
    machine: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    cores: int
    torch_threads: int
    torch_libraries: Mapping[str, str | None]
    torch_cpu_capability: str
    torch_fp32_precision: Mapping[str, str]
    mlx_device: str
    mlx_gpu: str | None
    mlx_gpu_name: str | None
    mlx_blas: tuple[str, ...]
    switches: Mapping[str, str | None]
    port_device: str = "cpu"
    reference_device: str = "cpu"
    reference_gpu_name: str | None = None
    torch_cuda: str | None = None
    port_product_bits: float | None = None
    reference_product_bits: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them: dict, list, str, int and None."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def key(self) -> str:
        """Return 16 hexadecimal digits that are equal only where the same bits may be expected.

        key = first 16 digits of sha256(canonical JSON of every field that can change bits), where canonical
        means sorted names, no spaces, ASCII. Left out: `system_release`, measured bits, packages that compute
        nothing, and the CPU as a device.
        """
        fields = {name: value for name, value in self.to_dict().items() if name not in _BITLESS_FIELDS}
        # What is accepted on the CPU is kept under a key that knows no devices.
        fields = {name: v for name, v in fields.items() if name not in _DEVICE_FIELDS or v not in ("cpu", None)}
        fields["versions"] = {name: v for name, v in self.versions.items() if name not in _BITLESS_PACKAGES}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


def collect(devices: Devices = ON_CPU) -> Environment:
    """Describe the machine and libraries of this process, and the devices of a run; changes nothing."""
    processor = read_processor()
    gpu = _mlx_gpu()
    measured = devices != ON_CPU
    on_cuda = devices.reference == "cuda"
    return Environment(
        versions=_versions(),
        system=platform.system(),
        system_release=platform.release(),
        libc=" ".join(platform.libc_ver()).strip(),
        machine=platform.machine(),
        cpu_model=processor.model,
        cpu_flags=processor.flags,
        cores=os.cpu_count() or 1,
        torch_threads=torch.get_num_threads(),
        torch_libraries=_torch_libraries(),
        torch_cpu_capability=torch.backends.cpu.get_cpu_capability(),
        torch_fp32_precision=_torch_fp32_precision(),
        mlx_device=str(mx.default_device()),
        mlx_gpu=gpu,
        mlx_gpu_name=None if gpu is None else str(mx.device_info(mx.gpu).get("device_name", gpu)),
        mlx_blas=mlx_blas(),
        switches={name: os.environ.get(name) for name in _SWITCHES},
        port_device=devices.port,
        reference_device=devices.reference,
        reference_gpu_name=torch.cuda.get_device_name() if on_cuda else None,
        torch_cuda=torch.version.cuda if on_cuda else None,
        port_product_bits=round(port_product_bits(devices.port), 1) if measured else None,
        reference_product_bits=round(reference_product_bits(devices.reference), 1) if measured else None,
    )


def parse_torch_config(text: str) -> dict[str, str | None]:
    """Read library names and versions from the text of `torch.__config__.show()`.

    Returns:
        'blas' and 'lapack' as torch's build names them, 'mkl' as '<version> build <date>', 'onednn' as a
        version; None for what the text does not mention.
    """
    patterns = {
        "blas": r"\bBLAS_INFO=(\w+)",
        "lapack": r"\bLAPACK_INFO=(\w+)",
        "mkl": r"Math Kernel Library Version (\d[\d.]*)",
        "onednn": r"(?:MKL-DNN|oneDNN) v(\d[\d.]*)",
    }
    found = {name: re.search(pattern, text) for name, pattern in patterns.items()}
    libraries = {name: None if match is None else match[1] for name, match in found.items()}
    build = re.search(r"Math Kernel Library .*\bBuild (\d+)", text)
    if libraries["mkl"] is not None and build is not None:
        libraries["mkl"] += f" build {build[1]}"
    return libraries


def _torch_libraries() -> dict[str, str | None]:
    libraries = parse_torch_config(torch.__config__.show())
    # The text names oneDNN when torch was built with it; whether it is in use is a question to the backend.
    if not torch.backends.mkldnn.is_available():
        libraries["onednn"] = None
    # ATen has two CPU transforms: MKL's where torch was built with MKL, its own copy of pocketfft elsewhere.
    has_mkl = torch.backends.mkl.is_available()
    return {**libraries, "fft": "mkl" if has_mkl else "pocketfft"}


def _torch_fp32_precision() -> dict[str, str]:
    # Older torch has one switch, for matmul only. Newer torch raises when the old one is asked after the new
    # one was set, so the old one is the last resort.
    backend: Any = torch.backends.mkldnn  # its stub does not declare `conv`
    if hasattr(backend, "matmul"):
        return {"matmul": backend.matmul.fp32_precision, "conv": backend.conv.fp32_precision}
    return {"matmul": torch.get_float32_matmul_precision()}


def _mlx_gpu() -> str | None:
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.cuda.is_available() else None


def _versions() -> dict[str, str]:
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    # The package's own version comes from its source: run from a checkout it has no installed metadata.
    return {"python": platform.python_version(), **installed, "mlx-parity": __version__}
