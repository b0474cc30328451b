"""Float64 transforms that truth can rest on.

The float64 transforms of MKL 2024.2, which torch carries on x86, are off by 28 to 280 u on Intel's processors at
composite lengths with a prime factor from 17 to 151 (n = 34, 262, 412), real ones too where n is a multiple of four,
and within 4 u elsewhere. On AMD's the same library has other kernels, within 6 u at all lengths to 2,100. At those
lengths pocketfft takes their place, on every processor: within 4 u of 80-bit results.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import scipy.fft
import torch
from torch.utils._python_dispatch import TorchDispatchMode

_DOUBLE: Final = (torch.float64, torch.complex128)
_SCALES: Final = (lambda _size: 1.0, lambda size: size**-0.5, lambda size: 1.0 / size)
"""What torch's codes of normalisation mean: none, by the root, by the number of points."""


class TrueTransforms(TorchDispatchMode):
    """Compute float64 transforms by pocketfft where MKL is inaccurate, in forward and backward passes alike."""

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare every operation the guard against torch.compile: nothing here is compiled."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        compute = _FORMS.get(func)
        if compute is None or args[0].dtype not in _DOUBLE or not any(map(inaccurate, _lengths(func, args))):
            return func(*args, **(kwargs or {}))
        return torch.from_numpy(np.ascontiguousarray(compute(_array(args[0]), *args[1:4])))


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().resolve_conj().resolve_neg().numpy()


@functools.cache
def inaccurate(length: int) -> bool:
    """Whether MKL's float64 transform of so many points is not to be trusted: a prime factor from 17 to 151, not alone.

    Example:
        >>> [inaccurate(n) for n in (64, 127, 254, 412, 2018)]
        [False, False, True, True, False]
    """
    rest, largest, factor = length, 1, 2
    while rest > 1:
        while rest % factor == 0:
            rest, largest = rest // factor, factor
        factor += 1
    return largest < length and 17 <= largest <= 151


def _lengths(func: Any, args: Sequence[Any]) -> list[int]:
    lengths = [args[0].shape[axis] for axis in args[1]]
    return [*lengths[:-1], int(args[3])] if func is torch.ops.aten._fft_c2r.default else lengths


def _real_to_complex(x: Any, axes: Sequence[int], scale: int, one_sided: bool) -> Any:
    found = scipy.fft.rfftn(x, axes=axes) if one_sided else scipy.fft.fftn(x, axes=axes)
    return found * _SCALES[scale](float(np.prod([x.shape[axis] for axis in axes])))


def _complex_to_real(x: Any, axes: Sequence[int], scale: int, last: int) -> Any:
    shape = [*(x.shape[axis] for axis in axes[:-1]), int(last)]
    return scipy.fft.irfftn(x, s=shape, axes=axes, norm="forward") * _SCALES[scale](float(np.prod(shape)))


def _complex(x: Any, axes: Sequence[int], scale: int, forward: bool) -> Any:
    found = scipy.fft.fftn(x, axes=axes) if forward else scipy.fft.ifftn(x, axes=axes, norm="forward")
    return found * _SCALES[scale](float(np.prod([x.shape[axis] for axis in axes])))


_FORMS: Final[dict[Any, Any]] = {
    torch.ops.aten._fft_r2c.default: _real_to_complex,
    torch.ops.aten._fft_c2r.default: _complex_to_real,
    torch.ops.aten._fft_c2c.default: _complex,
}
