"""The long convolution as one kernel of a graphics processor: transforms, product, skip and gate within it.

    y = (irfft(rfft(u) H) + u D) gate,    H the half spectrum of the kernel or kernels,

in float32 or, with `double`, in pairs of float32 and rounded once. `mlx_impl.kernels.fused_sources` tells how. Rows do
not meet, so the bits of a row depend neither on the batch nor on its place in it.

Derivatives: with the kernels and D together linear, and the gate outside, the form <y(u, k, D), g> is linear in each of
its three arguments, so that every derivative is made of y, of its adjoint by u, which is the same kernel with the
spectrum conjugated, and of the adjoint by k and D, which MLX's transforms compute.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx

from mlx_impl.kernels.derivatives import with_vjp
from mlx_impl.kernels.fused_sources import (
    Kernel,
    Language,
    Plan,
    Switches,
    convolution_kernels,
    header,
    plan,
    shared_bytes,
    source,
    spectrum_kernels,
    table,
)
from parity.errors import NotImplementedYetError

KEPT: Final = 64
"""Tables, and kernels made, that are kept."""

LEAST_ELEMENTS: Final = 8
"""Metal hands an array of fewer numbers over as constants, which are no device pointer."""

Arrays = tuple[mx.array, ...]


def language() -> Language:
    """Return what the default device compiles kernels from.

    Raises:
        NotImplementedYetError: The default device is the CPU, or a device of neither CUDA nor Metal.
    """
    if mx.default_device().type == mx.DeviceType.gpu:
        if mx.cuda.is_available():
            return "cuda"
        if mx.metal.is_available():
            return "metal"
    raise NotImplementedYetError(
        f"fft_impl=fused is a kernel for CUDA and Metal; the default device of MLX is {mx.default_device()}: "
        "take a machine with such a device and --port-device gpu, or another fft_impl"
    )


def on_kernel(n: int) -> tuple[float, float]:
    """The whole of 1/n on the kernel's spectrum."""
    return 1.0 / n, 1.0


@dataclass(frozen=True)
class FusedConvolution:
    """y (b, d, l) of u (b, d, l), kernels (d, l) and D (d,), float32, with derivatives of any order.

    Args:
        reverse: The first lag of the second kernel, 0 or -1; None if there is none.
        half: Halve the combined kernel.
        scales: Factors of the kernel's spectrum and of the result, whose product is 1/n: `fft_norm`.
        double: Compute in pairs of float32.
    """

    reverse: int | None = None
    half: bool = False
    scales: Callable[[int], tuple[float, float]] = on_kernel
    double: bool = False

    def __call__(self, u: mx.array, kernels: Arrays, D: mx.array, gate: mx.array | None = None) -> mx.array:
        """Convolve, add u D, and multiply by the gate (b, d, l) if there is one.

        A gate has a derivative where it is differentiated, at the price of a kernel that does without it.
        """
        if gate is None:
            return _differentiable(self)(u, *kernels, D)
        return _differentiable_with_gate(self)(u, gate, *kernels, D)

    def by_kernels(self, u: mx.array, g: mx.array, count: int) -> Arrays:
        """Correlate u and g over the batch: lag t is the gradient of tap t."""
        l = u.shape[-1]
        n = 2 * l
        lags = mx.fft.irfft((mx.fft.rfft(g, n=n) * mx.fft.rfft(u, n=n).conj()).sum(axis=0), n=n)
        lags = 0.5 * lags if self.half else lags
        if count == 1:
            return (lags[:, :l],)
        late = lags[:, l:][:, ::-1]
        return lags[:, :l], late if self.reverse else mx.concatenate([lags[:, :1], late[:, : l - 1]], axis=-1)

    def run(
        self, u: mx.array, kernels: Arrays, D: mx.array, gate: mx.array | None = None, conjugated: bool = False
    ) -> mx.array:
        """Launch the kernels, without a derivative; `conjugated` correlates instead."""
        b, d, l = u.shape
        given = {"u": u, "skip": D, "k": kernels[0], "reverse": kernels[-1]}
        given |= {} if gate is None else {"gate": gate}
        made = _prepared(self, l, d, gate is not None, conjugated, language())
        given["table"] = made.table
        for launch in made.of_kernels:
            given[launch.output] = launch(given, 1, d, (d, *launch.shape))
        for launch in made.of_rows:
            shape = u.shape if launch.output == "y" else (b * d, *launch.shape)
            given[launch.output] = launch(given, b, d, shape)
        return given["y"]


# --- derivatives ------------------------------------------------------------------------------------------------------
#
# Functions with a derivative take longer to make than short rows to convolve, so they are made once.


@functools.lru_cache(maxsize=KEPT)
def _differentiable(convolve: FusedConvolution) -> Callable[..., mx.array]:
    """y of u, the kernels and D."""

    def value(u: mx.array, *rest: mx.array) -> mx.array:
        return convolve.run(u, rest[:-1], rest[-1])

    def vjp(primals: Arrays, cotangent: mx.array, output: mx.array) -> Arrays:  # noqa: ARG001
        return tuple(_adjoint(convolve)(primals[0], cotangent, *primals[1:]))

    return with_vjp(value, vjp)


@functools.lru_cache(maxsize=KEPT)
def _differentiable_with_gate(convolve: FusedConvolution) -> Callable[..., mx.array]:
    """y of u, the gate, the kernels and D."""

    def value(u: mx.array, gate: mx.array, *rest: mx.array) -> mx.array:
        return convolve.run(u, rest[:-1], rest[-1], gate=gate)

    def vjp(primals: Arrays, cotangent: mx.array, output: mx.array) -> Arrays:  # noqa: ARG001
        u, gate, *rest = primals
        by_u, *by_rest = _adjoint(convolve)(u, cotangent * gate, *rest)
        return by_u, cotangent * _differentiable(convolve)(u, *rest), *by_rest

    return with_vjp(value, vjp)


@functools.lru_cache(maxsize=KEPT)
def _adjoint(convolve: FusedConvolution) -> Callable[..., Arrays]:
    """Gradients of <y, g> for u, every kernel and D; of u, g, the kernels and D."""

    def value(u: mx.array, g: mx.array, *rest: mx.array) -> Arrays:
        by_u = convolve.run(g, rest[:-1], rest[-1], conjugated=True)
        return by_u, *convolve.by_kernels(u, g, len(rest) - 1), (g * u).sum(axis=(0, 2))

    def vjp(primals: Arrays, cotangents: Arrays, outputs: Arrays) -> Arrays:  # noqa: ARG001
        (u, g, *rest), (p, *q) = primals, cotangents
        by_u, *by_rest = _adjoint(convolve)(p, g, *q)
        values = _differentiable(convolve)
        return by_u, values(p, *rest) + values(u, *q), *by_rest

    return with_vjp(value, vjp)


# --- launching --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """A kernel, compiled, and how it is launched.

    Args:
        kernel: What it is.
        function: MLX's function of it.
        shape: Of what it gives for a row, where that is no row of y.
        padded: Whether arrays of few numbers are padded.
    """

    kernel: Kernel
    function: Any
    shape: tuple[int, int]
    padded: bool

    @property
    def output(self) -> str:
        """The name of what it gives."""
        return self.kernel.output

    def __call__(self, given: dict[str, mx.array], batch: int, channels: int, shape: tuple[int, ...]) -> mx.array:
        """Launch it for (batch, channels) rows."""
        inputs = [given[name] for name in self.kernel.inputs]
        (result,) = self.function(
            inputs=[_at_least(x) for x in inputs] if self.padded else inputs,
            grid=(self.kernel.launched(batch, channels) * self.kernel.threads, 1, 1),
            threadgroup=(self.kernel.threads, 1, 1),
            output_shapes=[shape],
            output_dtypes=[mx.float32],
        )
        return cast(mx.array, result)


@dataclass(frozen=True)
class Prepared:
    """What rows of one length need: the table of roots, and the kernels for rows of taps and for rows of the input."""

    table: mx.array
    of_kernels: tuple[Launch, ...]
    of_rows: tuple[Launch, ...]


@functools.lru_cache(maxsize=KEPT)
def _prepared(
    convolve: FusedConvolution, length: int, channels: int, gated: bool, conjugated: bool, spoken: Language
) -> Prepared:
    found = plan(length, convolve.double, spoken)
    of_kernel, of_result = convolve.scales(2 * found.points)
    # Packing and unpacking leave a factor 4; N complex points stand for n = 2N real ones.
    scale = of_kernel * 2 * 0.25 * (0.5 if convolve.half else 1.0)
    switches = Switches(conjugated, gated, convolve.reverse, scale, of_result)

    def launches(kernels: list[Kernel]) -> tuple[Launch, ...]:
        return tuple(
            Launch(kernel, _made(kernel, spoken, found.double), _shape(kernel, found), spoken == "metal")
            for kernel in kernels
        )

    return Prepared(
        _table(found),
        launches(spectrum_kernels(found, switches)),
        launches(convolution_kernels(found, switches, channels)),
    )


def _shape(kernel: Kernel, found: Plan) -> tuple[int, int]:
    return found.points + (kernel.output == "h"), found.floats


def _at_least(x: mx.array) -> mx.array:
    flat = x.reshape(-1)
    return flat if flat.size >= LEAST_ELEMENTS else mx.pad(flat, [(0, LEAST_ELEMENTS - flat.size)])


def _made(kernel: Kernel, spoken: Language, double: bool) -> Any:
    # MLX keeps compiled kernels by name: another length is another kernel.
    name = f"{kernel.name}_{zlib.crc32(repr((kernel, double)).encode()):08x}"
    body, before, inputs, output = source(kernel, spoken), header(spoken, double), list(kernel.inputs), [kernel.output]
    if spoken == "metal":
        return mx.fast.metal_kernel(name, inputs, output, body, before)
    shared = shared_bytes(kernel.places, double)
    return mx.fast.cuda_kernel(name, inputs, output, body, before, shared_memory=shared)


@functools.lru_cache(maxsize=KEPT)
def _table(found: Plan) -> mx.array:
    """The plan's roots (count, 2), or (count, 4) in two parts each, made in double precision by the host."""
    values = table(found)
    with mx.stream(mx.cpu):
        exact = mx.array(values, dtype=mx.float64)
        high = exact.astype(mx.float32)
        low = (exact - high.astype(mx.float64)).astype(mx.float32)
        both = mx.stack([high, low], axis=-1).reshape(len(values), 4) if found.double else high
        mx.eval(both)
    return both
