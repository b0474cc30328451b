"""A number crosses a framework border without being rounded, whatever it is; and a float64 stays one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import ml_dtypes
import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
import torch

from parity.backends.convert import (
    MLX_DTYPES,
    TORCH_DTYPES,
    mlx_from_numpy,
    numpy_from_mlx,
    numpy_from_torch,
    torch_from_numpy,
)
from parity.spec.precision import RUNGS, Rung

Array = npt.NDArray[np.float64]
Crossing = Callable[[Array, str], tuple[Array, str]]

EVERY_RUNG = pytest.mark.parametrize("rung", RUNGS.values(), ids=lambda rung: rung.name)


def through_torch(values: Array, dtype: str) -> tuple[Array, str]:
    return numpy_from_torch(torch_from_numpy(values, dtype))


def through_mlx(values: Array, dtype: str) -> tuple[Array, str]:
    with mx.stream(mx.cpu):
        return numpy_from_mlx(mlx_from_numpy(values, dtype))


EVERY_BORDER = pytest.mark.parametrize("cross", [through_torch, through_mlx])


def numbers_of(rung: Rung) -> Array:
    """Every number of a sixteen-bit format; of a wider one, random bit patterns, edges and subnormals."""
    if rung.is_half:
        form: Any = np.float16 if rung.name == "f16" else ml_dtypes.bfloat16
        with np.errstate(invalid="ignore"):
            return np.arange(2**16, dtype=np.uint16).view(form).astype(np.float64)
    form, pattern = (np.float64, np.uint64) if rung.name == "f64" else (np.float32, np.uint32)
    drawn = np.random.Generator(np.random.Philox(1)).integers(0, np.iinfo(pattern).max, 4096, dtype=pattern).view(form)
    edges = [0.0, -0.0, 1.0, rung.tiny, -rung.tiny, rung.maximum, -rung.maximum, np.inf, -np.inf, np.nan]
    subnormal = rung.quantum * np.array([1.0, -1.0, 2.0, 12345.0])
    with np.errstate(invalid="ignore"):
        return np.concatenate([drawn.astype(np.float64), edges, subnormal])


def same_numbers(actual: Array, expected: Array) -> bool:
    """Whether both hold the same values with the same signs of zero; NaN equals NaN."""
    nan = np.isnan(expected)
    equal = np.array_equal(actual[~nan].view(np.uint64), expected[~nan].view(np.uint64))
    return bool(equal and np.isnan(actual[nan]).all())


@EVERY_BORDER
@EVERY_RUNG
def test_every_number_of_a_format_comes_back_exactly(cross: Crossing, rung: Rung) -> None:
    values = numbers_of(rung)
    back, dtype = cross(values, rung.dtype)
    assert dtype == rung.dtype
    assert back.dtype == np.float64
    assert same_numbers(back, values)


@EVERY_RUNG
def test_the_numbers_tried_hold_subnormals_negative_zero_infinity_and_nan(rung: Rung) -> None:
    values = numbers_of(rung)
    assert ((values != 0) & (np.abs(values) < rung.tiny)).any()
    assert (np.signbit(values) & (values == 0)).any()
    assert np.isinf(values).any()
    assert np.isnan(values).any()


def test_the_comparison_sees_a_lost_sign_and_a_flushed_subnormal() -> None:
    assert not same_numbers(np.array([0.0]), np.array([-0.0]))
    assert not same_numbers(np.array([0.0]), np.array([RUNGS["f32"].quantum]))
    assert not same_numbers(np.array([1.0]), np.array([np.nan]))


@EVERY_BORDER
@pytest.mark.parametrize("rung", [rung for rung in RUNGS.values() if rung.name != "f64"], ids=lambda rung: rung.name)
def test_a_number_between_two_is_rounded_once_to_the_nearest(cross: Crossing, rung: Rung) -> None:
    between = np.array([1 + rung.u * 0.99, 1 + rung.u * 1.01, 1 + 3 * rung.u])
    expected = np.array([1.0, 1 + 2 * rung.u, 1 + 4 * rung.u])
    np.testing.assert_array_equal(cross(between, rung.dtype)[0], expected)


@EVERY_BORDER
def test_a_number_beyond_float32_becomes_infinite_and_nothing_is_said(cross: Crossing) -> None:
    edge = float(np.finfo(np.float32).max)
    beyond = np.array([1e300, -1e300, edge * (1 + 2.0**-24), edge, -np.inf, np.nan, 1e-300, -1e-300])
    expected = np.array([np.inf, -np.inf, np.inf, edge, -np.inf, np.nan, 0.0, -0.0])
    assert same_numbers(cross(beyond, "float32")[0], expected)


@EVERY_BORDER
def test_a_float64_stays_a_float64(cross: Crossing) -> None:
    third = np.array([1 / 3])
    assert cross(third, "float64") == (third, "float64")


def test_a_bare_mlx_array_of_a_float64_would_not() -> None:
    """Once this fails, MLX keeps float64, and the explicit dtype in `mlx_from_numpy` is no longer needed."""
    assert mx.array(np.array([1 / 3])).dtype == mx.float32


@EVERY_BORDER
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1), (2, 3, 4)], ids=str)
def test_shapes_are_kept(cross: Crossing, shape: tuple[int, ...]) -> None:
    assert cross(np.ones(shape), "float32")[0].shape == shape


@EVERY_BORDER
def test_strided_arrays_cross_by_value(cross: Crossing) -> None:
    values = np.arange(24.0).reshape(4, 6)[::-2, ::3]
    np.testing.assert_array_equal(cross(values, "float32")[0], values)


def test_what_crossed_shares_no_memory_with_what_it_came_from() -> None:
    values = np.ones(3)
    tensor, array = torch_from_numpy(values, "float64"), mlx_from_numpy(values, "float64")
    values[:] = 7
    assert tensor.tolist() == [1, 1, 1]
    assert numpy_from_mlx(array)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", MLX_DTYPES)
def test_what_came_from_mlx_shares_no_memory_with_it(dtype: str) -> None:
    array = mlx_from_numpy(np.arange(6.0).reshape(2, 3), dtype)
    mx.eval(array)
    numpy_from_mlx(array)[0][:] = 7
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("view", "rows"), [(lambda x: x.T, [0, 3, 1, 4, 2, 5]), (lambda x: x[:, 1:], [1, 2, 4, 5])])
def test_views_of_either_framework_come_back_by_value(dtype: str, view: Any, rows: list[int]) -> None:
    values = np.arange(6.0).reshape(2, 3)
    assert numpy_from_mlx(view(mlx_from_numpy(values, dtype)))[0].ravel().tolist() == rows
    assert numpy_from_torch(view(torch_from_numpy(values, dtype)))[0].ravel().tolist() == rows


@pytest.mark.parametrize("integer", [np.int32, np.int64, np.uint8])
def test_integers_stay_integers_at_every_rung(integer: Any) -> None:
    values = np.array([0, 3, 127], dtype=integer)
    for dtype in TORCH_DTYPES:
        assert torch_from_numpy(values, dtype).dtype == torch.int64
        assert mlx_from_numpy(values, dtype).dtype == mx.int32
        assert torch_from_numpy(values, dtype).tolist() == mlx_from_numpy(values, dtype).tolist() == [0, 3, 127]


def test_both_tables_know_the_rungs_and_no_other_dtype() -> None:
    names: Final = {rung.dtype for rung in RUNGS.values()}
    assert TORCH_DTYPES.keys() == MLX_DTYPES.keys() == names


def test_another_dtype_crosses_under_its_frameworks_name() -> None:
    assert numpy_from_torch(torch.ones(1, dtype=torch.int64))[1] == "torch.int64"
    assert numpy_from_mlx(mx.ones(1, dtype=mx.int32))[1] == "mlx.core.int32"


def test_a_tensor_that_needs_a_gradient_crosses() -> None:
    assert numpy_from_torch(torch.ones(2, requires_grad=True))[0].tolist() == [1, 1]
