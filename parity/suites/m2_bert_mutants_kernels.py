"""Mutants of the kernels that a profile chooses: transforms as products, convolutions in batches, their adjoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import mlx.core as mx

from mlx_impl.kernels import blockdiag, monarch_fft
from mlx_impl.kernels.long_convolution import LongConvolution
from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_build import (
    PORT,
    SPECIFICATION,
    Patch,
    core,
    function,
    method,
    mutants_of,
    op,
    through,
)

FFT_IMPL: Final = f"{SPECIFICATION}: fft_impl"


def _of_transforms(name: str, change: Any) -> Patch:
    """A function of the transforms becomes `change(original, *arguments)`; its tables stay as they are."""
    return function(name, change, monarch_fft)


def _own_transform(original: Any, *given: Any) -> Any:
    chirp, (real, imag) = original(*given)
    return chirp, (real, -imag)


_TRANSFORMS: Final = mutants_of(
    "fftconv",
    "kernel",
    (
        "monarch-twiddle-conjugated",
        "the twiddle of the inverse transform in the forward one, and the other way round",
        FFT_IMPL,
        "",
        _of_transforms("_twiddled", lambda original, x, n, rest, sign: original(x, n, rest, -sign)),
    ),
    (
        "monarch-twiddle-missing",
        "no twiddle between the two products",
        FFT_IMPL,
        "",
        _of_transforms("_twiddled", lambda _original, x, _n, _rest, _sign: x),
    ),
    (
        "monarch-mirror-not-conjugated",
        "the other half of a spectrum mirrored without its conjugate",
        FFT_IMPL,
        "",
        _of_transforms("_unfolded", lambda original, z, n, _sign: original(z, n, 1)),
    ),
    (
        "monarch-bins-reversed",
        "the bins of the second product last first",
        FFT_IMPL,
        "",
        _of_transforms("_unfolded", lambda original, z, n, sign: original(z[..., ::-1], n, sign)),
    ),
    (
        "monarch-chirp-not-conjugated",
        "a chirp convolved with its own transform, not its conjugate's",
        FFT_IMPL,
        "",
        _of_transforms("_chirp", _own_transform),
    ),
    knobs={"fft_impl": "monarch"},
)

_TABLES: Final = mutants_of(
    "fftconv",
    "dtype",
    (
        "monarch-twiddles-in-float32",
        "twiddles of float32 at every precision",
        FFT_IMPL,
        "",
        _of_transforms(
            "_twiddles", lambda original, *given: tuple(through(mx.float32, part) for part in original(*given))
        ),
        {"unseen_at_f32": "float32's own twiddles are these"},
    ),
    (
        "monarch-blocks-in-bfloat16",
        "blocks of bfloat16, as a matrix product would take them",
        FFT_IMPL,
        "",
        _of_transforms("_inverse_block", lambda original, *given: through(mx.bfloat16, original(*given))),
    ),
    knobs={"fft_impl": "monarch"},
)


_BATCHES: Final = mutants_of(
    "fftconv",
    "kernel",
    (
        "batches-out-of-order",
        "batches of channels put together last first",
        FFT_IMPL,
        "",
        method(LongConvolution, "_cuts", lambda _self, original, channels: reversed(list(original(channels)))),
    ),
    knobs={"fft_impl": "channel_batched"},
)

_STREAMS: Final = mutants_of(
    "fftconv",
    "kernel",
    (
        "streams-product-of-first-batch",
        "every batch multiplied with the first one's spectrum: a buffer used again too early",
        PORT,
        "",
        method(
            LongConvolution,
            "_in_batches",
            lambda _self, original, one, signals, kernels, *rest: original(
                one, signals, tuple(mx.broadcast_to(kernel[:1], kernel.shape) for kernel in kernels), *rest
            ),
        ),
    ),
    knobs={"fft_impl": "streamed"},
)


def _adjoint(name: str, change: Any) -> Patch:
    def adjoint(self: LongConvolution, original: Any, *given: Any) -> Any:
        return original.func(replace(self, phases=replace(self.phases, **{name: change})), *given)

    return method(LongConvolution, "adjoint", adjoint)


_ADJOINT: Final = mutants_of(
    "fftconv",
    "gradient",
    (
        "adjoint-not-conjugated",
        "the gradient as a convolution with the kernel, not a correlation",
        "calculus",
        "",
        _adjoint("conjugate", lambda x: x),
    ),
    (
        "adjoint-of-first-row",
        "the kernel's gradient of the batch's first row alone",
        "calculus",
        "",
        op("spectrum_total", lambda _self, original, x: original(x[:1])),
    ),
    (
        "adjoint-reverse-not-flipped",
        "both kernels' gradients read in the forward direction",
        "calculus",
        "",
        _adjoint("taps", lambda z: tuple(z[..., : z.shape[-1] // 2] for _ in range(2))),
    ),
    knobs={"fft_impl": "channel_batched"},
    seen_by="gradients",
)

_BLOCKS: Final = mutants_of(
    "mlp",
    "kernel",
    (
        "fast-blocks-positions-reversed",
        "positions of a group in the other order",
        PORT,
        "gated_layers",
        core(blockdiag, contiguous=lambda x: mx.contiguous(x[..., ::-1])),
    ),
    knobs={"blockdiag_impl": "fast"},
)

KERNEL_MUTANTS: Final[tuple[Mutant, ...]] = (*_TRANSFORMS, *_TABLES, *_BATCHES, *_STREAMS, *_ADJOINT, *_BLOCKS)
