"""Rounding or meaning: the planted bugs are meaning, a float32 step is a leak, rounding is rounding.

`pytest tests/harness/test_meaning.py -k left_in_float32 -s` prints the figures of docs/accuracy.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from planted_faults import PLANTED_FAULTS, PlantedFault

import parity.examine as examine_module
from mlx_impl import hyena, ops
from mlx_impl.ops import Library
from parity.backends.mlx_float64 import Float64Library
from parity.cases import FINE_LADDER, Case, corpus_cases
from parity.examine import Bench, Modules, classify_tensor, examine, first_bad
from parity.float64.elementwise import exp64, sin64
from parity.meaning import Meaning, classify
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import CANONICAL
from parity.suites import select
from parity.tolerance import constant

U64 = RUNGS["f64"].u


ALLOWED = constant("propagated_rms")


@pytest.mark.parametrize(
    ("f64_error", "kappa", "f32_noise", "kind"),
    [
        (0.0, 0.0, 1e-7, "rounding"),
        (99 * U64, 0.0, 1e-7, "rounding"),
        (101 * U64, 1.0, 1e-7, "precision leak"),
        (5000 * U64, 64.0, 1e-6, "rounding"),
        (5e-9, 10.0, 1e-6, "precision leak"),
        (0.9 * ALLOWED * 1e-7, 1.0, 1e-7, "precision leak"),
        (1.1 * ALLOWED * 1e-7, 1.0, 1e-7, "different meaning"),
        (1e-5, 100.0, 2e-5, "precision leak"),
        (math.inf, 1.0, 1e-7, "different meaning"),
        (None, 1.0, 1e-7, "not comparable"),
        (math.nan, 1.0, 1e-7, "not comparable"),
    ],
)
def test_the_plateau_decides_where_roughness_is_not_known(
    f64_error: float | None, kappa: float, f32_noise: float, kind: str
) -> None:
    assert classify(f64_error, 1e-6, kappa, f32_noise).kind == kind


@pytest.mark.parametrize(("roughness", "kind"), [(0.2, "precision leak"), (0.005, "different meaning")])
def test_what_float32_could_have_made_is_a_leak_only_if_it_is_rough(roughness: float, kind: str) -> None:
    found = classify(1e-6, 1e-5, 100.0, 1e-5, lambda: roughness)
    assert found.kind == kind
    assert f"roughness {roughness:.2g}" in found.sentence


def test_roughness_is_not_asked_for_where_the_plateau_says_enough() -> None:
    def unasked() -> float:
        raise AssertionError("asked")

    assert classify(U64, 1e-7, 1.0, 1e-7, unasked).kind == "rounding"
    assert classify(1e-3, 1e-3, 1.0, 1e-7, unasked).kind == "different meaning"


def test_a_smooth_error_that_one_rounded_constant_could_make_says_so() -> None:
    assert "or a constant rounded to float32" in classify(5e-8, 1e-5, 100.0, 1e-5, lambda: 0.0).sentence
    assert "constant" not in classify(5e-7, 1e-5, 100.0, 1e-5, lambda: 0.0).sentence


def test_the_slope_is_one_for_rounding_and_zero_for_meaning() -> None:
    assert classify(U64, RUNGS["f32"].u, 1.0, 1e-7).slope == 1.0
    assert classify(1e-3, 1e-3, 1.0, 1e-7).slope == 0.0
    assert classify(0.0, 1e-7, 1.0, 1e-7).slope is None
    assert classify(1e-3, None, 1.0, 1e-7).slope is None


def test_the_sentence_says_what_was_measured() -> None:
    assert classify(2e-4, 2e-4, 3.0, 1e-7).sentence == "different meaning: error at f64 0.0002, slope 0.00, kappa 3"
    assert classify(None, None, 3.0, 1e-7, reason="the port raised").sentence == "not comparable: the port raised"


@pytest.mark.parametrize("fault", PLANTED_FAULTS, ids=lambda fault: fault.name)
def test_a_planted_bug_is_a_different_meaning(fault: PlantedFault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    plan = Plan(select(["layer"]), [CANONICAL], ("f64",), "quick", 0)
    (failure,) = execute(plan, Results({"seed": 0})).failures
    assert failure.meaning is not None
    assert failure.meaning.kind == "different meaning"
    assert failure.meaning.slope is not None
    assert abs(failure.meaning.slope) < 0.5
    assert failure.worst_ratio >= failure.ratio * (1 - 1e-9)
    assert Case.from_json("layer", failure.worst_case)


def bench_of(component: str, family: str = "normal") -> Bench:
    (pair,) = select([component])
    return Bench(pair, replace(corpus_cases(pair, 0)[0], family=family, ladder=FINE_LADDER), CANONICAL)


def own(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Plant MLX's own functions in the float64 run: they keep float64 and compute in float32."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for name in names:
            patch.setattr(Float64Library, name, getattr(Library, name))

    return plant


def own_transforms(patch: pytest.MonkeyPatch) -> None:
    def irfft(self: Float64Library, spectrum: mx.array, n: int, norm: str) -> mx.array:
        return mx.fft.irfft(spectrum, n=n, norm=norm).astype(mx.float64)

    own("rfft", "conjugate")(patch)
    patch.setattr(Float64Library, "irfft", irfft)


def float32_sigmoid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Float64Library, "sin", lambda _self, x: sin64(x) + (mx.sigmoid(x) - 1 / (1 + exp64(-x))))


LEAKS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "sin": ("layer", own("sin")),
    "exp": ("layer", own("exp")),
    "erf": ("layer", own("erf")),
    "layer_norm": ("layer", own("layer_norm")),
    "conv1d": ("layer", own("conv1d")),
    "transforms": ("layer", own_transforms),
    "sigmoid": ("layer", float32_sigmoid),
    "softmax": ("attention_pooler", own("softmax")),
    "erf of a pooler": ("attention_pooler", own("erf")),
    "sin of a filter": ("hyena_filter", own("sin")),
    "transforms alone": ("fftconv", own_transforms),
}


@pytest.mark.parametrize("family", ["normal", "offset"])
@pytest.mark.parametrize("name", LEAKS)
def test_a_function_left_in_float32_is_a_precision_leak(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    component, plant = LEAKS[name]
    plant(monkeypatch)
    bench = bench_of(component, family)
    bad = first_bad(examine(bench, CANONICAL, RUNGS["f64"]).judgements)
    if bad is None:  # the data may hide it: erf is 1 far from 0, whatever the precision
        assert (name, family) == ("erf", "offset")
        return
    for tensor in (bad, bench.truth.outputs[-1]):
        found = classify_tensor(bench, CANONICAL, tensor, RUNGS["f64"])
        print(f"{name:17} | {family:6} | {tensor:35} | {figures(found)}")  # noqa: T201
        assert found.kind == "precision leak"
        assert found.only_at == ""


def figures(found: Meaning) -> str:
    plateau = math.nan if found.plateau is None else found.plateau
    roughness = math.nan if found.roughness is None else found.roughness
    return f"{plateau:8.2e} | {plateau / found.f32_noise:8.2e} | {found.kappa:6.1f} | {roughness:6.2g}"


def test_where_roughness_cannot_be_measured_the_plateau_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> float:
        raise ValueError("planted")

    own("sin")(monkeypatch)
    monkeypatch.setattr(examine_module, "roughness", broken)
    found = classify_tensor(bench_of("hyena_filter"), CANONICAL, "y", RUNGS["f64"])
    assert found.kind == "precision leak"
    assert found.roughness is None


def coarse_in(dtype: mx.Dtype) -> Callable[..., mx.array]:
    """A LayerNorm that is right but for one dtype, in which it keeps no digit after the point."""

    def layer_norm(self: Library, x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
        y = mx.fast.layer_norm(x, weight, bias, eps)
        return mx.round(y) if x.dtype == dtype else y

    return layer_norm


@pytest.mark.parametrize(("rung", "finer"), [("f32", "f64"), ("bf16", "f64 and f32"), ("f16", "f64 and f32")])
def test_a_fault_of_one_rung_alone_says_so(rung: RungName, finer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "layer_norm", coarse_in(getattr(mx, RUNGS[rung].dtype)))
    plan = Plan(select(["mlp"]), [CANONICAL], (rung,), "quick", 0)
    failure = execute(plan, Results({"seed": 0})).failures[0]
    assert failure.meaning is not None
    assert failure.meaning.kind == "rounding"
    assert failure.meaning.only_at == rung
    assert f"rounding, but only at {rung}: {finer} " in failure.meaning.sentence


def test_a_fault_of_every_rung_is_not_of_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED_FAULTS[0].plant(monkeypatch)
    found = classify_tensor(bench_of("layer"), CANONICAL, "mlp.act", RUNGS["bf16"])
    assert found.kind == "different meaning"
    assert found.only_at == ""


@pytest.mark.parametrize(("change", "kind"), [(1e-6, "rounding"), (1e-3, "different meaning")])
def test_fresh_buffers_are_classified_at_the_rung_that_builds_them(
    change: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = hyena.PositionalEmbedding.__init__

    def build(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.t = self.t * (1 + change)

    monkeypatch.setattr(hyena.PositionalEmbedding, "__init__", build)
    plan = Plan(select(["hyena_buffers"]), [CANONICAL], ("f32",), "quick", 0)
    (failure,) = execute(plan, Results({"seed": 0})).failures
    assert failure.meaning is not None
    assert failure.meaning.kind == kind
    assert failure.meaning.sentence.startswith(f"{kind}: error at f32 ")


@pytest.mark.parametrize(
    ("error", "kind"), [(1e-17, "rounding"), (1e-8, "precision leak"), (1e-3, "different meaning")]
)
def test_a_truth_of_zeros_is_judged_on_the_scale_of_the_case(
    error: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are 0, and so is what the layer returns; the port returns `error` times a noise."""
    original = ops.Ops.linear
    pair = select(["pooler"])[0]
    drawn = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL)
    state = {name: 0 * array for name, array in drawn.state.items()}

    def linear(self: ops.Ops, x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
        return original(self, x, weight, bias) + error * mx.sin(1e9 * x)

    monkeypatch.setattr(ops.Ops, "linear", linear)
    modules = Modules(pair, drawn.case, CANONICAL, state)
    bench = Bench(pair, drawn.case, CANONICAL, modules=modules)
    assert not bench.truth["y"].values.any()
    assert classify_tensor(bench, CANONICAL, "y", RUNGS["f64"]).kind == kind


def test_misplaced_nan_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ops.Ops.linear

    def linear(self: ops.Ops, x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
        y = original(self, x, weight, bias)
        return mx.where(mx.arange(y.shape[-1]) == 0, mx.nan, y)

    monkeypatch.setattr(ops.Ops, "linear", linear)
    found = classify_tensor(bench_of("pooler"), CANONICAL, "y", RUNGS["f64"])
    assert found.kind == "not comparable"
    assert "NaN" in found.sentence


def test_the_right_port_differs_by_rounding_alone() -> None:
    bench = bench_of("layer")
    kinds = {name: classify_tensor(bench, CANONICAL, name, RUNGS["f32"]).kind for name in list(bench.truth)[-3:]}
    assert set(kinds.values()) == {"rounding"}


def test_a_port_that_raises_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ops.Ops, *arguments: Any) -> mx.array:
        raise ValueError("planted")

    monkeypatch.setattr(ops.Ops, "linear", broken)
    found = classify_tensor(bench_of("layer"), CANONICAL, "y", RUNGS["f64"])
    assert found.sentence == "not comparable: the port raised ValueError: planted"
