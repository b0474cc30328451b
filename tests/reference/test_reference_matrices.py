"""Block-diagonal and Monarch products against the dense matrices that they stand for."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_torch import BlockdiagLinear, MonarchMultiply, blockdiag_multiply, monarch_multiply

Array = npt.NDArray[np.float64]
U: Final = 2.0**-53
generated: Final = settings(max_examples=40, deadline=None, derandomize=True)


def stream(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def dense_blocks(weight: Array) -> Array:
    """The (k q, k p) matrix with block i of `weight` (k, q, p) at block row and column i."""
    k, q, p = weight.shape
    matrix = np.zeros((k * q, k * p))
    for i in range(k):
        matrix[i * q : (i + 1) * q, i * p : (i + 1) * p] = weight[i]
    return matrix


def permutation(order: list[int]) -> Array:
    """The matrix that puts element order[i] at place i."""
    matrix = np.zeros((len(order), len(order)))
    matrix[range(len(order)), order] = 1
    return matrix


def dense_linear(layer: BlockdiagLinear) -> Array:
    """The dense matrix of a layer: pad, regroup `(g c) -> (c g)`, multiply, cut."""
    weight = layer.weight.detach().numpy()
    k, _, p = weight.shape
    pad = np.eye(k * p, layer.in_features)
    regroup = permutation([g * p + c for c in range(p) for g in range(k)]) if layer.shuffle else np.eye(k * p)
    return np.asarray((dense_blocks(weight) @ regroup @ pad)[: layer.out_features])


def dense_monarch(w1: Array, w2: Array) -> Array:
    """The dense matrix: blocks, `(r l) -> (l r)`, blocks, `(l s) -> (s l)`."""
    l, s, r = w2.shape
    first = permutation([i * l + j for j in range(l) for i in range(r)])
    second = permutation([j * s + i for i in range(s) for j in range(l)])
    return np.asarray(second @ dense_blocks(w2) @ first @ dense_blocks(w1))


class Sizes(NamedTuple):
    """Sizes of a block-diagonal layer."""

    in_features: int
    out_features: int
    nblocks: int


layers = st.builds(Sizes, st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))


@generated
@given(sizes=layers, bias=st.booleans(), shuffle=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_a_block_diagonal_layer_is_its_dense_matrix(sizes: Sizes, bias: bool, shuffle: bool, seed: int) -> None:
    layer = BlockdiagLinear(*sizes, bias=bias, shuffle=shuffle).double()
    x = stream(seed).standard_normal((3, sizes.in_features))
    matrix = dense_linear(layer)
    added = layer.bias.detach().numpy() if bias else np.zeros(sizes.out_features)
    # gamma_n of Higham, for products summed in another order on either side.
    allowed = 2 * (sizes.in_features + 2) * U * (np.abs(x) @ np.abs(matrix).T + np.abs(added))
    actual = layer(torch.from_numpy(x)).detach().numpy()
    assert (np.abs(actual - (x @ matrix.T + added)) <= allowed).all()


@pytest.mark.parametrize("shuffle", [False, True])
def test_one_hot_features_reach_one_block_of_outputs(shuffle: bool) -> None:
    layer = BlockdiagLinear(6, 9, nblocks=3, bias=False, shuffle=shuffle).double()
    with torch.no_grad():
        layer.weight.fill_(1)
    reached = layer(torch.eye(6, dtype=torch.float64)).detach().numpy().reshape(6, 3, 3)
    # Regrouped, feature g * 2 + c of 3 groups of 2 stands at c * 3 + g; a block takes two neighbours.
    places = [c * 3 + g if shuffle else g * 2 + c for g in range(3) for c in range(2)]
    np.testing.assert_array_equal(
        reached, np.repeat(np.eye(3)[[place // 2 for place in places]][..., None], 3, axis=-1)
    )


@pytest.mark.parametrize(
    ("in_features", "out_features", "nblocks", "shape"),
    [(16, 16, 4, (4, 4, 4)), (10, 14, 3, (3, 5, 4)), (3, 2, 4, (4, 1, 1)), (768, 6144, 4, (4, 1536, 192))],
)
def test_block_sizes_are_rounded_up(in_features: int, out_features: int, nblocks: int, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert tuple(BlockdiagLinear(in_features, out_features, nblocks).weight.shape) == shape


def test_a_square_block_is_not_transposed() -> None:
    weight = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(blockdiag_multiply(torch.tensor([0.0, 5.0]), weight), torch.tensor([5.0, 0.0]))


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)], ids=str)
def test_leading_axes_are_kept(leading: tuple[int, ...]) -> None:
    x = torch.from_numpy(stream(1).standard_normal((*leading, 6)))
    y = blockdiag_multiply(x, torch.from_numpy(stream(2).standard_normal((2, 4, 3))))
    assert y.shape == (*leading, 8)


def test_initial_blocks_have_the_variance_of_a_dense_layer() -> None:
    torch.manual_seed(0)
    weight = BlockdiagLinear(400, 800, nblocks=4).weight
    bound = 1 / math.sqrt(400) * math.sqrt(4)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


class Factors(NamedTuple):
    """Sizes of both factors, l r = k q."""

    k: int
    q: int
    p: int
    l: int
    s: int
    r: int


@st.composite
def factors(draw: st.DrawFn) -> Factors:
    l, r = draw(st.integers(1, 5), label="l"), draw(st.integers(1, 5), label="r")
    k = draw(st.sampled_from([k for k in range(1, l * r + 1) if l * r % k == 0]), label="k")
    return Factors(k, l * r // k, draw(st.integers(1, 5), label="p"), l, draw(st.integers(1, 5), label="s"), r)


@generated
@given(sizes=factors(), seed=st.integers(0, 2**32 - 1))
def test_a_monarch_product_is_its_dense_matrix(sizes: Factors, seed: int) -> None:
    k, q, p, l, s, r = sizes
    draw = stream(seed)
    x, w1, w2 = draw.standard_normal((3, k * p)), draw.standard_normal((k, q, p)), draw.standard_normal((l, s, r))
    actual = monarch_multiply(*map(torch.from_numpy, (x, w1, w2))).numpy()
    magnitude = np.abs(x) @ dense_monarch(np.abs(w1), np.abs(w2)).T
    assert (np.abs(actual - x @ dense_monarch(w1, w2).T) <= 2 * (p + r + k * p) * U * magnitude).all()


def test_a_monarch_matrix_of_full_blocks_is_dense() -> None:
    ones = torch.ones(4, 4, 4, dtype=torch.float64)
    y = monarch_multiply(torch.eye(16, dtype=torch.float64), ones, ones)
    torch.testing.assert_close(y, torch.ones(16, 16, dtype=torch.float64), rtol=0, atol=0)


def test_the_module_holds_both_factors() -> None:
    module = MonarchMultiply(4, 3, 6, 6, 5, 2)
    assert {name: tuple(value.shape) for name, value in module.named_parameters()} == {"w1": (4, 3, 6), "w2": (6, 5, 2)}
    assert module(torch.zeros(7, 24)).shape == (7, 30)
