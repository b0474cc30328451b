"""The float64 substitutes keep their stated bounds; what they stand in for does not, which is why they exist."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import scipy.special

from mlx_impl.ops import Library, Ops
from parity.backends.mlx_float64 import Float64Library, float64_ops
from parity.float64.elementwise import ERF_END, cos64, erf64, exp64, sin64
from parity.float64.spectrum import Float64Spectrum
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.profile import CANONICAL
from parity.suites import select

Array = npt.NDArray[np.float64]
U: Final = 2.0**-53
F64, PLAIN = float64_ops(), Ops()

LENGTHS: Final = (2, 4, 6, 22, 32, 66, 254)
NORMS: Final = ("forward", "backward", "ortho")


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Any:
    with mx.stream(mx.cpu):
        yield


def stream(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def mlx(values: npt.ArrayLike) -> mx.array:
    return mx.array(np.asarray(values, dtype=np.float64), dtype=mx.float64)


def numpy(array: mx.array) -> Array:
    return np.array(array.astype(mx.float64), dtype=np.float64)


def points(radius: float, seed: int = 1) -> Array:
    """Numbers within `radius`, and floats next to multiples of pi/2, where sine and cosine are badly conditioned."""
    x = stream(seed).uniform(-radius, radius, 2000)
    quarter = np.round(x / (np.pi / 2)) * (np.pi / 2)
    return np.concatenate([x, quarter, [0.0, -0.0, radius, -radius, 1e-9]])


def truths(function: Callable[[Any], Any], x: Array) -> Array:
    """`function` of mpmath at every element, to 30 digits and then rounded."""
    with mpmath.workdps(30):
        return np.array([float(function(mpmath.mpf(float(value)))) for value in x.ravel()]).reshape(x.shape)


# --- elementwise: errors in units of u, against mpmath -----------------------------------------------------


def sine_error(ops: Ops, radius: float) -> float:
    x = points(radius)
    return float(np.abs(numpy(ops.sin(mlx(x))) - truths(mpmath.sin, x)).max() / U)


def exponential_error(ops: Ops, radius: float) -> float:
    x, truth = points(radius), truths(mpmath.exp, points(radius))
    return float((np.abs(numpy(ops.exp(mlx(x))) - truth) / truth / (np.abs(x) + 1)).max() / U)


def error_function_error(ops: Ops, radius: float) -> float:
    x = points(radius)
    return float(np.abs(numpy(ops.erf(mlx(x))) - truths(mpmath.erf, x)).max() / U)


def gelu_error(ops: Ops, radius: float) -> float:
    x = points(radius)
    x = x[x != 0]
    truth = truths(lambda v: v * mpmath.erfc(-v / mpmath.sqrt(2)) / 2, x)
    return float((np.abs(numpy(ops.gelu_erf(mlx(x))) - truth) / np.abs(x)).max() / U)


def softmax_error(ops: Ops, radius: float) -> float:
    x = stream(2).uniform(-radius, radius, (20, 37))
    truth = scipy.special.softmax(x, axis=1)
    return float((np.abs(numpy(ops.softmax(mlx(x), axis=1)) - truth) / truth).max() / U)


# name: measure, radii, bound in units of u; the largest error seen stands behind it.
ELEMENTWISE: Final[dict[str, tuple[Callable[[Ops, float], float], tuple[float, ...], float]]] = {
    "sin, absolute": (sine_error, (1, 10, 100, 1000), 2.5),  # 1.9
    "exp, relative to |x| + 1": (exponential_error, (1, 10, 100, 700), 2.5),  # 1.8, the power's whole ulp next to 1
    "erf, absolute": (error_function_error, (1e-3, 1, 7), 16.0),  # 7.6
    "gelu, relative to |x|": (gelu_error, (1e-3, 1, 30), 10.0),  # 3.5
    "softmax, relative": (softmax_error, (1, 10), 40.0),  # 9.3; (|x - max| + 1) u each, |x - max| up to 20
}
RADII: Final = [(name, radius) for name, (_, radii, _) in ELEMENTWISE.items() for radius in radii]


@pytest.mark.parametrize(("name", "radius"), RADII, ids=[f"{name}, up to {radius:g}" for name, radius in RADII])
def test_a_substitute_keeps_its_bound(name: str, radius: float) -> None:
    measure, _, bound = ELEMENTWISE[name]
    assert measure(F64, radius) <= bound


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_without_the_substitute_mlx_misses_the_bound(name: str) -> None:
    """Once this fails, MLX has mended ml-explore/mlx#4158, and the substitute can go."""
    measure, radii, bound = ELEMENTWISE[name]
    assert measure(PLAIN, min(max(radii), 10.0)) > 1000 * bound


@pytest.mark.parametrize("radius", [1, 10, 100, 1000])
def test_the_cosine_of_the_gradient_keeps_the_sines_bound(radius: float) -> None:
    x = points(radius)
    assert np.abs(numpy(cos64(mlx(x))) - truths(mpmath.cos, x)).max() <= 2.5 * U


@pytest.mark.parametrize("ops", [F64, PLAIN], ids=["substitute", "MLX's own"])
@pytest.mark.parametrize("name", ["tanh", "gelu_tanh"])
def test_what_mlx_keeps_in_float64_needs_no_substitute(ops: Ops, name: str) -> None:
    x = stream(3).uniform(-10, 10, 2000)
    if name == "tanh":
        truth, scale = truths(mpmath.tanh, x), np.ones_like(x)
    else:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        truth, scale = x * (1 + np.tanh(inner)) / 2, np.abs(x)
    assert (np.abs(numpy(getattr(ops, name)(mlx(x))) - truth) / scale).max() <= 4 * U


def test_the_base_of_the_exponential_is_e_itself() -> None:
    assert numpy(exp64(mlx([0.0, 1.0]))).tolist() == [1.0, math.e]


SPECIAL: Final = {
    "sin(0) -> 0": (sin64, 0.0, 0.0),
    "sin(-0) -> -0": (sin64, -0.0, -0.0),
    "sin(inf) -> NaN": (sin64, math.inf, math.nan),
    "sin(NaN) -> NaN": (sin64, math.nan, math.nan),
    "exp(inf) -> inf": (exp64, math.inf, math.inf),
    "exp(-inf) -> 0": (exp64, -math.inf, 0.0),
    "exp(NaN) -> NaN": (exp64, math.nan, math.nan),
    "exp(710) -> inf": (exp64, 710.0, math.inf),
    "exp(-746) -> 0": (exp64, -746.0, 0.0),
    "erf(inf) -> 1": (erf64, math.inf, 1.0),
    "erf(-inf) -> -1": (erf64, -math.inf, -1.0),
    "erf(NaN) -> NaN": (erf64, math.nan, math.nan),
}


@pytest.mark.parametrize(("function", "x", "expected"), SPECIAL.values(), ids=SPECIAL)
def test_special_values(function: Callable[[mx.array], mx.array], x: float, expected: float) -> None:
    y = numpy(function(mlx([x])))[0]
    assert (math.isnan(y) and math.isnan(expected)) or (
        y == expected and math.copysign(1, y) == math.copysign(1, expected)
    )


def test_erf_is_odd_and_constant_beyond_its_end() -> None:
    x = points(2 * ERF_END)
    y = numpy(erf64(mlx(x)))
    np.testing.assert_array_equal(numpy(erf64(mlx(-x))), -y)
    beyond = y[np.abs(x) >= ERF_END]
    assert beyond.size
    assert (np.abs(np.abs(beyond) - 1) <= 16 * U).all()


# --- gradients ------------------------------------------------------------------------------------------

GRADIENTS: Final[dict[str, tuple[Callable[[mx.array], mx.array], Callable[[Any], Any], float, float]]] = {
    # Absolute: the sine's and cosine's own 2.5 u, and the product with the cotangent.
    "sin' = cos": (sin64, mpmath.cos, 1.0, 4.0),
    "cos' = -sin": (cos64, lambda v: -mpmath.sin(v), 1.0, 4.0),
    # Relative: (|x| + 2.5) u, and the product; of exp(-x^2) the argument is 25 and is itself rounded.
    "exp' = exp": (exp64, mpmath.exp, 0.0, 9.0),
    "erf' = 2/sqrt(pi) exp(-x^2)": (erf64, lambda v: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-v * v), 0.0, 60.0),
}


@pytest.mark.parametrize(("function", "derivative", "floor", "bound"), GRADIENTS.values(), ids=GRADIENTS)
def test_a_gradient_is_the_analytic_one(
    function: Callable[[mx.array], mx.array], derivative: Callable[[Any], Any], floor: float, bound: float
) -> None:
    x, cotangent = stream(4).uniform(-5, 5, 1000), stream(5).standard_normal(1000)
    actual = numpy(mx.grad(lambda v: mx.sum(function(v) * mlx(cotangent)))(mlx(x)))
    truth = truths(derivative, x)
    allowed = bound * U * np.maximum(np.abs(truth), floor) * np.abs(cotangent)
    assert (np.abs(actual - truth * cotangent) <= allowed).all()


def by_differences(function: Callable[[mx.array], mx.array], x: Array) -> tuple[float, float]:
    """Directional derivative of sum(function(x) w) by the gradient and by central differences."""
    w, direction = mlx(stream(6).standard_normal(function(mlx(x)).shape)), stream(7).standard_normal(x.shape)

    def loss(v: mx.array) -> mx.array:
        return mx.sum(function(v) * w)

    by_gradient = float(np.sum(numpy(mx.grad(loss)(mlx(x))) * direction))
    h = 2.0**-17  # truncation h^2 = 6e-11, rounding u/h = 1e-11
    ends = [float(numpy(loss(mlx(x + sign * h * direction)))) for sign in (1, -1)]
    return by_gradient, (ends[0] - ends[1]) / (2 * h)


COMPOSED: Final[dict[str, Callable[[mx.array], mx.array]]] = {
    "softmax": lambda x: F64.softmax(x, axis=0),
    "layer norm": lambda x: F64.layer_norm(x, mlx(np.linspace(1, 2, 6)), mlx(np.linspace(-1, 1, 6)), 1e-3),
    "gelu": F64.gelu_erf,
    "gelu tanh": F64.gelu_tanh,
    "rfft": lambda x: (lambda s: mx.concatenate([s.real, s.imag]))(F64.rfft(x, 10, "ortho")),
    "irfft": lambda x: F64.irfft(Float64Spectrum(x[:2], x[2:]), 10, "backward"),
    "depthwise convolution": lambda x: F64.depthwise_conv(
        x[None], mlx(np.linspace(-1, 1, 18).reshape(6, 3, 1)), mlx(np.zeros(6)), 2
    ),
}


@pytest.mark.parametrize("function", COMPOSED.values(), ids=COMPOSED)
def test_a_gradient_is_that_of_central_differences(function: Callable[[mx.array], mx.array]) -> None:
    by_gradient, measured = by_differences(function, stream(8).standard_normal((4, 6)))
    assert abs(by_gradient) > 1e-3
    assert by_gradient == pytest.approx(measured, rel=1e-6)


def test_a_wrong_gradient_would_be_seen() -> None:
    by_gradient, measured = by_differences(lambda x: mx.stop_gradient(x) * x, stream(8).standard_normal((4, 6)))
    assert by_gradient != pytest.approx(measured, rel=1e-2)


# --- transforms -----------------------------------------------------------------------------------------


def half_spectrum(spectrum: Any) -> Any:
    if isinstance(spectrum, Float64Spectrum):
        return numpy(spectrum.real) + 1j * numpy(spectrum.imag)
    return np.array(spectrum)


def forward_error(ops: Ops, n: int, norm: str, length: int) -> float:
    """Rel L2 in units of u from the direct sum in long double."""
    x = stream(n).standard_normal((3, length))
    angle = (
        -2j * np.arccos(np.longdouble(-1)) * (np.outer(np.arange(length), np.arange(n // 2 + 1)) % n) / np.longdouble(n)
    )
    truth = x.astype(np.clongdouble) @ np.exp(angle) * {"backward": 1, "forward": 1 / n, "ortho": 1 / np.sqrt(n)}[norm]
    actual = half_spectrum(ops.rfft(mlx(x), n, norm))
    return float(
        np.linalg.norm((actual - truth).astype(np.complex128)) / np.linalg.norm(truth.astype(np.complex128)) / U
    )


def inverse_error(ops: Ops, n: int, norm: str) -> float:
    """Rel L2 in units of u of the inverse, from NumPy's, whose own error is below a unit."""
    spectrum = np.fft.rfft(stream(n).standard_normal((3, n)))
    truth = np.fft.irfft(spectrum, n, norm=norm)
    given: Any = Float64Spectrum(mlx(spectrum.real), mlx(spectrum.imag)) if ops is F64 else mx.array(spectrum)
    return float(np.linalg.norm(numpy(ops.irfft(given, n, norm)) - truth) / np.linalg.norm(truth) / U)


# Two dense transforms of about sqrt(n) terms each and a twiddle: about sqrt(n1) + sqrt(n2) roundings; 5.7 u seen at 66.
TRANSFORM_BOUND: Final = 12.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", LENGTHS)
def test_a_forward_transform_keeps_float64(n: int, norm: str) -> None:
    assert forward_error(F64, n, norm, length=n // 2) <= TRANSFORM_BOUND
    assert forward_error(F64, n, norm, length=n) <= TRANSFORM_BOUND


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", LENGTHS)
def test_an_inverse_transform_keeps_float64(n: int, norm: str) -> None:
    assert inverse_error(F64, n, norm) <= TRANSFORM_BOUND


@pytest.mark.parametrize("n", [6, 66, 254])
def test_without_the_substitute_transforms_are_float32(n: int) -> None:
    """Once this fails, MLX has a complex128, and the substitute can go."""
    assert forward_error(PLAIN, n, "backward", length=n) > 1e6 * TRANSFORM_BOUND
    assert inverse_error(PLAIN, n, "backward") > 1e6 * TRANSFORM_BOUND


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [*LENGTHS, 3, 127])
def test_there_and_back_is_the_identity(n: int, norm: str) -> None:
    x = stream(n).standard_normal((2, n))
    back = numpy(F64.irfft(F64.rfft(mlx(x), n, norm), n, norm))
    assert np.linalg.norm(back - x) <= 2 * TRANSFORM_BOUND * U * np.linalg.norm(x)


@pytest.mark.parametrize("n", [4, 6])
def test_the_inverse_ignores_imaginary_parts_where_a_real_signal_has_none(n: int) -> None:
    real, imag = stream(1).standard_normal((2, n // 2 + 1))
    expected = np.fft.irfft(real + 1j * imag, n)
    np.testing.assert_allclose(
        numpy(F64.irfft(Float64Spectrum(mlx(real), mlx(imag)), n, "backward")), expected, atol=8 * U
    )


def test_spectra_multiply_add_conjugate_and_scale_as_complex_numbers() -> None:
    a, b = (stream(seed).standard_normal(5) + 1j * stream(seed + 9).standard_normal(5) for seed in (1, 2))
    x, y = (Float64Spectrum(mlx(z.real), mlx(z.imag)) for z in (a, b))
    np.testing.assert_allclose(half_spectrum(F64.spectrum_product(x, y)), a * b, atol=4 * U * 9)
    np.testing.assert_array_equal(half_spectrum(F64.spectrum_sum(x, y)), a + b)
    np.testing.assert_array_equal(half_spectrum(F64.spectrum_conjugate(x)), a.conj())
    np.testing.assert_array_equal(half_spectrum(F64.spectrum_scale(x, 0.5)), a * 0.5)


# --- the rest -------------------------------------------------------------------------------------------


def layer_norm_error(ops: Ops) -> float:
    x, weight, bias = (
        stream(1).standard_normal((20, 37)) + 3,
        stream(2).standard_normal(37),
        stream(3).standard_normal(37),
    )
    wide = x.astype(np.longdouble)
    centred = wide - wide.mean(-1, keepdims=True)
    truth = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.longdouble(1e-12)) * weight + bias
    actual = numpy(ops.layer_norm(mlx(x), mlx(weight), mlx(bias), 1e-12))
    return float(np.linalg.norm((actual - truth).astype(np.float64)) / np.linalg.norm(truth.astype(np.float64)) / U)


def convolution_error(ops: Ops, padding: int = 2) -> float:
    x, weight, bias = (
        stream(1).standard_normal((2, 9, 5)),
        stream(2).standard_normal((5, 3, 1)),
        stream(3).standard_normal(5),
    )
    padded = np.pad(x, [(0, 0), (padding, padding), (0, 0)]).astype(np.longdouble)
    positions = 9 + 2 * padding - 2
    truth = sum(padded[:, tap : tap + positions] * weight[:, tap, 0] for tap in range(3)) + bias
    actual = numpy(ops.depthwise_conv(mlx(x), mlx(weight), mlx(bias), padding))
    assert actual.shape == truth.shape
    return float(np.abs(actual - truth).max() / U)


def test_the_layer_norm_keeps_float64() -> None:
    # 0.35 sqrt(d) kappa with kappa = sqrt(1 + 3^2): 6.7; 3.5 seen.
    assert layer_norm_error(F64) <= 8.0


def test_without_the_substitute_the_layer_norm_is_float32() -> None:
    assert layer_norm_error(PLAIN) > 1e6 * 8.0


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_the_depthwise_convolution_keeps_float64(padding: int) -> None:
    # gamma_4 times a sum of three products of normal numbers and a bias, below 16 here.
    assert convolution_error(F64, padding) <= 4 * 16.0


def test_without_the_substitute_the_depthwise_convolution_is_float32() -> None:
    assert convolution_error(PLAIN) > 1e6 * 64.0


def test_every_primitive_that_mlx_keeps_in_the_dtype_alone_is_replaced() -> None:
    named = {name for name in vars(Library) if not name.startswith("_")}
    own = {name for name in vars(Float64Library) if not name.startswith("_")}
    assert own == named


def test_a_convolution_that_is_not_depthwise_has_no_float64_form() -> None:
    with pytest.raises(ValueError, match="only depthwise convolutions"):
        Float64Library().conv1d(mlx(np.ones((1, 4, 4))), mlx(np.ones((4, 3, 2))), padding=1, groups=2)


# The port's own lines above the library run at float64 too: what they pass on wrongly is seen there.
WRONG_ARGUMENTS = {
    "epsilon": ("layer_norm", lambda call: lambda self, x, w, b, eps: call(self, x, w, b, 1e-5)),
    "padding": ("conv1d", lambda call: lambda self, x, w, padding, groups: call(self, x, w, padding - 1, groups)),
    "axis": ("softmax", lambda call: lambda self, x, axis: call(self, x, -1)),
    "norm of the inverse": ("irfft", lambda call: lambda self, s, n, norm: call(self, s, n, "backward")),
}


@pytest.mark.parametrize(("name", "wrong"), WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_a_wrong_argument_to_the_library_is_seen_at_f64(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Float64Library, name, wrong(getattr(Float64Library, name)))
    component = {"layer_norm": "mlp", "conv1d": "monarch_mixer", "softmax": "attention_pooler", "irfft": "fftconv"}[
        name
    ]
    plan = Plan(select([component]), [CANONICAL], ("f64",), "quick", seed=0)
    assert execute(plan, Results({})).verdict == "fail"


def test_the_substitutes_take_a_profile_like_any_primitives() -> None:
    assert float64_ops(CANONICAL.replace(fft_norm="ortho")).fft_scales.kernel == "backward"
