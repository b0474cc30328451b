"""Every float64 form against mpmath, NumPy, SciPy or torch, over ranges and at their ends; gradients against torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
import mpmath
import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch
from float64_arrays import Array, U, mlx, numpy, relative, stream, truths
from torch.nn import functional

from parity.float64 import FORMS, METHOD_FORMS, Float64Spectrum, transforms
from parity.float64.elementwise import cos64, exp64, log2_64, log10_64, sin64, tan64


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Any:
    with mx.stream(mx.cpu):
        yield


# --- elementwise, against mpmath ------------------------------------------------------------------------------------


def spread(low: float, high: float, *more: float) -> Array:
    return np.concatenate([stream(1).uniform(low, high, 1500), more])


TINY: Final = (1e-300, -1e-300, 1e-10, -1e-10, 1e-3)

# name, mpmath's, points, bound on |error| / |truth| in u (each is twice to three times the largest seen)
RELATIVE: Final[dict[str, tuple[str, Callable[[Any], Any], Array, float]]] = {
    "exp near 0": ("exp", mpmath.exp, spread(-1, 1, *TINY, 0.0), 2.5),
    "exp up to 700": ("exp", mpmath.exp, spread(-700, 700, 700.0, -700.0, 709.0, -708.0), 2.5),
    "sigmoid": ("sigmoid", lambda v: 1 / (1 + mpmath.exp(-v)), spread(-40, 40, *TINY, 0.0), 6.0),
    "sigmoid's tails": ("sigmoid", lambda v: 1 / (1 + mpmath.exp(-v)), spread(-700, 700, -700.0, 700.0), 6.0),
    "erf near 0": ("erf", mpmath.erf, spread(-1e-6, 1e-6, *TINY), 8.0),
    "erf": ("erf", mpmath.erf, spread(-7, 7, 1.0, -1.0, 0.9999999, 1.0000001), 8.0),
    "erfinv": ("erfinv", mpmath.erfinv, spread(-0.999, 0.999, *TINY, 0.5, -0.5, 0.4999999)[::4], 16.0),
    "erfinv's tails": ("erfinv", mpmath.erfinv, 1 - 10.0 ** -stream(2).uniform(2, 15.5, 100), 16.0),
    "tan": ("tan", mpmath.tan, spread(-1e3, 1e3), 2.0),
    "log2": ("log2", lambda v: mpmath.log(v, 2), spread(1e-3, 1e3, 8.0, 1e300, 1e-300), 2.0),
    "log10": ("log10", mpmath.log10, spread(1e-3, 1e3, 100.0, 1e300, 1e-300), 2.5),
}


@pytest.mark.parametrize(("name", "truth", "x", "bound"), RELATIVE.values(), ids=RELATIVE)
def test_an_elementwise_form_keeps_its_relative_error(
    name: str, truth: Callable[[Any], Any], x: Array, bound: float
) -> None:
    exact = truths(truth, x)
    error = np.abs(numpy(FORMS[name](mlx(x))) - exact)
    assert (error <= bound * U * np.abs(exact)).all(), (error / np.maximum(np.abs(exact), 1e-320) / U).max()


@pytest.mark.parametrize("radius", [1.0, 1e3, 1e9, 1e15])
@pytest.mark.parametrize(("name", "truth"), [("sin", mpmath.sin), ("cos", mpmath.cos)], ids=["sin", "cos"])
def test_sine_and_cosine_keep_their_absolute_error_for_large_arguments(
    name: str, truth: Callable[[Any], Any], radius: float
) -> None:
    x = spread(-radius, radius, *TINY, 0.0, math.pi, math.pi / 2)
    assert np.abs(numpy(FORMS[name](mlx(x))) - truths(truth, x)).max() <= 2.5 * U


@pytest.mark.parametrize("name", ["sin", "cos", "exp", "sigmoid", "erf", "erfinv"])
def test_without_the_form_the_same_is_float32(name: str) -> None:
    """Once this fails, MLX computes it in float64, and the form can go."""
    x = stream(1).uniform(-0.9, 0.9, 500)
    truth = numpy(FORMS[name](mlx(x)))
    assert relative(np.array(getattr(mx, name)(mlx(x))), truth) > 1e-10


SPECIAL: Final = {
    "exp(710) -> inf": ("exp", 710.0, math.inf),
    "exp(-746) -> 0": ("exp", -746.0, 0.0),
    "exp(-inf) -> 0": ("exp", -math.inf, 0.0),
    "exp(NaN) -> NaN": ("exp", math.nan, math.nan),
    "exp(-745) -> the least subnormal": ("exp", -745.0, 5e-324),
    "sigmoid(-inf) -> 0": ("sigmoid", -math.inf, 0.0),
    "sigmoid(inf) -> 1": ("sigmoid", math.inf, 1.0),
    "sigmoid(NaN) -> NaN": ("sigmoid", math.nan, math.nan),
    "erf(-0) -> -0": ("erf", -0.0, -0.0),
    "erf(inf) -> 1": ("erf", math.inf, 1.0),
    "erf(NaN) -> NaN": ("erf", math.nan, math.nan),
    "erfinv(-0) -> -0": ("erfinv", -0.0, -0.0),
    "erfinv(1) -> inf": ("erfinv", 1.0, math.inf),
    "erfinv(-1) -> -inf": ("erfinv", -1.0, -math.inf),
    "erfinv(1.5) -> NaN": ("erfinv", 1.5, math.nan),
    "sin(inf) -> NaN": ("sin", math.inf, math.nan),
    "cos(-0) -> 1": ("cos", -0.0, 1.0),
    "log2(0) -> -inf": ("log2", 0.0, -math.inf),
}


@pytest.mark.parametrize(("name", "x", "expected"), SPECIAL.values(), ids=SPECIAL)
def test_special_values(name: str, x: float, expected: float) -> None:
    np.testing.assert_array_equal(numpy(FORMS[name](mlx([x]))), [expected])
    assert math.isnan(expected) or math.copysign(1, numpy(FORMS[name](mlx([x])))[0]) == math.copysign(1, expected)


def test_logaddexp_is_that_of_numpy_with_infinities_too() -> None:
    x, y = stream(1).standard_normal((2, 400)) * 50
    assert relative(numpy(FORMS["logaddexp"](mlx(x), mlx(y))), np.logaddexp(x, y)) <= 4 * U
    ends = np.array([math.inf, -math.inf, math.inf, -math.inf, 0.0])
    others = np.array([math.inf, -math.inf, -math.inf, 3.0, 0.0])
    np.testing.assert_array_equal(numpy(FORMS["logaddexp"](mlx(ends), mlx(others))), np.logaddexp(ends, others))
    assert np.isnan(numpy(FORMS["logaddexp"](mlx([math.nan, 1.0]), mlx([1.0, math.nan])))).all()
    assert numpy(FORMS["logaddexp"](mlx([[1.0], [2.0]]), 0)).shape == (2, 1)


# --- reductions, norms, attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_softmax_and_logsumexp_are_those_of_scipy(axis: Any) -> None:
    x = stream(1).standard_normal((3, 4, 5)) * 30
    assert relative(numpy(FORMS["softmax"](mlx(x), axis=axis, precise=True)), scipy.special.softmax(x, axis)) <= 8 * U
    for keepdims in (False, True):
        actual = numpy(FORMS["logsumexp"](mlx(x), axis=axis, keepdims=keepdims))
        assert relative(actual, scipy.special.logsumexp(x, axis, keepdims=keepdims)) <= 4 * U


def test_softmax_and_logsumexp_take_masks_and_infinities() -> None:
    masked = np.array([[0.0, -math.inf, 1.0], [-math.inf, 2.0, -math.inf]])
    np.testing.assert_allclose(
        numpy(FORMS["softmax"](mlx(masked), axis=-1)), scipy.special.softmax(masked, -1), rtol=4 * U
    )
    assert np.isnan(numpy(FORMS["softmax"](mlx([-math.inf, -math.inf])))).all()
    rows = np.array([[-math.inf, -math.inf], [math.inf, 0.0], [-math.inf, 3.0], [1e300, -1e300]])
    np.testing.assert_array_equal(numpy(FORMS["logsumexp"](mlx(rows), axis=1)), [-math.inf, math.inf, 3.0, 1e300])


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_logcumsumexp_is_mlx_own_but_for_its_accuracy(axis: Any, reverse: bool, inclusive: bool) -> None:
    x = stream(1).standard_normal((3, 7))
    given: dict[str, Any] = {"axis": axis, "reverse": reverse, "inclusive": inclusive}
    actual = numpy(FORMS["logcumsumexp"](mlx(x), **given))
    rough = np.array(mx.logcumsumexp(mx.array(x, dtype=mx.float32), **given))
    assert actual.shape == rough.shape
    np.testing.assert_allclose(actual, rough, rtol=1e-4, atol=1e-5)


def test_logcumsumexp_is_that_of_numpy() -> None:
    x = stream(1).standard_normal((3, 70)) * 20
    assert relative(numpy(FORMS["logcumsumexp"](mlx(x), axis=-1)), np.logaddexp.accumulate(x, axis=-1)) <= 16 * U


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("affine", [True, False])
def test_the_norms_are_those_of_torch(affine: bool, offset: float) -> None:
    x, w, b = stream(1).standard_normal((4, 9)) + offset, stream(2).standard_normal(9), stream(3).standard_normal(9)
    weight, bias = (mlx(w), mlx(b)) if affine else (None, None)
    there = [torch.tensor(v) for v in (w, b)] if affine else [None, None]
    kappa = math.hypot(1, offset)
    expected = functional.layer_norm(torch.tensor(x), (9,), *there, eps=1e-5).numpy()
    assert relative(numpy(FORMS["fast.layer_norm"](mlx(x), weight, bias, 1e-5)), expected) <= 8 * U * kappa
    expected = functional.rms_norm(torch.tensor(x), (9,), there[0], eps=1e-5).numpy()
    assert relative(numpy(FORMS["fast.rms_norm"](mlx(x), weight, 1e-5)), expected) <= 8 * U


def masks(queries: int, keys: int) -> dict[str, Any]:
    visible = stream(9).random((queries, keys)) < 0.7
    visible[0] = False
    added = np.where(stream(8).random((queries, keys)) < 0.7, 0.5, -math.inf)
    added[:, 0] = 1.0
    return {"none": None, "causal": "causal", "booleans, one row all false": visible, "numbers": added}


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", ["none", "causal", "booleans, one row all false", "numbers"])
def test_the_attention_is_mlx_own_but_for_its_accuracy(kind: str, groups: int, sinks: bool) -> None:
    q, k, v = (
        stream(i).standard_normal((2, heads, t, 8)) for i, (heads, t) in enumerate([(4, 3), (groups, 5), (groups, 5)])
    )
    mask = masks(3, 5)[kind]
    given, rough = mask, mask
    if isinstance(mask, np.ndarray):
        given = mx.array(mask) if mask.dtype == bool else mlx(mask)
        rough = mx.array(mask) if mask.dtype == bool else mx.array(mask, dtype=mx.float32)
    sink = stream(5).standard_normal(4) if sinks else None
    form = FORMS["fast.scaled_dot_product_attention"]
    actual = form(mlx(q), mlx(k), mlx(v), scale=0.3, mask=given, sinks=None if sink is None else mlx(sink))
    own = mx.fast.scaled_dot_product_attention(
        *(mx.array(a, dtype=mx.float32) for a in (q, k, v)),
        scale=0.3,
        mask=rough,
        sinks=None if sink is None else mx.array(sink, dtype=mx.float32),
    )
    np.testing.assert_allclose(numpy(actual), np.array(own), rtol=1e-4, atol=1e-5)
    if groups == 4 and not sinks and kind != "causal":
        tensors = [torch.tensor(a) for a in (q, k, v)]
        there = None if mask is None else torch.tensor(mask)
        if kind.startswith("booleans"):  # torch answers NaN or 0 for a row without keys, by version
            there = torch.tensor(np.where(mask, 0.0, np.finfo(np.float64).min))
        scores = 0.3 * tensors[0] @ tensors[1].mT + (0.0 if there is None else there)
        assert relative(numpy(actual), (torch.softmax(scores, -1) @ tensors[2]).numpy()) <= 16 * U


def test_an_unknown_mask_is_refused() -> None:
    q = mlx(np.ones((1, 1, 2, 2)))
    with pytest.raises(ValueError, match="mask is 'casual'; allowed: 'causal'"):
        FORMS["fast.scaled_dot_product_attention"](q, q, q, scale=1.0, mask="casual")


@pytest.mark.parametrize("traditional", [True, False])
@pytest.mark.parametrize("offset", [0, 7, "by batch"])
@pytest.mark.parametrize("wavelengths", [False, True])
def test_the_rotary_encoding_is_mlx_own_but_for_its_accuracy(traditional: bool, offset: Any, wavelengths: bool) -> None:
    x = stream(1).standard_normal((2, 3, 5, 8))
    start = mx.array([3, 9]) if offset == "by batch" else offset
    w = stream(2).uniform(1, 50, 3)
    actual, rough = (
        function(
            array,
            6,
            traditional=traditional,
            base=None if wavelengths else 10000.0,
            scale=0.5,
            offset=start,
            freqs=freqs if wavelengths else None,
        )
        for function, array, freqs in (
            (FORMS["fast.rope"], mlx(x), mlx(w)),
            (mx.fast.rope, mx.array(x, dtype=mx.float32), mx.array(w, dtype=mx.float32)),
        )
    )
    np.testing.assert_allclose(numpy(actual), np.array(rough), rtol=1e-4, atol=2e-5)
    assert abs(np.linalg.norm(numpy(actual)) / np.linalg.norm(x) - 1) <= 4 * U  # a rotation


def test_the_cross_entropy_is_that_of_torch() -> None:
    x, targets = stream(1).standard_normal((2, 4, 9)) * 10, stream(2).integers(0, 9, (2, 4))
    expected = functional.cross_entropy(
        torch.tensor(x).reshape(8, 9), torch.tensor(targets).reshape(8), reduction="none"
    )
    actual = numpy(FORMS["fast.cross_entropy"](mlx(x), mx.array(targets)))
    assert relative(actual, expected.numpy().reshape(2, 4)) <= 8 * U


@pytest.mark.parametrize("lhs", [None, [[5], [0], [5]]], ids=["all", "named"])
@pytest.mark.parametrize("rhs", [None, [[2, 0], [1, 1], [0, 2]]], ids=["all", "named"])
def test_the_gathered_product_is_mlx_own_but_for_its_accuracy(lhs: Any, rhs: Any) -> None:
    a, b = stream(1).standard_normal((3, 2, 4, 6)), stream(2).standard_normal((3, 1, 6, 5))
    chosen = [None if indices is None else mx.array(indices) for indices in (lhs, rhs)]
    expected = np.array(mx.gather_mm(mlx(a).astype(mx.float32), mlx(b).astype(mx.float32), *chosen))
    actual = numpy(FORMS["gather_mm"](mlx(a), mlx(b), *chosen))
    assert actual.shape == expected.shape
    assert relative(expected.astype(np.float64), actual) <= 1e-6


def test_the_gathered_product_is_that_of_numpy() -> None:
    a, b = stream(1).standard_normal((4, 1, 6)), stream(2).standard_normal((3, 6, 5))
    actual = numpy(FORMS["gather_mm"](mlx(a), mlx(b), rhs_indices=mx.array([2, 0, 0, 1]), sorted_indices=False))
    assert relative(actual, a @ b[[2, 0, 0, 1]]) <= 8 * U
    with pytest.raises(RuntimeError, match="float32"):
        mx.eval(mx.gather_mm(mlx(a), mlx(b), rhs_indices=mx.array([2, 0, 0, 1])))


def test_the_determinant_is_that_of_numpy() -> None:
    m = stream(1).standard_normal((3, 5, 5))
    assert relative(numpy(FORMS["linalg.det"](mlx(m))), np.linalg.det(m)) <= 64 * U


# --- convolutions ---------------------------------------------------------------------------------------------------

SETTINGS: Final = [
    {},
    {"stride": 2},
    {"padding": 3},
    {"dilation": 2},
    {"groups": 2},
    {"stride": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"groups": 4, "padding": 1},
]


def channels_last(tensor: torch.Tensor) -> Array:
    return tensor.movedim(1, -1).numpy()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_a_convolution_is_that_of_torch(axes: int, given: dict[str, int]) -> None:
    groups = given.get("groups", 1)
    x = stream(1).standard_normal((2, *(9, 8, 7)[:axes], 4))
    w = stream(2).standard_normal((4, *(3, 2, 3)[:axes], 4 // groups))
    there = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    expected = there(torch.tensor(x).movedim(-1, 1), torch.tensor(w).movedim(-1, 1), **given)
    assert relative(numpy(FORMS[f"conv{axes}d"](mlx(x), mlx(w), **given)), channels_last(expected)) <= 16 * U


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"dilation": 2},
        {"stride": 3, "padding": 1, "output_padding": 2},
        {"stride": 2, "dilation": 2},
    ],
    ids=str,
)
def test_a_transposed_convolution_is_that_of_torch(axes: int, given: dict[str, int]) -> None:
    x = stream(1).standard_normal((2, *(6, 5, 4)[:axes], 3))
    w = stream(2).standard_normal((4, *(3, 2, 3)[:axes], 3))
    there = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[axes - 1]
    expected = there(torch.tensor(x).movedim(-1, 1), torch.tensor(np.moveaxis(w, -1, 0)), **given)
    assert relative(numpy(FORMS[f"conv_transpose{axes}d"](mlx(x), mlx(w), **given)), channels_last(expected)) <= 16 * U


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("sizes", [(9, 4), (4, 9), (6, 6), (8, 3)])
def test_convolve_is_that_of_numpy(sizes: tuple[int, int], mode: Any) -> None:
    a, v = (stream(i).standard_normal(size) for i, size in enumerate(sizes))
    expected = np.convolve(a, v, mode)
    rough = np.array(mx.convolve(mx.array(a, dtype=mx.float32), mx.array(v, dtype=mx.float32), mode))
    actual = numpy(FORMS["convolve"](mlx(a), mlx(v), mode))
    np.testing.assert_allclose(actual, rough, rtol=1e-4, atol=1e-5)
    if mode != "same":  # MLX's middle starts one later than NumPy's for an even number of taps
        assert relative(actual, expected) <= 8 * U


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is 'some'; allowed: full, same, valid"):
        FORMS["convolve"](mlx([1.0, 2.0]), mlx([1.0]), "some")


@pytest.mark.parametrize("padding", [2, [1, 2], ([0, 1], [2, 3]), ([-1, 0], [0, -2])], ids=str)
@pytest.mark.parametrize("flip", [True, False])
def test_the_general_convolution_is_mlx_own_but_for_its_accuracy(padding: Any, flip: bool) -> None:
    x, w = stream(1).standard_normal((2, 7, 6, 4)), stream(2).standard_normal((6, 3, 2, 2))
    given: dict[str, Any] = {"stride": [2, 1], "padding": padding, "kernel_dilation": [1, 2], "input_dilation": [2, 3]}
    given |= {"groups": 2, "flip": flip}
    rough = np.array(mx.conv_general(mx.array(x, dtype=mx.float32), mx.array(w, dtype=mx.float32), **given))
    np.testing.assert_allclose(numpy(FORMS["conv_general"](mlx(x), mlx(w), **given)), rough, rtol=1e-4, atol=1e-5)


def test_the_general_convolution_is_that_of_scipy() -> None:
    x, w = stream(1).standard_normal((7, 6)), stream(2).standard_normal((3, 2))
    actual = numpy(FORMS["conv_general"](mlx(x[None, ..., None]), mlx(w[None, ..., None]), flip=True))[0, ..., 0]
    assert relative(actual, scipy.signal.convolve(x, w, mode="valid", method="direct")) <= 8 * U


# --- transforms -----------------------------------------------------------------------------------------------------

TRANSFORM_BOUND: Final = 16.0
TRANSFORMS: Final = [name.removeprefix("fft.") for name in FORMS if name.startswith("fft.")]


def pair(z: Any) -> Float64Spectrum:
    return Float64Spectrum(mlx(z.real), mlx(z.imag))


def test_twelve_transforms_have_a_form() -> None:
    assert len(TRANSFORMS) == 12


@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_that_of_numpy(name: str, norm: str) -> None:
    shape = (3, 6, 10)
    x = stream(1).standard_normal(shape)
    z = x if name.startswith("r") else x + 1j * stream(2).standard_normal(shape)
    given = mlx(z) if name.startswith("r") else pair(z)
    sizes: list[dict[str, Any]] = [{}, {"n": 7, "axis": 1}, {"n": 16}]
    if name[-1] in "2n":
        sizes = [{}, {"s": (5, 12), "axes": (0, 2)}]
    for size in sizes:
        expected = getattr(np.fft, name)(z, **size, norm=norm)
        actual = numpy(getattr(transforms, name)(given, **size, norm=norm))
        assert relative(actual, expected) <= TRANSFORM_BOUND * U


@pytest.mark.parametrize("n", [1, 2, 3, 127, 1021, 1031, 2062, 4096])
def test_a_transform_of_any_length_keeps_float64(n: int) -> None:
    """Lengths with a prime factor above 1024 go by a chirp."""
    x = stream(n).standard_normal((2, n))
    spectrum = transforms.rfft(mlx(x))
    assert relative(numpy(spectrum), np.fft.rfft(x)) <= TRANSFORM_BOUND * U
    assert relative(numpy(transforms.irfft(spectrum, n=n)), x) <= 2 * TRANSFORM_BOUND * U


# --- gradients, against torch ---------------------------------------------------------------------------------------

Gradient = tuple[Callable[..., Any], Callable[..., Any], list[Array]]


def normal(*shapes: tuple[int, ...]) -> list[Array]:
    return [stream(i + 1).standard_normal(shape) for i, shape in enumerate(shapes)]


def convolved(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(x.movedim(-1, 1), w.movedim(-1, 1), stride=2, padding=1, groups=2).movedim(1, -1)


X: Final = [(4, 7)]
GRADIENTS: Final[dict[str, Gradient]] = {
    **{
        name: (FORMS[name], getattr(torch, name), normal(*X)) for name in ("sin", "cos", "tan", "exp", "sigmoid", "erf")
    },
    **{name: (FORMS[name], getattr(torch, name), [np.abs(normal(*X)[0]) + 0.1]) for name in ("log2", "log10")},
    "erfinv": (FORMS["erfinv"], torch.erfinv, [np.tanh(normal(*X)[0])]),
    "logaddexp": (FORMS["logaddexp"], torch.logaddexp, normal((4, 7), (4, 1))),
    "softmax": (lambda x: FORMS["softmax"](x, axis=0), lambda x: torch.softmax(x, 0), normal(*X)),
    "logsumexp": (lambda x: FORMS["logsumexp"](x, axis=1), lambda x: torch.logsumexp(x, 1), normal(*X)),
    "logcumsumexp": (lambda x: FORMS["logcumsumexp"](x, axis=1), lambda x: torch.logcumsumexp(x, 1), normal(*X)),
    "layer_norm": (
        lambda x, w, b: FORMS["fast.layer_norm"](x, w, b, 1e-5),
        lambda x, w, b: functional.layer_norm(x, (7,), w, b),
        normal((4, 7), (7,), (7,)),
    ),
    "rms_norm": (
        lambda x, w: FORMS["fast.rms_norm"](x, w, 1e-5),
        lambda x, w: functional.rms_norm(x, (7,), w, 1e-5),
        normal((4, 7), (7,)),
    ),
    "attention": (
        lambda q, k, v: FORMS["fast.scaled_dot_product_attention"](q, k, v, scale=0.5, mask="causal"),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5),
        normal(*[(2, 3, 5, 4)] * 3),
    ),
    "gather_mm": (
        lambda x, w: FORMS["gather_mm"](x, w, rhs_indices=mx.array([2, 0, 2])),
        lambda x, w: x @ w[[2, 0, 2]],
        [stream(24).standard_normal((3, 2, 6)), stream(25).standard_normal((4, 6, 5))],
    ),
    "cross_entropy": (
        lambda x: FORMS["fast.cross_entropy"](x, mx.array([1, 2, 0, 6])),
        lambda x: functional.cross_entropy(x, torch.tensor([1, 2, 0, 6]), reduction="none"),
        normal(*X),
    ),
    "conv2d": (
        lambda x, w: FORMS["conv2d"](x, w, stride=2, padding=1, groups=2),
        convolved,
        normal((2, 6, 5, 4), (4, 3, 2, 2)),
    ),
    "fft": (
        lambda x: (lambda s: s.real * 2 + s.imag)(FORMS["fft.fft"](x)),
        lambda x: (lambda s: s.real * 2 + s.imag)(torch.fft.fft(x)),
        normal(*X),
    ),
    "rfft and irfft": (
        lambda x: FORMS["fft.irfft"](FORMS["fft.rfft"](x, n=12) * FORMS["fft.rfft"](x * x, n=12), n=11),
        lambda x: torch.fft.irfft(torch.fft.rfft(x, n=12) * torch.fft.rfft(x * x, n=12), n=11),
        normal(*X),
    ),
}


@pytest.mark.parametrize(("form", "there", "arrays"), GRADIENTS.values(), ids=GRADIENTS)
def test_a_gradient_is_that_of_torch(form: Callable[..., Any], there: Callable[..., Any], arrays: list[Array]) -> None:
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    output = there(*leaves)
    w = stream(99).standard_normal(tuple(output.shape))
    (output * torch.tensor(w)).sum().backward()
    given = [mlx(array) for array in arrays]
    places = tuple(range(len(given)))
    gradients = mx.grad(lambda *values: mx.sum(form(*values) * mlx(w)), argnums=places)(*given)
    gradients = gradients if len(given) > 1 else [gradients]
    for gradient, leaf in zip(gradients, leaves, strict=True):
        assert leaf.grad is not None
        assert relative(numpy(gradient), leaf.grad.numpy()) <= 32 * U


@pytest.mark.parametrize("name", ["tan", "log2", "log10"])
def test_mlx_keeps_the_function_and_loses_its_derivative(name: str) -> None:
    x = np.abs(stream(1).standard_normal(50)) + 0.1
    assert relative(np.array(getattr(mx, name)(mlx(x))), getattr(np, name)(x)) <= 4 * U
    slope = numpy(mx.grad(lambda v: FORMS[name](v).sum())(mlx(x)))
    assert relative(np.array(mx.grad(lambda v: getattr(mx, name)(v).sum())(mlx(x))), slope) > 1e-10


DERIVATIVES: Final = {
    "sin": (sin64, np.cos),
    "cos": (cos64, lambda x: -np.sin(x)),
    "exp": (exp64, np.exp),
    "tan": (tan64, lambda x: 1 / np.cos(x) ** 2),
    "log2": (log2_64, lambda x: 1 / (x * np.log(2))),
    "log10": (log10_64, lambda x: 1 / (x * np.log(10))),
}


@pytest.mark.parametrize(("function", "slope"), DERIVATIVES.values(), ids=DERIVATIVES)
def test_forward_mode_goes_through_too(
    function: Callable[[mx.array], mx.array], slope: Callable[[Array], Array]
) -> None:
    x, tangent = stream(1).uniform(0.2, 1.2, 40), stream(2).standard_normal(40)
    _, pushed = mx.jvp(function, [mlx(x)], [mlx(tangent)])
    assert relative(numpy(pushed[0]), slope(x) * tangent) <= 8 * U


def test_forward_mode_goes_through_both_arguments() -> None:
    x, y = stream(1).standard_normal((2, 40))
    _, pushed = mx.jvp(FORMS["logaddexp"], [mlx(x), mlx(y)], [mlx(x), mlx(y)])
    share = scipy.special.expit(x - y)
    assert relative(numpy(pushed[0]), x * share + y * (1 - share)) <= 8 * U
    _, pushed = mx.jvp(lambda v: FORMS["logaddexp"](v, mlx(y)), [mlx(x)], [mlx(x)])
    assert relative(numpy(pushed[0]), x * share) <= 8 * U


def test_a_second_derivative_goes_through() -> None:
    x = stream(1).uniform(-1, 1, 40)
    second = mx.grad(lambda v: mx.grad(lambda w: FORMS["sin"](w).sum())(v).sum())(mlx(x))
    assert relative(numpy(second), -np.sin(x)) <= 8 * U


def test_methods_are_among_the_functions() -> None:
    assert METHOD_FORMS.items() <= FORMS.items()
