"""Bugs that porters of M2-BERT have really written, planted in the port one at a time.

Each is a patch of one name, and says where blame must fall in a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import pytest

from mlx_impl import fft_conv, mixer, norm, ops
from parity.spec.profile import HyperProfile


@dataclass(frozen=True)
class PlantedFault:
    """One bug: what a porter wrote, how to plant it, and the first tensor of a layer that it spoils."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]
    first_bad: str
    component: str


def _tanh_gelu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ops.Ops, "gelu_erf", ops.Ops.gelu_tanh)


def _large_epsilon(patch: pytest.MonkeyPatch) -> None:
    def call(self: norm.LayerNorm, x: mx.array) -> mx.array:
        return self.ops.layer_norm(x, self.weight, self.bias, 1e-5 if self.eps == 1e-12 else self.eps)

    patch.setattr(norm.LayerNorm, "__call__", call)


def _added_skip(patch: pytest.MonkeyPatch) -> None:
    def skip_term(u: mx.array, D: mx.array) -> mx.array:
        return mx.broadcast_to(D, u.shape)

    patch.setattr(fft_conv, "skip_term", skip_term)


def _centred_short_convolution(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixer.ShortConvolution, "padding", 1)


def _frequency_combination(patch: pytest.MonkeyPatch) -> None:
    original = fft_conv._both_directions

    def both(k: mx.array, k_rev: mx.array, n: int, profile: HyperProfile, primitives: ops.Ops) -> Any:
        return original(k, k_rev, n, profile.replace(bidir_space="freq"), primitives)

    patch.setattr(fft_conv, "_both_directions", both)


def _circular_convolution(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fft_conv, "fft_length", lambda l: l)


PLANTED_FAULTS = (
    PlantedFault("erf GELU replaced by tanh", _tanh_gelu, "mlp.act", "mlp"),
    PlantedFault("LayerNorm eps 1e-12 replaced by 1e-5", _large_epsilon, "mlp.layernorm", "mlp"),
    PlantedFault("u*D replaced by +D", _added_skip, "attention.filter_fn", "fftconv"),
    PlantedFault(
        "short convolution padded 1 and 1", _centred_short_convolution, "attention.short_filter", "monarch_mixer"
    ),
    PlantedFault("time replaced by freq combination", _frequency_combination, "attention.filter_fn", "hyena_filter"),
    PlantedFault("FFT length 2L replaced by L", _circular_convolution, "attention.filter_fn", "fftconv"),
)
