"""A numeric knob keeps the mathematics: at float32 every component stays within a few roundings of the plain one."""

from __future__ import annotations

from typing import Any, Final, get_args

import mlx.core as mx
import numpy as np
import pytest
from port_twins import Twins, twins

from mlx_impl import LayerNorm
from mlx_impl.kernels.blockdiag import BLOCKDIAG_KERNELS
from mlx_impl.ops import FFT_SCALES
from parity.pairs import Pair
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL, FftImpl
from parity.suites import PAIRS

U: Final = RUNGS["f32"].u
LEAVES: Final = frozenset({"blockdiag_linear", "monarch_multiply", "fftconv", "hyena_filter"})

# rel L2 in units of u between two forms of the same float32 computation, largest over the corpus.
# fft_norm on a leaf: two transforms of 0.6 to 1.3 sqrt(log2 n) u each (numerics 2.2); 3.7 seen at n = 32 and 512.
# In composites gates, sums that cancel and LayerNorms carry it on: 20 seen behind two layers and a tanh.
# blockdiag_impl and layer_norm_strict: the same bits on x86-64 CPUs; another order of sums costs 0.45 sqrt(K) u for
# K <= 192 (2.1) and 0.35 sqrt(d) u for d <= 192 (2.5), and is carried on likewise.
# fft_impl: as fft_norm; a chirp takes two transforms for one, 5.4 u seen at 127 positions.
# strict_kernels and the ep_ knobs: the plain side's own error, the other's being smaller or of the same kind.
# Three sines of ten times their argument carry on a product summed in another order: 78 u seen between two filters of
# which either lies 260 to 820 u from the truth.
BOUNDS: Final = {"leaf": 12.0, "composite": 64.0, "sines": 256.0}

CHOICES: Final[tuple[tuple[str, Any], ...]] = (
    *(("fft_norm", norm) for norm in FFT_SCALES if norm != CANONICAL.fft_norm),
    *(("blockdiag_impl", kernel) for kernel in BLOCKDIAG_KERNELS if kernel != CANONICAL.blockdiag_impl),
    # `fused` is a kernel for other devices: tests/kernels/test_fused_gpu.py.
    *(("fft_impl", kernel) for kernel in get_args(FftImpl) if kernel not in (CANONICAL.fft_impl, "fused")),
    *((switch, True) for switch in ("layer_norm_strict", "strict_kernels", "ep_freqmul", "ep_depthwise", "ep_fft")),
)
COMPONENTS: Final = [pair for pair in PAIRS if not pair.fresh]


def distances(built: Twins, knob: str, value: Any) -> dict[str, float]:
    """Rel L2 in units of u of every output under `knob` from the canonical one, both at float32."""
    plain, changed = built.outputs("f32"), built.outputs("f32", CANONICAL.replace(**{knob: value}))
    norms = {name: float(np.linalg.norm(values)) for name, values in plain.items()}
    return {name: float(np.linalg.norm(changed[name] - plain[name])) / (norms[name] or 1.0) / U for name in plain}


@pytest.mark.parametrize("pair", COMPONENTS, ids=lambda pair: pair.name)
@pytest.mark.parametrize(("knob", "value"), CHOICES, ids=[f"{knob}={value}" for knob, value in CHOICES])
def test_a_component_keeps_its_value(pair: Pair, knob: str, value: Any) -> None:
    bound = BOUNDS["leaf" if pair.name in LEAVES else "composite"]
    if (pair.name, knob) == ("hyena_filter", "strict_kernels"):
        bound = BOUNDS["sines"]
    for structure in pair.corpus[:3]:
        measured = distances(twins(pair, structure), knob, value)
        assert measured
        assert [name for name, distance in measured.items() if not distance <= bound] == []


@pytest.mark.parametrize(
    "pair", [pair for pair in COMPONENTS if "conv" in pair.name or "mixer" in pair.name], ids=lambda pair: pair.name
)
def test_the_bound_sees_a_knob_of_meaning(pair: Pair) -> None:
    measured = distances(twins(pair, pair.corpus[0]), "bidir_combine", "avg")
    assert measured["y"] > 1000 * BOUNDS["composite"]


@pytest.mark.parametrize("norm", FFT_SCALES)
@pytest.mark.parametrize("n", [2, 66])
def test_over_the_three_transforms_there_is_one_factor_of_one_over_n(norm: str, n: int) -> None:
    scales = FFT_SCALES[norm]
    forward = {"backward": 0.0, "ortho": -0.5, "forward": -1.0}
    exponent = forward[scales.kernel] + forward[scales.signal] - 1.0 - forward[scales.inverse]
    assert exponent == -1.0
    kernel, signal = (mx.array(np.eye(1, n, dtype=np.float32)[0]) for _ in range(2))
    product = mx.fft.rfft(kernel, norm=scales.kernel) * mx.fft.rfft(signal, norm=scales.signal)
    np.testing.assert_allclose(np.array(mx.fft.irfft(product, n=n, norm=scales.inverse))[0], 1.0, rtol=1e-6)


@pytest.mark.parametrize("kernel", BLOCKDIAG_KERNELS)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)], ids=str)
def test_a_block_diagonal_kernel_takes_any_leading_axes(kernel: str, leading: tuple[int, ...]) -> None:
    stream = np.random.Generator(np.random.Philox(1))
    x, weight = stream.standard_normal((*leading, 3, 5)), stream.standard_normal((3, 4, 5))
    y = BLOCKDIAG_KERNELS[kernel](mx.array(x.astype(np.float32)), mx.array(weight.astype(np.float32)))
    expected = np.einsum("...kp,kqp->...kq", x, weight)
    assert y.shape == (*leading, 3, 4)
    # gamma_5 with the rounding of both operands to float32: 7 u (|X||W|).
    allowed = 7 * U * np.einsum("...kp,kqp->...kq", np.abs(x), np.abs(weight))
    assert (np.abs(np.array(y) - expected) <= allowed).all()


def test_the_strict_layer_norm_rounds_sixteen_bits_once() -> None:
    stream = np.random.Generator(np.random.Philox(2))
    x = mx.array(stream.standard_normal((4, 64)).astype(np.float32)).astype(mx.bfloat16)
    layer = LayerNorm(64, 1e-12, CANONICAL.replace(layer_norm_strict=True))
    layer.weight = mx.array(stream.standard_normal(64).astype(np.float32)).astype(mx.bfloat16)
    layer.bias = layer.weight
    values = np.array(x.astype(mx.float32)).astype(np.float64)
    weight = np.array(layer.weight.astype(mx.float32)).astype(np.float64)
    truth = (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True) * weight + weight
    y = layer(x)
    assert y.dtype == mx.bfloat16
    # Half a unit in the last place of bfloat16, and float32's own error where the sum cancels.
    allowed = RUNGS["bf16"].u * np.abs(truth) + 32 * U * (np.abs(truth - weight) + np.abs(weight))
    assert (np.abs(np.array(y.astype(mx.float32)) - truth) <= allowed).all()
