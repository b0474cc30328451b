"""The fused body as a function of the host: one block after the other, by the C++ compiler that is there."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlx_impl.kernels.fused_sources import (
    Kernel,
    Plan,
    Switches,
    convolution_kernels,
    header,
    source,
    spectrum_kernels,
    table,
)
from parity.spec.arrays import AnyArray

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

CHANNELS = 3


@dataclass(frozen=True)
class Job:
    """A plan and its switches, and the kernels that they need, under names of their own."""

    plan: Plan
    switches: Switches

    @property
    def name(self) -> str:
        """Unique among jobs of one library."""
        on = self.switches
        words = (self.plan.length, self.plan.columns, self.plan.double, on.conjugated, on.gated, on.reverse)
        return "_".join(str(word).replace("-", "m") for word in words)

    @property
    def of_spectrum(self) -> list[Kernel]:
        """Kernels that run for every row of taps."""
        return spectrum_kernels(self.plan, self.switches)

    @property
    def of_convolution(self) -> list[Kernel]:
        """Kernels that run for every row of the input."""
        return convolution_kernels(self.plan, self.switches, CHANNELS)

    @property
    def text(self) -> str:
        """C functions of all kernels, in a namespace with the numbers of this job."""
        return "".join(self._function(kernel) for kernel in (*self.of_spectrum, *self.of_convolution))

    def _function(self, kernel: Kernel) -> str:
        arguments = ", ".join([*(f"const float* {name}" for name in kernel.inputs), f"float* {kernel.output}"])
        loop = f"for (int block = 0; block < blocks; ++block) {{\n{source(kernel, 'host')}\n}}"
        return f'extern "C" void {kernel.name}_{self.name}({arguments}, const int* u_shape, int blocks) {{ {loop} }}\n'


@dataclass(frozen=True)
class Library:
    """Jobs compiled into one library for each arithmetic."""

    folder: Path
    jobs: tuple[Job, ...]
    body: str | None = None

    @cached_property
    def compiled(self) -> dict[bool, ctypes.CDLL]:
        """The libraries, by whether numbers are double."""
        return {double: self._compiled(double) for double in {job.plan.double for job in self.jobs}}

    def _compiled(self, double: bool) -> ctypes.CDLL:
        assert COMPILER is not None
        text = self.body if self.body is not None else header("host", double)
        text += "".join(job.text for job in self.jobs if job.plan.double is double)
        file, library = self.folder / f"double_{double}.cpp", self.folder / f"double_{double}.so"
        file.write_text(text)
        options = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
        subprocess.run([COMPILER, *options, "-o", library, file], check=True)
        return ctypes.CDLL(str(library))

    def run(self, job: Job, given: dict[str, AnyArray]) -> AnyArray:
        """Convolve u (b, CHANNELS, L) with k and reverse (CHANNELS, L), skip (CHANNELS,), gate as u."""
        plan, rows = job.plan, given["u"].shape[0] * CHANNELS
        arrays = {**given, "table": table_of(plan), "y": np.zeros_like(given["u"])}
        arrays["h"] = np.zeros((CHANNELS, plan.points + 1, plan.floats), np.float32)
        batch = given["u"].shape[0]
        shape = (ctypes.c_int * 1)(batch)
        for kernels, count, b in ((job.of_spectrum, CHANNELS, 1), (job.of_convolution, rows, batch)):
            for kernel in kernels:
                if kernel.output in ("between", "after"):
                    arrays[kernel.output] = np.full((count, plan.points, plan.floats), np.nan, np.float32)
                function = getattr(self.compiled[plan.double], f"{kernel.name}_{job.name}")
                pointers = (_pointer(arrays[name]) for name in (*kernel.inputs, kernel.output))
                function(*pointers, shape, kernel.launched(b, CHANNELS))
        return arrays["y"]


def table_of(plan: Plan) -> AnyArray:
    """The plan's roots as kernels read them: rounded, or in two parts."""
    exact = np.array(table(plan))
    high = exact.astype(np.float32)
    if not plan.double:
        return np.ascontiguousarray(high)
    low = (exact - high).astype(np.float32)
    return np.ascontiguousarray(np.stack([high, low], axis=-1).reshape(len(exact), 4))


def _pointer(array: AnyArray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)
