"""No knob is ignored: each value is refused by name or changes what is computed; a new knob fails until decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

import mlx.core as mx
import numpy as np
import pytest

import mlx_impl
import reference_torch
from mlx_impl.kernels.blockdiag import BLOCKDIAG_KERNELS
from mlx_impl.kernels.pairs import PairSpectrum
from mlx_impl.ops import Ops
from parity.backends.port import build_port, run_port
from parity.backends.reference import build_reference, fill_reference, fresh_parameters, run_reference, state_of
from parity.cases import Case, draw_inputs, draw_parameters
from parity.errors import NotImplementedYetError
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL, HyperProfile
from parity.suites import select

LABELS: Final = frozenset({"name", "description"})
SEMANTIC: Final[Mapping[str, str]] = {
    "gelu_mode": "mlp",
    "bidir_space": "fftconv",
    "bidir_combine": "fftconv",
    "layer_norm_eps": "mlp",
}
"""The knobs of meaning, each with a pair on which it must show on both sides."""

REFUSED: Final[frozenset[str]] = frozenset()
"""Numeric knobs whose kernels do not exist yet."""


class _RanError(Exception):
    """A planted kernel was reached."""


def _stream(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def _float32(seed: int, *shape: int) -> mx.array:
    return mx.array(_stream(seed).standard_normal(shape).astype(np.float32))


def _convolution(profile: HyperProfile) -> mx.array:
    # 33 positions: with n = 66 a division by n rounds, wherever it stands.
    return mlx_impl.fftconv(_float32(1, 2, 8, 33), _float32(2, 8, 33), _float32(3, 8), profile=profile)


def _norm(profile: HyperProfile) -> mx.array:
    # In bfloat16, where the library rounds before scale and shift; in float32 on the CPU both have the same bits.
    layer = mlx_impl.cast(mlx_impl.LayerNorm(768, 1e-12, profile), mx.bfloat16)
    layer.weight = (1 + _float32(9, 768)).astype(mx.bfloat16)
    return layer((10 + _float32(4, 16, 768)).astype(mx.bfloat16))


def _linear(profile: HyperProfile) -> mx.array:
    return Ops(profile).linear(_float32(5, 4, 64), _float32(6, 8, 64), None)


def _short_convolution(profile: HyperProfile) -> mx.array:
    return Ops(profile).depthwise_conv(_float32(10, 2, 40, 8), _float32(11, 8, 3, 1), _float32(12, 8), 2)


def _reaches_its_kernel(profile: HyperProfile) -> bool:
    """Products may agree in every bit, so what is observed is which kernel is called."""
    before = BLOCKDIAG_KERNELS[profile.blockdiag_impl]

    def planted(x: mx.array, weight: mx.array) -> mx.array:
        raise _RanError

    BLOCKDIAG_KERNELS[profile.blockdiag_impl] = planted  # type: ignore[index]
    try:
        Ops(profile).blockdiag(_float32(7, 2, 2, 3), _float32(8, 2, 3, 3))
    except _RanError:
        return True
    finally:
        BLOCKDIAG_KERNELS[profile.blockdiag_impl] = before  # type: ignore[index]
    return False


def _reaches_its_convolution(profile: HyperProfile) -> bool:
    """Two of the convolutions have the native bits, so what is observed is what the seam is asked for."""
    seen = []

    class Watched(Ops):
        def rfft(self, x: mx.array, n: int, norm: str) -> Any:
            seen.append((tuple(x.shape), str(mx.default_stream(mx.default_device()))))
            return super().rfft(x, n, norm)

    ops = Watched(profile)
    if profile.fft_impl == "fused":
        return _asks_for_its_device(ops)
    mlx_impl.fftconv(_float32(1, 2, 8, 33), _float32(2, 8, 33), _float32(3, 8), profile=profile, ops=ops)
    batches, on = {shape[-2] for shape, _ in seen}, {stream for _, stream in seen}
    return {
        "channel_batched": batches == {2} and on == {str(mx.default_stream(mx.cpu))},
        "streamed": batches == {2} and on.isdisjoint({str(mx.default_stream(mx.cpu))}),
        "monarch": isinstance(ops.rfft(_float32(1, 4), 8, "forward"), PairSpectrum),
    }[profile.fft_impl]


def _asks_for_its_device(ops: Ops) -> bool:
    """A kernel for graphics processors says so on the CPU; tests/kernels/test_fused_gpu.py shows what it computes."""
    with pytest.raises(NotImplementedYetError, match="kernel for CUDA and Metal"):
        mlx_impl.fftconv(_float32(1, 2, 8, 33), _float32(2, 8, 33), _float32(3, 8), profile=ops.profile, ops=ops)
    return True


def _changes(compute: Callable[[HyperProfile], mx.array]) -> Callable[[HyperProfile], bool]:
    def other_bits(profile: HyperProfile) -> bool:
        return not bool(mx.array_equal(compute(profile), compute(CANONICAL)))

    return other_bits


HONOURED: Final[Mapping[str, Callable[[HyperProfile], bool]]] = {
    "fft_norm": _changes(_convolution),
    "fft_impl": _reaches_its_convolution,
    "blockdiag_impl": _reaches_its_kernel,
    "layer_norm_strict": _changes(_norm),
    "matmul_precision": _changes(_linear),
    "strict_kernels": _changes(_linear),
    "ep_freqmul": _changes(_convolution),
    "ep_depthwise": _changes(_short_convolution),
    "ep_fft": _changes(_convolution),
}
"""Numeric knobs that the port obeys, each with what shows it."""


def other_values(knob: str) -> list[Any]:
    """Every value of `knob` that the canonical profile does not have."""
    annotation = HyperProfile.model_fields[knob].annotation
    values = (True, False) if annotation is bool else get_args(annotation)
    if knob == "layer_norm_eps":
        values = (1e-2,)
    return [value for value in values if value != getattr(CANONICAL, knob)]


FIELDS: Final = tuple(HyperProfile.model_fields)
NUMERIC: Final = [knob for knob in FIELDS if knob not in LABELS | SEMANTIC.keys()]
NUMERIC_CHOICES: Final = [(knob, value) for knob in NUMERIC for value in other_values(knob)]
SEMANTIC_CHOICES: Final = [(knob, value) for knob in SEMANTIC for value in other_values(knob)]


def test_every_field_of_a_profile_is_decided_exactly_once() -> None:
    decided = [*LABELS, *SEMANTIC, *REFUSED, *HONOURED]
    assert sorted(decided) == sorted(FIELDS)


def test_every_knob_has_another_value_to_try() -> None:
    assert [knob for knob in FIELDS if knob not in LABELS and not other_values(knob)] == []


@pytest.mark.parametrize(
    ("knob", "value"), NUMERIC_CHOICES, ids=[f"{knob}={value} is obeyed or refused" for knob, value in NUMERIC_CHOICES]
)
def test_a_numeric_knob_is_obeyed_or_refused_by_name(knob: str, value: Any) -> None:
    profile = CANONICAL.replace(**{knob: value})
    if knob in REFUSED:
        with pytest.raises(NotImplementedYetError, match=f"{knob}="):
            Ops(profile)
    else:
        assert HONOURED[knob](profile)


@pytest.mark.parametrize(
    ("knob", "value"), NUMERIC_CHOICES, ids=[f"{knob}={value} keeps the reference" for knob, value in NUMERIC_CHOICES]
)
def test_a_numeric_knob_does_not_reach_the_reference(knob: str, value: Any) -> None:
    pair = select(["mlp"])[0]
    built = [
        build_reference(pair, pair.corpus[0], profile) for profile in (CANONICAL, CANONICAL.replace(**{knob: value}))
    ]
    case = Case.make("mlp", pair.corpus[0])
    first, second = (run_reference(pair, module, draw_inputs(pair, case), RUNGS["f32"]) for module in built)
    np.testing.assert_array_equal(first["y"].values, second["y"].values)


@pytest.mark.parametrize(
    ("knob", "value"), SEMANTIC_CHOICES, ids=[f"{knob}={value} means something" for knob, value in SEMANTIC_CHOICES]
)
def test_a_semantic_knob_changes_reference_and_port_alike(knob: str, value: Any) -> None:
    pair = select([SEMANTIC[knob]])[0]
    case = Case.make(pair.name, pair.corpus[0])
    inputs = draw_inputs(pair, case)
    outputs = {}
    for profile in (CANONICAL, CANONICAL.replace(**{knob: value})):
        module = build_reference(pair, case.options, profile)
        fill_reference(module, draw_parameters(pair, case, fresh_parameters(module)))
        port = build_port(pair, case.options, profile, RUNGS["f64"], state_of(module))
        expected = run_reference(pair, module, inputs, RUNGS["f64"])["y"].values
        actual = run_port(pair, port, inputs, RUNGS["f64"])["y"].values
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        outputs[profile] = expected
    plain, changed = outputs.values()
    # Far above the 1e-12 of agreement; the tanh form of GELU departs from the exact one by 1e-4 and less.
    assert np.abs(changed - plain).max() > 1e-6 * np.abs(plain).max()


def test_the_reference_takes_the_same_profile_type() -> None:
    assert reference_torch.fftconv.__kwdefaults__ is None
    assert reference_torch.fftconv.__defaults__ == (None, CANONICAL)
