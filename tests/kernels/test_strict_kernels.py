"""`strict_kernels`: a sequence has the same bits in every batch, on every run, with any number of threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx import nn
from mlx.utils import tree_flatten

import mlx_impl
from mlx_impl.kernels import ordered
from mlx_impl.kernels.blockdiag import BLOCKDIAG_KERNELS
from mlx_impl.ops import Ops
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL, HyperProfile, load_profile

STRICT: Final = CANONICAL.replace(strict_kernels=True)
EXTENDED: Final = load_profile("extended_precision")
SIZES: Final = (1, 2, 3, 5, 8)
BATCH: Final = max(SIZES)
U: Final = 2.0**-24

Computed = Callable[[mx.array], mx.array]


def normal(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape).astype(np.float32)


def array(seed: int, *shape: int) -> mx.array:
    return mx.array(normal(seed, *shape))


def bits(x: mx.array) -> bytes:
    return bytes(np.ascontiguousarray(np.array(x.astype(mx.float32))).data)


def departures(compute: Computed, x: mx.array) -> list[tuple[int, int]]:
    """Batch sizes and positions whose result is not, bit by bit, that of the whole batch."""
    whole = compute(x)
    return [
        (size, place)
        for size in SIZES
        for place in range(BATCH - size + 1)
        if bits(compute(x[place : place + size])) != bits(whole[place : place + size])
    ]


# --- primitives -----------------------------------------------------------------------------------------------


def primitives(ops: Ops, dtype: mx.Dtype) -> Mapping[str, tuple[Computed, tuple[int, ...]]]:
    """Every primitive that sums, with the shape of one sequence; constants are drawn by seed."""

    def constant(seed: int, *shape: int) -> mx.array:
        return array(seed, *shape).astype(dtype)

    return {
        "linear": (lambda x: ops.linear(x, constant(1, 17, 33), constant(2, 17)), (7, 33)),
        "linear of one position": (lambda x: ops.linear(x, constant(1, 17, 33), None), (33,)),
        "matmul": (lambda x: ops.matmul(x, x.swapaxes(-1, -2)), (7, 33)),
        "blockdiag": (lambda x: ops.blockdiag(x, constant(3, 4, 9, 11)), (7, 4, 11)),
        "softmax over positions": (lambda x: ops.softmax(x, axis=1), (7, 33)),
        "softmax": (lambda x: ops.softmax(x, axis=-1), (7, 33)),
        "layer_norm": (lambda x: ops.layer_norm(x, constant(4, 33), constant(5, 33), 1e-12), (7, 33)),
        "sum": (lambda x: ops.sum(x, axis=1), (7, 33)),
        "mean": (lambda x: ops.mean(x, axis=1), (7, 33)),
        "norm": (ops.norm, (7, 33)),
        "depthwise_conv": (lambda x: ops.depthwise_conv(x, constant(6, 33, 3, 1), constant(7, 33), 2), (7, 33)),
        "convolution": (
            lambda x: mlx_impl.fftconv(x, constant(8, 5, 33), constant(9, 5), ops=ops),
            (5, 33),
        ),
    }


NAMES: Final = tuple(primitives(Ops(), mx.float32))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("profile", [STRICT, EXTENDED], ids=["strict", "extended"])
@pytest.mark.parametrize("name", NAMES)
def test_a_primitive_gives_a_sequence_the_same_bits_in_every_batch(
    name: str, profile: HyperProfile, dtype: mx.Dtype
) -> None:
    compute, shape = primitives(Ops(profile), dtype)[name]
    assert departures(compute, array(10, BATCH, *shape).astype(dtype)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_strict_primitive_is_the_native_one_but_for_its_roundings(name: str) -> None:
    compute, shape = primitives(Ops(STRICT), mx.float32)[name]
    native, _ = primitives(Ops(), mx.float32)[name]
    x = array(10, BATCH, *shape)
    expected = np.array(native(x))
    assert np.linalg.norm(np.array(compute(x)) - expected) <= 12 * U * np.linalg.norm(expected)


def by_rows(x: mx.array, weight: mx.array) -> mx.array:
    """A block-diagonal product that sums from the other end where there are many rows, as a library might."""
    rows = x.size // (x.shape[-1] * x.shape[-2])
    if rows > 20:
        x, weight = x[..., ::-1], weight[..., ::-1]
    return ordered.blockdiag(x, weight)


def test_a_kernel_that_looks_at_the_batch_is_found_out_without_strict_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKDIAG_KERNELS, "einsum", by_rows)  # type: ignore[arg-type]
    x = array(10, BATCH, 7, 4, 11)
    found = departures(primitives(Ops(), mx.float32)["blockdiag"][0], x)
    assert {size for size, _ in found} == {1, 2}
    assert departures(primitives(Ops(STRICT), mx.float32)["blockdiag"][0], x) == []


def test_a_strict_kernel_that_looked_at_the_batch_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ordered._terms

    def planted(x: mx.array, y: mx.array, first: int, end: int) -> mx.array:
        return exact(x, y, first, end) if x.size < 1000 else exact(x[..., ::-1], y[..., ::-1, :], first, end)

    monkeypatch.setattr(ordered, "_terms", planted)
    compute, shape = primitives(Ops(STRICT), mx.float32)["linear"]
    assert departures(compute, array(10, BATCH, *shape)) != []


def test_a_sum_in_the_order_of_the_batch_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(x: mx.array, axis: int, keepdims: bool = False) -> mx.array:
        return mx.sum(x[:, ::-1] if x.shape[0] > 3 else x, axis=axis, keepdims=keepdims)

    monkeypatch.setattr(ordered, "tree_sum", planted)
    assert departures(lambda x: Ops(STRICT).sum(x, axis=1), array(10, BATCH, 40, 33)) != []


def test_the_knob_overrides_the_choice_of_a_block_diagonal_product() -> None:
    x, weight = array(1, 3, 4, 11), array(2, 4, 9, 11)
    found = {bits(Ops(STRICT.replace(blockdiag_impl=name)).blockdiag(x, weight)) for name in BLOCKDIAG_KERNELS}
    assert len(found) == 1


# --- components -----------------------------------------------------------------------------------------------

CONFIG: Final = ModelConfig(
    vocab_size=23,
    hidden_size=12,
    num_hidden_layers=2,
    intermediate_size=20,
    max_position_embeddings=16,
    long_conv_l_max=16,
    hyena_filter_order=6,
    monarch_mlp_nblocks=4,
    bidirectional=True,
    residual_long_conv=True,
)


def components(profile: HyperProfile) -> Mapping[str, tuple[nn.Module, tuple[int, ...]]]:
    """The parts that the knob is for, and the shape of one sequence."""
    ops = Ops(profile)
    mx.random.seed(1)
    return {
        "linear": (mlx_impl.Linear(12, 20, ops=ops), (11, 12)),
        "blockdiag_linear": (mlx_impl.BlockdiagLinear(12, 20, nblocks=4, ops=ops), (11, 12)),
        "mlp": (mlx_impl.GatedMlp(CONFIG, profile, ops), (11, 12)),
        "mixer": (
            mlx_impl.MonarchMixer(12, 16, bidirectional=True, residual_long_conv=True, profile=profile, ops=ops),
            (11, 12),
        ),
        "layer": (mlx_impl.BertLayer(CONFIG, profile, ops), (11, 12)),
    }


@pytest.mark.parametrize("profile", [STRICT, EXTENDED], ids=["strict", "extended"])
@pytest.mark.parametrize("name", components(CANONICAL))
def test_a_component_gives_a_sequence_the_same_bits_in_every_batch(name: str, profile: HyperProfile) -> None:
    module, shape = components(profile)[name]
    assert departures(module, array(10, BATCH, *shape)) == []


def model(profile: HyperProfile) -> nn.Module:
    mx.random.seed(1)
    return mlx_impl.BertForMaskedLM(CONFIG, profile)


def tokens() -> mx.array:
    return mx.array(np.random.Generator(np.random.Philox(3)).integers(0, 23, (BATCH, 11)))


@pytest.mark.parametrize("profile", [STRICT, EXTENDED], ids=["strict", "extended"])
def test_a_model_gives_a_sequence_the_same_bits_in_every_batch(profile: HyperProfile) -> None:
    assert departures(model(profile), tokens()) == []


def test_a_model_on_a_kernel_that_looks_at_the_batch_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKDIAG_KERNELS, "einsum", by_rows)  # type: ignore[arg-type]
    assert departures(model(CANONICAL), tokens()) != []
    assert departures(model(STRICT), tokens()) == []


@pytest.mark.parametrize("pooled", [{"pool_all": True}, {"attention_pooling": True}, {}], ids=str)
def test_a_sentence_embedding_has_the_same_bits_in_every_batch(pooled: dict[str, bool]) -> None:
    config = CONFIG.model_copy(update={"use_normalized_embeddings": True, **pooled})
    mx.random.seed(1)
    built = mlx_impl.BertForSequenceClassification(config, STRICT)
    mask = mx.array((np.arange(11) < 8).astype(np.float32))
    assert departures(lambda ids: built(ids, mx.broadcast_to(mask, ids.shape))["embedding"], tokens()) == []


# --- runs and threads -----------------------------------------------------------------------------------------

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
DIGEST: Final = "import test_strict_kernels; print(test_strict_kernels.digest())"


def digest() -> str:
    """Hash of a model's logits and of every gradient of its loss, under `extended_precision`."""
    with mx.stream(mx.cpu):
        built, ids = model(EXTENDED), tokens()
        found = nn.value_and_grad(built, lambda: mx.mean(mx.square(built(ids))))()
        parts = [built(ids), *(value for _, value in sorted(tree_flatten(found[1])))]
        return hashlib.sha256(b"".join(map(bits, parts))).hexdigest()


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_process_with_other_threads_gives_the_same_bits(threads: str) -> None:
    there = {**os.environ, **dict.fromkeys(THREADS, threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", DIGEST], env=there, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == [digest()]


# --- accuracy, dtype, derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 7, 8, 9, 16, 17, 100, 768])
def test_a_strict_product_has_the_error_of_its_order(p: int) -> None:
    x, weight = normal(1, 5, p), normal(2, 3, p)
    exact, sizes = x.astype(np.float64) @ weight.T, np.abs(x).astype(np.float64) @ np.abs(weight).T
    found = np.array(ordered.linear(mx.array(x), mx.array(weight), None))
    # Products, runs of eight and then halves: no term takes part in more roundings than this.
    roundings = min(p, ordered.RUN) + np.ceil(np.log2(max(p / ordered.RUN, 1)))
    assert (np.abs(found - exact) <= roundings * U * sizes).all()


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("name", ["linear", "matmul", "blockdiag", "layer_norm", "softmax", "depthwise_conv", "mean"])
def test_sixteen_bits_are_rounded_once(name: str, dtype: mx.Dtype) -> None:
    compute, shape = primitives(Ops(STRICT), dtype)[name]
    x = array(10, 2, *shape).astype(dtype)
    found = compute(x)
    assert found.dtype == dtype
    assert bits(found) == bits(compute(x.astype(mx.float32)).astype(dtype))


def test_float64_stays_float64() -> None:
    with mx.stream(mx.cpu):
        x, weight = (mx.array(normal(seed, 4, 9).astype(np.float64), dtype=mx.float64) for seed in (1, 2))
        found = ordered.linear(x, weight, None)
        assert found.dtype == mx.float64
        expected = np.array(x) @ np.array(weight).T
        assert np.abs(np.array(found) - expected).max() <= 1e-14


@pytest.mark.parametrize("name", ["linear", "linear of one position", "matmul", "blockdiag", "softmax", "layer_norm"])
def test_a_strict_primitive_has_the_native_gradients(name: str) -> None:
    shape = primitives(Ops(), mx.float32)[name][1]
    x = array(10, 3, *shape)
    gradients = []
    for profile in (STRICT, CANONICAL):
        compute, _ = primitives(Ops(profile), mx.float32)[name]
        gradients.append(np.array(mx.grad(lambda x, compute=compute: mx.sum(mx.sin(compute(x))))(x)))
    assert np.linalg.norm(gradients[0] - gradients[1]) <= 64 * U * (1 + np.linalg.norm(gradients[1]))


@pytest.mark.parametrize(
    "shapes", [((2, 5, 4), (4, 3)), ((2, 5, 4), (2, 4, 3)), ((4,), (4, 3)), ((3, 1, 5, 4), (2, 4, 3))]
)
def test_gradients_of_a_strict_product_sum_over_what_was_broadcast(shapes: tuple[tuple[int, ...], ...]) -> None:
    if len(shapes[0]) == 1:
        shapes = ((1, *shapes[0]), shapes[1])
    operands = [array(seed, *shape) for seed, shape in enumerate(shapes)]
    both = [
        mx.grad(lambda x, y, product=product: mx.sum(mx.sin(product(x, y))), argnums=(0, 1))(*operands)
        for product in (ordered.matmul, mx.matmul)
    ]
    for found, expected in zip(*both, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=1e-5)


def test_a_strict_product_has_second_derivatives() -> None:
    x, weight = array(1, 4, 6), array(2, 3, 6)

    def slope(product: Callable[..., mx.array]) -> Any:
        inner = mx.grad(lambda x: mx.sum(mx.sin(product(x))))
        return mx.grad(lambda x: mx.sum(mx.square(inner(x))))(x)

    found, expected = slope(lambda x: ordered.linear(x, weight, None)), slope(lambda x: x @ weight.T)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=1e-4)
