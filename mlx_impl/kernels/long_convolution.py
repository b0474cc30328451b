"""A convolution by transforms with a derivative of its own, in batches of channels, its phases on streams if asked.

With U, K and G the transforms of a signal, of the combined kernels and of a cotangent,

    y = C(U K)        du = C(G conj K)        dk = C(sum over the batch of G conj U),

C the inverse transform, cut to what is wanted: the adjoint is made of the same transforms of half spectra, G serves
both gradients, and the kernels' is one row a channel. MLX's own derivative of a real transform is a complex one of the
whole length, which takes twice the memory.

All three come from the one form T(u, k, g) = <y(u, k), g>, linear in each of its arguments, so the derivatives of the
adjoint are made of both functions again: with cotangents p of du and q of dk they are the adjoint at (p, q, g), and
y(p, k) + y(u, q) for g. Derivatives of any order go through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import mlx.core as mx

from mlx_impl.kernels.derivatives import with_vjp

Spectrum = Any
"""What the transforms hand on."""

Arrays = tuple[mx.array, ...]

OVERLAPPING: Final = 2
"""Batches that streams work at together; without streams it is one."""


@dataclass(frozen=True)
class Phases:
    """What a convolution is made of.

    Args:
        signal: Spectrum of a signal (b, d, l).
        kernel: Spectrum of the kernels, each (d, m), as one of d rows.
        product: Elementwise product of two spectra.
        conjugate: Complex conjugate of one.
        total: Sum of spectra (b, d, bins) over the batch.
        inverse: Rows (b, d, n) of a product of a signal's spectrum and a kernel's.
        kernel_inverse: Rows (d, n) of a product of two signals' spectra.
        taps: The adjoint of combining kernels: (d, n) to an array for each kernel.
    """

    signal: Callable[[mx.array], Spectrum]
    kernel: Callable[..., Spectrum]
    product: Callable[[Spectrum, Spectrum], Spectrum]
    conjugate: Callable[[Spectrum], Spectrum]
    total: Callable[[Spectrum], Spectrum]
    inverse: Callable[[Spectrum], mx.array]
    kernel_inverse: Callable[[Spectrum], mx.array]
    taps: Callable[[mx.array], Arrays]


@dataclass(frozen=True)
class LongConvolution:
    """y (b, d, l) of a signal u (b, d, l) and kernels (d, m), with derivatives of any order.

    Args:
        phases: What it is made of.
        channels: How many channels a batch has.
        at_once: How many batches are worked at together: another one waits for the result of the first of them, which
            bounds memory.
        eager: Evaluate every batch of values before the next one begins: a stricter bound, for inference, since what is
            evaluated under a derivative keeps all that it was made of. Adjoints are never evaluated here.
    """

    phases: Phases
    channels: int
    at_once: int = 1
    eager: bool = False

    def __call__(self, u: mx.array, *kernels: mx.array) -> mx.array:
        """Convolve."""
        length = u.shape[-1]

        def one(u: mx.array, *kernels: mx.array) -> Arrays:
            do = self.phases
            return (do.inverse(do.product(do.signal(u), do.kernel(*kernels)))[..., :length],)

        def value(u: mx.array, *kernels: mx.array) -> mx.array:
            return self._in_batches(one, (u,), kernels, self.eager)[0]

        def vjp(primals: Arrays, cotangent: mx.array, output: mx.array) -> Arrays:  # noqa: ARG001
            return self.adjoint(primals[0], primals[1:], cotangent)

        return with_vjp(value, vjp)(u, *kernels)

    def adjoint(self, u: mx.array, kernels: Arrays, g: mx.array) -> Arrays:
        """Gradients of <y, g> for u and for every kernel."""
        length = u.shape[-1]

        def one(u: mx.array, g: mx.array, *kernels: mx.array) -> Arrays:
            do = self.phases
            spectrum = do.signal(g)
            by_u = do.inverse(do.product(spectrum, do.conjugate(do.kernel(*kernels))))[..., :length]
            by_kernel = do.kernel_inverse(do.total(do.product(spectrum, do.conjugate(do.signal(u)))))
            return by_u, *do.taps(by_kernel)

        def value(u: mx.array, g: mx.array, *kernels: mx.array) -> Arrays:
            return self._in_batches(one, (u, g), kernels)

        def vjp(primals: Arrays, cotangents: Arrays, outputs: Arrays) -> Arrays:  # noqa: ARG001
            (u, g, *kernels), (p, *q) = primals, cotangents
            by_u, *by_kernels = self.adjoint(p, tuple(q), g)
            values = replace(self, eager=False)
            return by_u, values(p, *kernels) + values(u, *q), *by_kernels

        return tuple(with_vjp(value, vjp)(u, g, *kernels))

    def _in_batches(self, one: Callable[..., Arrays], signals: Arrays, kernels: Arrays, eager: bool = False) -> Arrays:
        """Apply `one` to some channels after the other, and put the results together: signals' first, then kernels'."""
        found: list[Arrays] = []
        for cut in self._cuts(signals[0].shape[1]):
            given = [signal[:, cut] for signal in signals]
            given += [kernel[cut] for kernel in kernels]
            if len(found) >= self.at_once:
                given = list(mx.depends(given, list(found[-self.at_once])))
            found.append(one(*given))
            if eager:
                mx.eval(found[-1])
        return tuple(mx.concatenate(list(parts), axis=-2) for parts in zip(*found, strict=True))

    def _cuts(self, channels: int) -> Iterator[slice]:
        return (slice(first, first + self.channels) for first in range(0, channels, self.channels))


# --- streams --------------------------------------------------------------------------------------------------


def on_streams(phases: Phases) -> Phases:
    """The same phases as kernels of three streams of the default device: transforms, products, inverse transforms."""
    transforms, products, inverses = streams(str(mx.default_device()))
    return Phases(
        signal=_on(transforms, phases.signal),
        kernel=_on(transforms, phases.kernel),
        product=_on(products, phases.product),
        conjugate=_on(products, phases.conjugate),
        total=_on(products, phases.total),
        inverse=_on(inverses, phases.inverse),
        kernel_inverse=_on(inverses, phases.kernel_inverse),
        taps=phases.taps,
    )


@functools.cache
def streams(device: str) -> tuple[Any, ...]:  # noqa: ARG001 - the key: streams belong to the device that made them
    """Three streams of the default device, made once; any thread may use them."""
    return tuple(mx.new_thread_local_stream(mx.default_device()) for _ in range(3))


def _on(stream: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        with mx.stream(stream):
            return function(*given)

    return call
