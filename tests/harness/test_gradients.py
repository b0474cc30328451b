"""Gradients are a part of every run: a wrong derivative fails where every value is right; what is left out is said."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from mlx import nn as mnn
from torch import nn as tnn

from parity import gradients
from parity.api import Pair, complete
from parity.backends.gradients import draw_cotangents
from parity.blame.failures import blame_failures
from parity.cases import Case, corpus_cases
from parity.cli import _print_results
from parity.examine import Bench, Modules
from parity.gradient_run import FORWARD_FAILS
from parity.gradients import KINK, NO_GRADIENT, GradientBench, examine_gradients
from parity.pairs import InputSpec
from parity.results import Results
from parity.run import DRAWN_GRADIENTS, Plan, execute
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.trace import Trace, TracedTensor


class Net(tnn.Module):
    """Two layers."""

    def __init__(self, n: int, last: Callable[[torch.Tensor], torch.Tensor] = torch.tanh) -> None:
        super().__init__()
        self.up, self.down, self.last = tnn.Linear(n, 2 * n), tnn.Linear(2 * n, n), last

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.last(self.up(x))
        return self.down(hidden), hidden


@mx.custom_function
def tanh_wrong(x: mx.array) -> mx.array:
    return mx.tanh(x)


@tanh_wrong.vjp
def _(primals: Any, cotangent: Any, output: Any) -> Any:
    return cotangent * (1 - mx.square(output)) * (1 + 2.0**-12)


@mx.custom_function
def tanh_short(x: mx.array) -> mx.array:
    return mx.tanh(x)


@tanh_short.vjp
def _(primals: Any, cotangent: Any, output: Any) -> Any:
    return (cotangent * (1 - mx.square(output))).astype(mx.bfloat16).astype(cotangent.dtype)


@mx.custom_function
def tanh_refused(x: mx.array) -> mx.array:
    return mx.tanh(x)


@tanh_refused.vjp
def _(primals: Any, cotangent: Any, output: Any) -> Any:
    raise ValueError("no derivative here")


FAULTS: dict[str, Callable[[mx.array], mx.array]] = {
    "wrong": tanh_wrong,
    "short": tanh_short,
    "stopped": lambda x: mx.stop_gradient(mx.tanh(x)),
    "refused": tanh_refused,
}


class Port(mnn.Module):
    """The same; `last` may have another derivative."""

    def __init__(self, n: int, last: Callable[[mx.array], mx.array] = mx.tanh, frozen: str = "") -> None:
        super().__init__()
        self.up, self.down, self.last = mnn.Linear(n, 2 * n), mnn.Linear(2 * n, n), last
        if frozen == "all":
            self.freeze()
        elif frozen:
            self[frozen].freeze()

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        hidden = self.last(self.up(x))
        return self.down(hidden), hidden


def pair(port: Callable[[int], Any] = Port, reference: Callable[[int], Any] = Net, **more: Any) -> Any:
    given = {"configurations": [4, 7], **more}
    return complete(Pair("net", reference=reference, port=port, inputs=lambda n: {"x": (3, n)}, **given))


def run(found: Any, rungs: tuple[Any, ...] = ("f64", "f32"), seed: int = 0) -> Results:
    return execute(Plan([found], [CANONICAL], rungs, "quick", seed), Results({"seed": seed}))


def names(results: Results) -> set[str]:
    return {row.tensor for row in results.rows if row.kind == "gradient"}


def test_every_gradient_of_a_right_port_is_compared_and_passes() -> None:
    results = run(pair())
    expected = {f"gradient of {name}" for name in ("input x", "up.weight", "up.bias", "down.weight", "down.bias")}
    assert names(results) == expected
    assert results.verdict == "pass"
    assert not results.unpaired.get("net")
    assert all(row.elements and row.cases == 2 for row in results.rows if row.kind == "gradient")


@pytest.mark.parametrize("rung", ["f64", "f32"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_derivative_fails_though_every_value_is_right(fault: str, rung: Any) -> None:
    results = run(pair(lambda n: Port(n, FAULTS[fault])), (rung,))
    (failure,) = results.failures
    assert failure.kind == "gradient"
    assert failure.first_bad == "gradient of input x"
    assert all(row.verdict == "pass" for row in results.rows if row.kind != "gradient")
    assert results.exit_code == 1
    assert ("no derivative here" in failure.reason) == (fault == "refused")


def test_a_wrong_derivative_is_traced_backwards() -> None:
    found = pair(lambda n: Port(n, tanh_wrong))
    (blame,) = blame_failures([found], [CANONICAL], run(found, ("f64",)))
    assert [row["module"] for row in blame.rows if row["verdict"] == "wiring"] == [""], blame.sentence


def test_the_command_of_a_failure_names_the_case_and_blame() -> None:
    (failure,) = run(pair(lambda n: Port(n, tanh_wrong)), ("f64",)).failures
    words = shlex.split(failure.rerun)
    assert words[:2] == ["parity", "run"]
    assert words[words.index("--case") + 1] == failure.case
    (hint,) = failure.attribution
    assert shlex.split(hint.partition(": ")[2])[:3] == ["parity", "trace", "--backward"]


def test_a_named_case_has_its_gradients_judged() -> None:
    wrong = pair(lambda n: Port(n, tanh_wrong))
    cases = corpus_cases(wrong, 5)[1:]
    results = execute(Plan([wrong], [CANONICAL], ("f64",), "quick", 5, cases=cases), Results({}))
    assert [(failure.kind, failure.case) for failure in results.failures] == [("gradient", cases[0].to_json())]


def test_a_frozen_parameter_is_listed_and_one_without_anything_to_compare_fails() -> None:
    results = run(pair(lambda n: Port(n, frozen="down")))
    assert results.verdict == "pass"
    assert results.unpaired["net"] == {f"gradient of down.{name}": NO_GRADIENT for name in ("weight", "bias")}
    assert run(pair(lambda n: Port(n, frozen="all"))).verdict == "pass", "the input's gradient remains"


def test_a_port_that_nothing_can_be_differentiated_by_fails() -> None:
    inputs = lambda n: {"x": InputSpec((3,), "ids", high=n)}  # noqa: E731
    results = run(complete(Pair("ids", reference=Ids, port=IdsPort, configurations=[5], inputs=inputs)))
    assert {failure.reason for failure in results.failures} == {f"nothing compared: {NO_GRADIENT}"}


class Ids(tnn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.table = tnn.Embedding(n, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x)  # type: ignore[no-any-return]


class IdsPort(mnn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.table = mnn.Embedding(n, 4)
        self.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        return self.table(x)


def reasons(results: Results) -> set[str]:
    return {skip.reason for skip in results.skips if skip.reason.startswith("gradients")}


def test_what_is_not_judged_is_said() -> None:
    named = run(pair(lambda n: Port(n, tanh_wrong), no_gradients="never differentiated"))
    assert named.verdict == "pass"
    assert reasons(named) == {"gradients: never differentiated"}
    stopped = run(pair(reference=lambda n: Net(n, lambda x: torch.tanh(x).detach()), port=Port))
    assert {failure.kind for failure in stopped.failures} == {"gradient"}
    scaled = run(pair(lambda n: Port(n, lambda x: mx.tanh(x) * 1.01)))
    assert {failure.kind for failure in scaled.failures} == {"tensor"}
    assert reasons(scaled) == {FORWARD_FAILS}
    assert names(scaled) == set()


def test_a_reference_without_a_derivative_is_skipped_with_torchs_words() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        return torch.heaviside(x, torch.zeros_like(x))

    port = lambda n: Port(n, lambda x: (x > 0).astype(x.dtype))  # noqa: E731
    results = run(pair(port, lambda n: Net(n, step)), ("f64",))
    assert results.verdict == "pass"
    (reason,) = reasons(results)
    assert "is not implemented" in reason


def test_what_the_harness_itself_raises_is_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> Any:
        raise RuntimeError("of the harness")

    monkeypatch.setattr(gradients, "gradients_of_reference", broken)
    with pytest.raises(RuntimeError, match="of the harness"):
        run(pair())


def test_a_pair_without_a_corpus_has_drawn_cases_differentiated() -> None:
    results = run(pair(configurations=st.integers(2, 9)), ("f64",))
    assert {row.cases for row in results.rows if row.kind == "gradient"} <= set(range(1, DRAWN_GRADIENTS + 1))
    assert names(results)


def test_cotangents_are_exact_in_every_format_and_never_zero() -> None:
    outputs = Trace({"y": TracedTensor(np.zeros((40, 50)), "float64")}, ("y",))
    found = draw_cotangents(outputs, 3)["y"]
    assert np.array_equal(found, draw_cotangents(outputs, 3)["y"])
    assert not np.array_equal(found, draw_cotangents(outputs, 4)["y"])
    assert found.all()
    assert torch.equal(torch.from_numpy(found).bfloat16().double(), torch.from_numpy(found))
    assert torch.equal(torch.from_numpy(found).half().double(), torch.from_numpy(found))


@pytest.mark.parametrize("seed", range(8))
def test_a_kink_that_rounding_crosses_is_no_failure(seed: int) -> None:
    """The argument of a ReLU is the rounding of a sum that would be zero: either side is right."""
    relu = pair(lambda n: Port(n, mnn.relu), lambda n: Net(n, torch.relu), configurations=[16])
    case = corpus_cases(relu, seed)[0]
    modules = Modules(relu, case, CANONICAL)
    state = dict(modules.state)
    x = np.random.Generator(np.random.Philox(seed)).standard_normal((1, 16)).astype(np.float32)
    state["up.bias"] = (-(x @ state["up.weight"].T)[0]).astype(np.float32)
    bench = Bench(relu, case, CANONICAL, inputs={"x": x}, modules=Modules(relu, case, CANONICAL, state))
    found = examine_gradients(GradientBench(bench), CANONICAL, RUNGS["f32"])
    assert found.judgements
    assert all(judgement.passed for judgement in found.judgements.values())


class Pool(tnn.Module):
    """The largest of each two: where both are equal, either may have the gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.leaky_relu(torch.maximum(x[..., ::2], x[..., 1::2]), 0.1)


class PoolPort(mnn.Module):
    """The same; `scale` is that of a wrong derivative, `root` one of a root that is infinite at zero."""

    def __init__(self, scale: float = 1.0, root: bool = False) -> None:
        super().__init__()
        self.scale, self.root = scale, root

    def __call__(self, x: mx.array) -> mx.array:
        if self.scale != 1:
            x = self.scale * x + mx.stop_gradient(x - self.scale * x)
        y = mnn.leaky_relu(mx.max(x.reshape(*x.shape[:-1], -1, 2), axis=-1), 0.1)
        return y + 0 * mx.sqrt(mx.abs(x[..., ::2])) if self.root else y


def tied(scale: float = 1.0, root: bool = False) -> Results:
    inputs = lambda n: {"x": (3, 2 * n)}  # noqa: E731
    given = {"configurations": [2, 3, 4, 5, 6, 7, 8, 9, 10], "inputs": inputs}
    whole = complete(Pair("pool", reference=lambda n: Pool(), port=lambda n: PoolPort(scale, root), **given))  # type: ignore[arg-type]
    return execute(Plan([whole], [CANONICAL], ("f64", "f32"), "standard", 0), Results({"seed": 0}))


def test_ties_and_kinks_are_judged_beside_themselves_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    results = tied()
    _print_results(results, None, detailed=False)
    count = sum(skip.cases or 0 for skip in results.skips if skip.reason == KINK)
    printed = capsys.readouterr().out
    assert f"{count} runs of single cases were judged, not skipped (f64): {KINK}" in printed
    assert "skipped " not in printed.replace("not skipped", "")
    assert results.verdict == "pass", results.failures
    assert KINK in reasons(results)
    assert all(row.elements for row in results.rows if row.kind == "gradient")


@pytest.mark.parametrize("wrong", [{"scale": 1.01}, {"root": True}], ids=str)
def test_a_tie_excuses_neither_a_wrong_derivative_nor_nan(wrong: Any) -> None:
    assert {failure.kind for failure in tied(**wrong).failures} == {"gradient"}


class LongPool(tnn.Module):
    """The largest of all positions: of a constant input, all are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.max(dim=-2)[0]


class LongPoolPort(mnn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        return mx.max(x, axis=-2)


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_a_tie_of_many_is_parted(rung: Any) -> None:
    """Within 2^-20 of a number lie 16 of float32's, of which 32 positions would draw the same."""
    inputs = lambda c: {"x": (2, c["n"], 6)}  # noqa: E731
    given = {"configurations": [{"n": 32}], "inputs": inputs}
    pool = complete(Pair("pool", reference=lambda n: LongPool(), port=lambda n: LongPoolPort(), **given))  # type: ignore[arg-type]
    bench = GradientBench(Bench(pool, Case.make("pool", {"n": 32}, "constant"), CANONICAL))
    found = examine_gradients(bench, CANONICAL, RUNGS[rung])
    assert found.beside
    assert all(judgement.passed for judgement in found.judgements.values())


GUARD = 2.0**-26


class Standard(tnn.Module):
    """(x - mean) / sd of each row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True))


class StandardPort(mnn.Module):
    """The same; for its derivative, in `dtypes`, a variance below `GUARD` times the squared mean is held there."""

    def __init__(self, dtypes: tuple[mx.Dtype, ...]) -> None:
        super().__init__()
        self.dtypes = dtypes

    def __call__(self, x: mx.array) -> mx.array:
        def parts(x: mx.array) -> tuple[mx.array, mx.array]:
            centred = x - mx.mean(x, axis=-1, keepdims=True)
            return centred, mx.mean(mx.square(centred), axis=-1, keepdims=True)

        @mx.custom_function
        def standard(x: mx.array) -> mx.array:
            centred, variance = parts(x)
            return centred * mx.rsqrt(variance)

        @standard.vjp
        def _(x: Any, cotangent: Any, output: Any) -> Any:
            _, variance = parts(x)
            if x.dtype in self.dtypes:
                variance = mx.maximum(variance, GUARD * mx.square(mx.mean(x, axis=-1, keepdims=True)))
            share = mx.mean(cotangent * output, axis=-1, keepdims=True)
            return (cotangent - mx.mean(cotangent, axis=-1, keepdims=True) - output * share) * mx.rsqrt(variance)

        return standard(x)  # type: ignore[no-any-return]


def far(dtypes: tuple[mx.Dtype, ...], rung: Any) -> Any:
    """Gradients at inputs whose spread is 2^-14 of their mean: the guard holds there, but not 2^-12 beside them."""
    given = {"configurations": [32], "inputs": lambda n: {"x": (3, n)}}
    norm = complete(Pair("norm", reference=lambda n: Standard(), port=lambda n: StandardPort(dtypes), **given))  # type: ignore[arg-type]
    spread = np.random.Generator(np.random.Philox(3)).standard_normal((3, 32))
    x = (100 * (1 + 2.0**-14 * spread)).astype(np.float32).astype(np.float64)
    bench = Bench(norm, corpus_cases(norm, 0)[0], CANONICAL, inputs={"x": x})
    return examine_gradients(GradientBench(bench), CANONICAL, RUNGS[rung])


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_a_derivative_that_is_wrong_at_a_far_offset_alone_is_no_kink(
    rung: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = far((), rung)
    assert not right.beside
    assert all(judgement.passed for judgement in right.judgements.values())
    at_rung = (mx.float64,) if rung == "f64" else (mx.float32,)
    for dtypes in ((mx.float64, mx.float32), at_rung):
        wrong = far(dtypes, rung)
        assert not wrong.beside
        assert not any(judgement.passed for judgement in wrong.judgements.values())
    monkeypatch.setattr(gradients, "_ASIDE", dict.fromkeys(("f64", "f32"), 2.0**-12))
    assert far((mx.float64, mx.float32), rung).beside, "so far beside, nothing of the offset is left"
