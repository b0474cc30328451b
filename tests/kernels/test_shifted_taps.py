"""The short convolution as shifted multiply-adds: the bits of `mx.conv1d` and of its gradients, or `mx.conv1d`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

from mlx_impl.kernels import shifted_taps
from mlx_impl.kernels.derivatives import with_vjp
from mlx_impl.kernels.shifted_taps import full_convolution, has_its_bits
from mlx_impl.ops import Library

Convolution = Callable[[mx.array, mx.array], mx.array]
Numbers = npt.NDArray[np.float32]
Triple = tuple[mx.array, mx.array, mx.array]

SHAPES: Final = ((1, 1, 2), (1, 3, 2), (2, 5, 3), (3, 16, 8), (1, 129, 96), (4, 31, 33), (2, 64, 2304))
TAPS: Final = (1, 2, 3, 5)

pytestmark = pytest.mark.skipif(
    platform.machine() not in shifted_taps.MACHINES, reason="the bits of mx.conv1d are claimed of x86-64 alone"
)


def library(x: mx.array, weight: mx.array) -> mx.array:
    return mx.conv1d(x, weight, padding=weight.shape[1] - 1, groups=x.shape[-1])


def scaled(draw: np.random.Generator, x: Numbers) -> Numbers:
    return (x * 10.0 ** draw.integers(-30, 30, x.shape)).astype(np.float32)


def with_zeros(draw: np.random.Generator, x: Numbers) -> Numbers:
    return np.where(draw.random(x.shape) < 0.6, np.float32(0), x) * draw.choice(np.float32([-1, 1]), x.shape)


def with_special(draw: np.random.Generator, x: Numbers) -> Numbers:
    values = np.float32([np.inf, -np.inf, np.nan, 1e-40, 3e38])
    return np.where(draw.random(x.shape) < 0.05, draw.choice(values, x.shape), x)


KINDS: Final = {"normal": lambda _draw, x: x, "scaled": scaled, "zeros": with_zeros, "special": with_special}


def inputs(kind: str, taps: int) -> Iterator[Triple]:
    """x (b, l, c), contiguous and not, weight (c, taps, 1) and a cotangent, of every shape."""
    for number, (b, l, c) in enumerate(SHAPES):
        draw = np.random.Generator(np.random.Philox(100 * taps + number))
        shapes = ((b, l, c), (c, taps, 1), (b, l + taps - 1, c))
        drawn = [draw.standard_normal(shape).astype(np.float32) for shape in shapes]
        if kind == "special":
            place = number % 3
            drawn[place] = with_special(draw, drawn[place])
        else:
            drawn = [KINDS[kind](draw, x) for x in drawn]
        x, weight, cotangent = (mx.array(array) for array in drawn)
        yield x, weight, cotangent
        yield mx.contiguous(x.swapaxes(1, 2)).swapaxes(1, 2), weight, cotangent


def results(convolution: Convolution, given: Triple) -> dict[str, npt.NDArray[np.uint32]]:
    """The bits of y and of both derivatives; those of a NaN, which no one promises, are made the same."""
    x, weight, cotangent = given
    (y,), (by_x, by_weight) = mx.vjp(convolution, [x, weight], [cotangent])
    found = {"y": y, "by x": by_x, "by weight": by_weight}
    plain = {name: np.array(array) for name, array in found.items()}
    return {name: np.where(np.isnan(a), np.float32(np.nan), a).view(np.uint32) for name, a in plain.items()}


def departures(convolution: Convolution, kind: str, taps: int = 3) -> set[str]:
    """What has other bits than `mx.conv1d` for some input."""
    found = set()
    for given in inputs(kind, taps):
        expected, actual = results(library, given), results(convolution, given)
        found |= {name for name in expected if not np.array_equal(expected[name], actual[name])}
    return found


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_have_the_bits_of_the_library(kind: str, taps: int) -> None:
    assert departures(full_convolution, kind, taps) == set()


def test_the_short_filter_of_a_published_layer_has_the_bits_of_the_library() -> None:
    draw = np.random.Generator(np.random.Philox(7))
    shapes = ((1, 2048, 2304), (2304, 3, 1), (1, 2050, 2304))
    x, weight, cotangent = (mx.array(draw.standard_normal(shape).astype(np.float32)) for shape in shapes)
    expected, actual = (results(each, (x, weight, cotangent)) for each in (library, full_convolution))
    assert all(np.array_equal(expected[name], actual[name]) for name in expected)


def patched(monkeypatch: pytest.MonkeyPatch, name: str, planted: Any) -> Convolution:
    """The convolution with one of its pieces exchanged."""
    monkeypatch.setattr(shifted_taps, name, planted)
    return with_vjp(shifted_taps._full_convolution, shifted_taps._vjp)


ROWS, TOTAL = shifted_taps._rows, shifted_taps._total
FAULTS: Final[dict[str, tuple[str, Any, str, set[str]]]] = {
    "taps reversed": ("_rows", lambda weight: ROWS(weight)[::-1], "normal", {"y", "by x"}),
    "added from the last": ("_total", lambda products: TOTAL(reversed(list(products))), "normal", {"y", "by x"}),
    "begun with the first product": ("_total", lambda products: sum(products, -0.0), "zeros", {"y", "by x"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_other_bits_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    piece, planted, kind, seen = FAULTS[name]
    assert departures(patched(monkeypatch, piece, planted), kind) == seen


def test_taps_left_out_at_the_ends_would_be_seen() -> None:
    def inner(x: mx.array, weight: mx.array) -> mx.array:
        reach = x.shape[1] + 2
        parts = [mx.pad(x * tap, [(0, 0), (2 - i, i), (0, 0)])[:, :reach] for i, tap in enumerate(ROWS(weight))]
        return TOTAL(parts)

    assert departures(with_vjp(inner, shifted_taps._vjp), "special") == {"y"}


def test_a_sum_over_the_numbers_alone_would_be_seen() -> None:
    def vjp(primals: Any, cotangents: mx.array, outputs: mx.array) -> tuple[mx.array, mx.array]:
        x, _ = primals
        reached = [cotangents[:, 2 - i : 2 - i + x.shape[1]] for i in range(3)]
        by_tap = mx.stack([mx.sum(x * part, axis=(0, 1)) for part in reached], axis=1)[..., None]
        return shifted_taps._vjp(primals, cotangents, outputs)[0], by_tap

    assert departures(with_vjp(shifted_taps._full_convolution, vjp), "special") == {"by weight"}


def test_second_derivatives_are_those_of_the_library() -> None:
    x, weight, _ = next(iter(inputs("normal", 3)))

    def twice(convolution: Convolution) -> list[mx.array]:
        def inner(x: mx.array, weight: mx.array) -> mx.array:
            return mx.sum(convolution(x, weight) ** 3)

        def outer(x: mx.array, weight: mx.array) -> mx.array:
            return sum((mx.sum(g**2) for g in mx.grad(inner, argnums=(0, 1))(x, weight)), mx.array(0.0))

        return list(mx.grad(outer, argnums=(0, 1))(x, weight))

    for actual, expected in zip(twice(full_convolution), twice(library), strict=True):
        assert mx.abs(actual - expected).max() <= 64 * 2.0**-24 * mx.abs(expected).max()


def test_the_port_takes_it_for_its_short_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shifted_taps, "full_convolution", lambda x, weight: mx.array(17.0))
    weight, long = mx.ones((4, 3, 1)), shifted_taps.LEAST // 4
    assert Library().conv1d(mx.ones((1, long, 4)), weight, padding=2, groups=4) == 17.0
    assert Library().conv1d(mx.ones((1, long - 1, 4)), weight, padding=2, groups=4).shape == (1, long + 1, 4)


def _given(
    shape: tuple[int, int, int] = (1, 8, 4),
    weight: tuple[int, int, int] = (4, 3, 1),
    dtype: mx.Dtype = mx.float32,
    padding: int = 2,
    groups: int = 4,
) -> tuple[mx.array, mx.array, int, int]:
    return mx.ones(shape, dtype=dtype), mx.ones(weight, dtype=dtype), padding, groups


NOT_CLAIMED: Final = {
    "sixteen bits": _given(dtype=mx.bfloat16),
    "half precision": _given(dtype=mx.float16),
    "float64": _given(dtype=mx.float64),
    "one channel": _given(shape=(1, 8, 1), weight=(1, 3, 1), groups=1),
    "less padding": _given(padding=1),
    "more padding": _given(padding=3),
    "channels that meet": _given(weight=(4, 3, 4), groups=1),
    "two filters a channel": _given(weight=(8, 3, 1)),
}


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_the_library_answers_where_nothing_is_claimed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, padding, groups = NOT_CLAIMED[name]
    monkeypatch.delattr(shifted_taps, "full_convolution")
    monkeypatch.setattr(shifted_taps, "LEAST", 0)
    assert has_its_bits(*_given())
    assert not has_its_bits(x, weight, padding, groups)
    expected = mx.conv1d(x, weight, padding=padding, groups=groups)
    assert mx.array_equal(Library().conv1d(x, weight, padding, groups), expected)


def test_another_machine_takes_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert not has_its_bits(*_given())


def test_a_graphics_processor_takes_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert not has_its_bits(*_given())
