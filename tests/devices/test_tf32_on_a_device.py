"""Products in TF32: seen by the probe, said in words, and a failure that they make is attributed to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import parity.environment.devices as measured
import parity.tf32 as blamed
from mlx_impl.ops import Ops, round_to_tf32
from parity.environment.devices import (
    port_product_bits,
    product_bits,
    product_findings,
    reference_product_bits,
)
from parity.pairs import Pair
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.arrays import AnyArray
from parity.spec.devices import ON_CPU, Devices
from parity.spec.precision import RungName
from parity.spec.profile import CANONICAL, load_profile
from parity.suites import select

TF32 = CANONICAL.model_copy(update={"name": "asks_for_tf32", "matmul_precision": "tf32"})


def in_tf32(x: AnyArray, w: AnyArray) -> AnyArray:
    return np.array(round_to_tf32(mx.array(x)) @ round_to_tf32(mx.array(w)))


# The probe --------------------------------------------------------------------------------------------------------


def test_the_probe_tells_tf32_from_float32_and_bfloat16() -> None:
    def in_bfloat16(x: AnyArray, w: AnyArray) -> AnyArray:
        x_half, w_half = (mx.array(a).astype(mx.bfloat16).astype(mx.float32) for a in (x, w))
        return np.array(x_half @ w_half)

    assert product_bits(lambda x, w: x @ w) > 20
    assert 10 < product_bits(in_tf32) < 12
    assert 7 < product_bits(in_bfloat16) < 9
    assert product_bits(lambda x, w: (x.astype(np.float64) @ w).astype(np.float32)) <= 24


def test_one_size_in_tf32_is_enough() -> None:
    """Kernels are chosen by size: the least of the bits counts."""
    assert product_bits(lambda x, w: in_tf32(x, w) if len(x) > 100 else x @ w) < 12
    assert product_bits(lambda x, w: x @ w if len(x) > 100 else in_tf32(x, w)) < 12


def test_this_machine_multiplies_in_float32() -> None:
    assert port_product_bits("cpu") > 20
    assert reference_product_bits("cpu") > 20
    assert product_findings(ON_CPU, [CANONICAL]) == []


@pytest.fixture
def tf32_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU, with every float32 product of a port that asks for IEEE's in TF32, as a GPU would have them.

    Where the failure is looked at again on the CPU, it is the CPU that this machine has.
    """
    original: Callable[..., mx.array] = Ops._operand

    def operand(self: Ops, x: mx.array) -> mx.array:
        return round_to_tf32(x) if x.dtype == mx.float32 else original(self, x)

    monkeypatch.setattr(Ops, "_operand", operand)
    for name in ("examine", "examine_gradients"):
        monkeypatch.setattr(blamed, name, with_ops(monkeypatch, original, getattr(blamed, name)))
    seen_by_probe(monkeypatch, 10.9)


def with_ops(monkeypatch: pytest.MonkeyPatch, operand: Callable[..., mx.array], function: Any) -> Any:
    """Return `function` as it answers while the port's factors are `operand`'s."""

    def answered(*arguments: Any) -> Any:
        with monkeypatch.context() as there:
            there.setattr(Ops, "_operand", operand)
            return function(*arguments)

    return answered


def seen_by_probe(monkeypatch: pytest.MonkeyPatch, bits: float) -> None:
    for module in (measured, blamed):
        monkeypatch.setattr(module, "port_product_bits", lambda _device: bits)


@pytest.mark.usefixtures("tf32_device")
def test_the_finding_says_what_was_measured_and_what_to_do() -> None:
    (words,) = product_findings(Devices("gpu"), [CANONICAL, TF32])
    assert "the device multiplies float32 in TF32 (measured 11 bits)" in words
    assert "set MLX_ENABLE_TF32=0 before MLX is imported, or choose matmul_precision=tf32" in words
    assert "canonical" in words
    assert "asks_for_tf32" not in words
    assert product_findings(Devices("gpu"), [TF32]) == []


def test_a_reference_of_few_bits_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "reference_product_bits", lambda _device: 10.9)
    (words,) = product_findings(Devices(reference="cuda"), [CANONICAL])
    assert "reference on cuda" in words


# Attribution ------------------------------------------------------------------------------------------------------


def run(pair: Pair, profile: Any = CANONICAL, *rungs: RungName) -> Results:
    return execute(Plan([pair], [profile], rungs or ("f32",), "quick", 0), Results({"seed": 0}))


def words_of(results: Results, kind: str) -> list[tuple[str, ...]]:
    return [failure.attribution for failure in results.failures if failure.kind == kind]


def pair_called(name: str) -> Pair:
    (pair,) = select([name])
    return pair


@pytest.mark.usefixtures("tf32_device")
@pytest.mark.parametrize("name", ["mlp", "pooler"])
def test_a_failure_of_tf32_is_attributed_to_it(name: str) -> None:
    results = run(pair_called(name), CANONICAL, "f64", "f32")
    assert results.failures
    assert {failure.rung for failure in results.failures} == {"f32"}
    for words in words_of(results, "tensor"):
        assert words[0].startswith("attributed to TF32: the cpu multiplies float32 in 11 bits")
        assert "on the CPU, which multiplies float32 whole, all that fails here passes" in words[0]
    for words in words_of(results, "stratum"):
        assert words[0].startswith("attributed to TF32")
        assert "of the error of y the CPU leaves" in words[0]


@pytest.mark.usefixtures("tf32_device")
@pytest.mark.parametrize("name", ["hyena_filter", "monarch_mixer"])
def test_so_it_is_where_factors_of_few_bits_pass_unchanged(name: str) -> None:
    """At sixteen bits the filter runs in float32 on rounded weights; of one position the features are 0 and 1."""
    pair = replace(pair_called(name), strata=())
    results = run(pair, CANONICAL, "f64", "f32", "bf16", "f16")
    found = words_of(results, "tensor")
    assert found
    assert all(words[0].startswith("attributed to TF32") for words in found), found


def test_gradients_are_attributed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass is exact here, and the gradient of every product is not."""

    @mx.custom_function
    def product(x: mx.array, w: mx.array) -> mx.array:
        return x @ w.T

    @product.vjp
    def _of_product(primals: Any, cotangent: mx.array, _output: mx.array) -> tuple[mx.array, mx.array]:
        x, w = primals
        g = cotangent if cotangent.dtype == mx.float64 else round_to_tf32(cotangent)
        rows, flat = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        return g @ (w if w.dtype == mx.float64 else round_to_tf32(w)), rows.T @ flat

    def linear(_ops: Ops, x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
        y = product(x, weight)
        return y if bias is None else y + bias

    seen_by_probe(monkeypatch, 10.9)
    whole = Ops.linear
    again = blamed.examine_gradients
    monkeypatch.setattr(Ops, "linear", linear)

    def on_the_cpu(*arguments: Any) -> Any:
        with monkeypatch.context() as there:
            there.setattr(Ops, "linear", whole)
            return again(*arguments)

    monkeypatch.setattr(blamed, "examine_gradients", on_the_cpu)
    results = run(pair_called("mlp"))
    found = words_of(results, "gradient")
    assert found
    assert all(words[0].startswith("attributed to TF32") for words in found)
    assert "which module errs" in found[0][-1]


@pytest.mark.usefixtures("tf32_device")
@pytest.mark.parametrize(
    ("factor", "said"), [(1 + 2.0**-4, "not by TF32 alone"), (1 + 2.0**-17, "not attributed to TF32")]
)
def test_another_fault_on_such_a_device_is_not(factor: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that no product makes is too large for TF32, or is there on the CPU as well."""
    monkeypatch.undo()
    seen_by_probe(monkeypatch, 10.9)
    original = Ops.linear
    monkeypatch.setattr(Ops, "linear", lambda self, x, w, b: original(self, x, w, b) * factor)
    results = run(pair_called("mlp"))
    found = words_of(results, "tensor")
    assert found
    assert all(words[0].startswith(said) for words in found), found


def test_where_the_probe_sees_float32_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ops._operand
    monkeypatch.setattr(
        Ops, "_operand", lambda self, x: round_to_tf32(x) if x.dtype == mx.float32 else original(self, x)
    )
    results = run(pair_called("mlp"))
    assert results.failures
    assert not any("TF32" in line for failure in results.failures for line in failure.attribution)


@pytest.mark.usefixtures("tf32_device")
def test_a_profile_that_asks_for_tf32_is_told_nothing_of_it() -> None:
    profile = load_profile("canonical").model_copy(update={"matmul_precision": "tf32"})
    results = run(replace(pair_called("mlp"), strata=()), profile)
    assert not any("TF32" in line for failure in results.failures for line in failure.attribution)
