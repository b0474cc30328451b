"""The context lifts what it says, restores everything, refuses where it would do nothing, reports what it cannot."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from float64_arrays import U, mlx, numpy, relative, stream

import parity.float64.context
from parity.errors import Float64ContextError, ParityError
from parity.float64 import FORMS, METHOD_FORMS, Float64Spectrum, Leak, float64_forms, transforms
from parity.float64.compiled import compiling, tracing
from parity.float64.lifted import Lifted, Session

OWNERS = (mx, mx.fast, mx.fft, mx.linalg, mx.array)
X = stream(1).standard_normal((3, 8))


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield
    assert compiling()


def names() -> dict[tuple[int, str], Any]:
    """Everything that MLX's modules and its array hold."""
    return {(place, name): value for place, owner in enumerate(OWNERS) for name, value in vars(owner).items()}


def unchanged(before: dict[tuple[int, str], Any]) -> bool:
    after = names()
    return before.keys() == after.keys() and all(after[key] is value for key, value in before.items())


# --- what is lifted ---------------------------------------------------------------------------------------------------


def standing(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(getattr(mx, module) if module else mx, name)


def test_every_form_stands_under_its_name() -> None:
    before = {place: standing(place) for place in FORMS}
    with float64_forms():
        assert all(isinstance(standing(place), Lifted) for place in FORMS)
        assert all(isinstance(vars(mx.array)[name], Lifted) for name in METHOD_FORMS)
    assert all(standing(place) is function for place, function in before.items())


def test_functions_methods_and_activations_compute_in_float64_inside_and_in_float32_outside() -> None:
    calls: dict[str, tuple[Callable[[mx.array], mx.array], Any]] = {
        "function": (lambda x: mx.exp(x), np.exp),  # noqa: PLW0108 - looked up at the call
        "method": (lambda x: x.exp(), np.exp),
        "activation": (nn.silu, lambda x: x / (1 + np.exp(-x))),
        "layer": (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    }
    for call, truth in calls.values():
        assert relative(np.array(call(mlx(X))), truth(X)) > 1e-10
        with float64_forms() as leaks:
            assert relative(numpy(call(mlx(X))), truth(X)) <= 8 * U
        assert not leaks


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16, mx.int32])
@pytest.mark.parametrize("place", [p for p in FORMS if "." not in p and "conv" not in p and p != "gather_mm"])
def test_other_dtypes_go_to_mlx_bit_for_bit(place: str, dtype: Any) -> None:
    x = mx.array(np.abs(X) * 0.3, dtype=dtype)
    arguments = (x, x) if place == "logaddexp" else (x,)
    before = standing(place)(*arguments)
    with float64_forms() as leaks:
        after = standing(place)(*arguments)
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(np.array(before.astype(mx.float32)), np.array(after.astype(mx.float32)))
    assert not leaks


def test_other_dtypes_of_the_fused_functions_go_to_mlx_bit_for_bit() -> None:
    x = mx.array(X, dtype=mx.float32)
    first = {"rhs_indices": mx.array([0])}
    before = [mx.fast.layer_norm(x, None, None, 1e-5), nn.gelu(x), mx.conv1d(x[None], x[None, :2, :]), x.logsumexp()]
    before.append(mx.gather_mm(x[None], x.T[None], **first))
    complex_before = mx.fft.rfft(x)
    with float64_forms():
        after = [mx.fast.layer_norm(x, None, None, 1e-5), nn.gelu(x), mx.conv1d(x[None], x[None, :2, :]), x.logsumexp()]
        after.append(mx.gather_mm(x[None], x.T[None], **first))
        assert mx.fft.rfft(x).dtype == mx.complex64
        assert mx.array_equal(mx.fft.rfft(x), complex_before)
    # Compiled or not, the activation has the same operations; MLX fuses without contraction.
    assert all(mx.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_gradients_go_through() -> None:
    layer = nn.Linear(8, 4)
    layer.set_dtype(mx.float64)
    weight = np.array(layer.weight)

    def loss(model: nn.Linear, x: mx.array) -> mx.array:
        return mx.sum(mx.sin(model(x)))

    expected = np.cos(X @ weight.T + np.array(layer.bias)).T @ X
    with float64_forms():
        _, slopes = nn.value_and_grad(layer, loss)(layer, mlx(X))
        assert relative(numpy(slopes["weight"]), expected) <= 16 * U
        checkpointed = mx.grad(lambda v: mx.checkpoint(mx.sin)(v).sum())(mlx(X))
        assert relative(numpy(checkpointed), np.cos(X)) <= 8 * U
        mapped = mx.vmap(mx.grad(lambda v: mx.sin(v).sum()))(mlx(X))
        assert relative(numpy(mapped), np.cos(X)) <= 8 * U


def test_a_stream_is_honoured() -> None:
    with float64_forms():
        assert relative(numpy(mx.exp(mlx(X), stream=mx.cpu)), np.exp(X)) <= 4 * U


# --- spectra ----------------------------------------------------------------------------------------------------------


def test_a_spectrum_goes_through_operators_and_functions_as_a_complex_array_does() -> None:
    z = np.fft.rfft(X)
    y = np.fft.rfft(X[::-1])
    with float64_forms() as leaks:
        s, t, real = mx.fft.rfft(mlx(X)), mx.fft.rfft(mlx(X[::-1])), mlx(X[:, :5])
        pairs = {
            "s t": (s * t, z * y),
            "r s": (real * s, X[:, :5] * z),
            "s / t": (s / t, z / y),
            "1 / s": (1 / s, 1 / z),
            "s - r": (s - real, z - X[:, :5]),
            "r - s": (real - s, X[:, :5] - z),
            "1j s": (1j * s, 1j * z),
            "s + 2": (s + 2, z + 2),
            "-s": (-s, -z),
            "multiply": (mx.multiply(s, t), z * y),
            "divide": (mx.divide(real, t), X[:, :5] / y),
            "subtract": (mx.subtract(real, t), X[:, :5] - y),
            "abs": (mx.abs(s), np.abs(z)),
            "conj": (mx.conj(s), z.conj()),
            "real": (mx.real(s), z.real),
            "imag": (mx.imag(s), z.imag),
            "square": (mx.square(s), z * z),
            "concatenate": (mx.concatenate([s, real], axis=0), np.concatenate([z, X[:, :5]])),
            "sum": (mx.sum(s, axis=0), z.sum(0)),
            "split": (mx.split(s, [2], axis=-1)[1], z[:, 2:]),
            "index": (s[:, 1:3], z[:, 1:3]),
            "reshape": (s.reshape(5, 3).transpose(1, 0).swapaxes(0, 1), z.reshape(5, 3)),
            "shift": (mx.fft.fftshift(s, axes=-1), np.fft.fftshift(z, axes=-1)),
        }
        assert s.shape == (3, 5)
        assert (s.ndim, s.size) == (2, 15)
    for name, (actual, expected) in pairs.items():
        assert relative(numpy(actual), expected) <= 64 * U, name
    assert not leaks


@pytest.mark.parametrize("name", ["sort", "exp"])
def test_a_function_that_knows_no_spectrum_raises_and_is_a_leak(name: str) -> None:
    with float64_forms() as leaks:
        spectrum = mx.fft.rfft(mlx(X))
        with pytest.raises(
            Float64ContextError, match=rf"mlx\.core\.{name} has no float64 form for a transform's result"
        ):
            getattr(mx, name)(spectrum)
    assert leaks.operations == (name,)


def test_a_spectrum_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an array or a number, got str"):
        transforms.fft("x")


# --- restoration and nesting ------------------------------------------------------------------------------------------


def test_everything_is_restored_also_after_an_exception() -> None:
    before = names()

    def fails() -> None:
        with float64_forms():
            assert not unchanged(before)
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        fails()
    assert unchanged(before)
    assert compiling()


def test_everything_is_restored_when_entering_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()

    def fails(*_: Any) -> Any:
        raise OSError("planted")

    monkeypatch.setattr(parity.float64.context, "_exchange", fails)
    holder = {"sine": mx.sin}
    with pytest.raises(OSError, match="planted"), float64_forms():
        pytest.fail("entered")
    monkeypatch.undo()
    assert holder == {"sine": mx.sin}
    assert unchanged(before)
    assert compiling()


def test_a_name_that_was_set_inside_is_restored_too() -> None:
    before = names()
    with float64_forms():
        mx.sin = lambda _: 0
    assert unchanged(before)


def test_contexts_nest_and_each_has_its_report() -> None:
    before = names()
    with float64_forms() as outer:
        mlx(X).astype(mx.float32)
        with float64_forms() as inner:
            assert relative(numpy(mx.exp(mlx(X))), np.exp(X)) <= 4 * U
            mx.astype(mlx(X), mx.float16)
        assert relative(numpy(mx.exp(mlx(X))), np.exp(X)) <= 4 * U
        with pytest.raises(KeyError), float64_forms():
            raise KeyError
        assert isinstance(mx.exp, Lifted)
    assert unchanged(before)
    assert inner.operations == ("astype",)
    assert outer.operations == ("array.astype", "astype")


def test_a_nested_context_may_be_entered_under_a_gradient() -> None:
    def loss(x: mx.array) -> mx.array:
        with float64_forms():
            return mx.sin(x).sum()

    with float64_forms():
        assert relative(numpy(mx.grad(loss)(mlx(X))), np.cos(X)) <= 8 * U


def test_what_was_kept_from_a_context_follows_mlx_afterwards() -> None:
    with float64_forms():
        kept = mx.exp
    x = mx.array([1.0])
    assert kept(x).item() == mx.exp(x).item()
    assert relative(np.array(kept(mlx(X))), np.exp(X)) > 1e-10
    with float64_forms():
        assert relative(numpy(kept(mlx(X))), np.exp(X)) <= 4 * U


# --- captured references ----------------------------------------------------------------------------------------------


class Holder:
    function = mx.sin

    def __init__(self) -> None:
        self.sine = mx.sin


class SlottedHolder:
    __slots__ = ("sine",)

    def __init__(self) -> None:
        self.sine = mx.sin


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.activation = mx.sin

    def __call__(self, x: mx.array) -> mx.array:
        return self.activation(x)


def closure() -> Callable[[mx.array], mx.array]:
    function = mx.sin
    return lambda x: function(x)  # noqa: PLW0108 - its cell is what is tested


def exchangeable() -> dict[str, Callable[[mx.array], mx.array]]:
    holder, table, row, layer = Holder(), {"sin": mx.sin}, [mx.sin], Layer()
    return {
        "attribute of a class": lambda x: Holder.function(x),  # noqa: PLW0108
        "attribute of an object": lambda x: holder.sine(x),  # noqa: PLW0108
        "dictionary": lambda x: table["sin"](x),  # noqa: PLW0108
        "list": lambda x: row[0](x),  # noqa: PLW0108
        "module of mlx.nn": layer,
        "closure": closure(),
        "recurrent layer": lambda x: nn.RNN(8, 8, nonlinearity=layer.activation).nonlinearity(x),
    }


@pytest.mark.parametrize("name", exchangeable())
def test_a_captured_function_is_lifted_and_restored(name: str) -> None:
    call = exchangeable()[name]
    assert relative(np.array(call(mlx(X))), np.sin(X)) > 1e-10
    with float64_forms() as leaks:
        assert relative(numpy(call(mlx(X))), np.sin(X)) <= 4 * U
    assert relative(np.array(call(mlx(X))), np.sin(X)) > 1e-10
    assert not leaks


def test_holders_are_exactly_as_before() -> None:
    holder, table, row, layer = Holder(), {"sin": mx.sin, "own": 1}, [mx.cos, mx.sin], Layer()
    with float64_forms():
        row[0] = "put there inside"  # type: ignore[call-overload]
    assert (Holder.function, holder.sine, table, layer.activation) == (
        mx.sin,
        mx.sin,
        {"sin": mx.sin, "own": 1},
        mx.sin,
    )
    assert row == ["put there inside", mx.sin]


@pytest.mark.parametrize(
    ("hold", "kind"),
    [(lambda: (mx.sin,), "tuple"), (lambda: functools.partial(mx.sin), "partial"), (SlottedHolder, "SlottedHolder")],
    ids=["tuple", "partial", "slots"],
)
def test_what_cannot_be_exchanged_is_a_leak(hold: Callable[[], Any], kind: str) -> None:
    held = hold()
    with float64_forms() as leaks:
        pass
    assert list(leaks) == [Leak("sin", "captured", f"by a {kind}", 1)]
    del held
    with float64_forms() as leaks:
        assert not leaks


# --- compilation ------------------------------------------------------------------------------------------------------


def test_a_function_compiled_and_called_before_runs_through_the_forms() -> None:
    compiled = mx.compile(lambda x: mx.sin(x) * 2)
    rough = np.array(compiled(mlx(X)))
    assert relative(rough, 2 * np.sin(X)) > 1e-10
    with float64_forms():
        assert relative(numpy(compiled(mlx(X))), 2 * np.sin(X)) <= 4 * U
        assert relative(numpy(mx.grad(lambda v: compiled(v).sum())(mlx(X))), 2 * np.cos(X)) <= 8 * U
    np.testing.assert_array_equal(np.array(compiled(mlx(X))), rough)


def test_a_function_compiled_inside_is_right_inside_and_follows_mlx_after() -> None:
    state = [mlx(X)]
    with float64_forms():
        compiled = mx.compile(lambda x: mx.sin(x) + state[0], inputs=state)
        assert relative(numpy(compiled(mlx(X))), np.sin(X) + X) <= 4 * U
    x = mx.array(X, dtype=mx.float32)
    np.testing.assert_allclose(np.array(compiled(x)), np.sin(X) + X, rtol=1e-5, atol=1e-6)
    assert relative(np.array(compiled(mlx(X))), np.sin(X) + X) > 1e-10


@pytest.mark.parametrize("transform", [mx.compile, mx.vmap, lambda f: mx.grad(lambda x: f(x).sum())])
def test_entering_inside_a_trace_raises(transform: Callable[..., Any]) -> None:
    def inside(x: mx.array) -> mx.array:
        with float64_forms():
            return mx.sin(x)

    before = names()
    with pytest.raises(
        Float64ContextError, match="inside a function that MLX is compiling, mapping or differentiating"
    ):
        transform(inside)(mlx(X))
    assert unchanged(before)
    assert numpy(inside(mlx(X))).shape == X.shape


def test_the_canaries_tell_tracing_and_compiling() -> None:
    seen: list[bool] = []
    mx.compile(lambda x: (seen.append(tracing()), x)[1])(mlx(X))
    assert seen == [True]
    assert not tracing()
    mx.disable_compile()
    assert not compiling()
    assert not tracing()
    mx.enable_compile()


def test_switching_compilation_on_inside_raises() -> None:
    captured = SimpleNamespace(enable=mx.enable_compile)
    with float64_forms():
        for enable in (mx.enable_compile, captured.enable):
            with pytest.raises(Float64ContextError, match=r"enable_compile was called inside float64_forms\(\)"):
                enable()
        assert not compiling()
    captured.enable()


def test_compilation_switched_on_unseen_is_noticed_on_leaving_and_on_nesting() -> None:
    hidden = (mx.enable_compile,)
    with pytest.raises(Float64ContextError, match="compilation is on inside"), float64_forms():
        hidden[0]()

    def nested() -> None:
        with float64_forms():
            hidden[0]()
            with float64_forms():
                pytest.fail("entered")

    with pytest.raises(Float64ContextError, match="compilation is on inside"):
        nested()
    assert compiling()


def test_compilation_stays_off_where_it_was_off() -> None:
    mx.disable_compile()
    try:
        with float64_forms():
            assert not compiling()
        assert not compiling()
    finally:
        mx.enable_compile()


def test_an_imported_graph_is_refused() -> None:
    with float64_forms(), pytest.raises(ParityError, match="import_function was called inside"):
        mx.import_function("anything.mlxfn")


# --- leaks ------------------------------------------------------------------------------------------------------------


def test_an_operation_without_a_form_is_reported_by_its_name() -> None:
    with float64_forms() as leaks:
        mx.linalg.eigvals(mlx(np.eye(2)))
    assert [(leak.operation, leak.kind) for leak in leaks] == [
        ("linalg.eigvals", "formless"),
        ("linalg.eigvals", "downcast"),
    ]
    assert "precision leak: linalg.eigvals loses float64 accuracy and has no float64 form" in str(leaks)


@pytest.mark.parametrize("place", ["erf", "fast.rope"])
def test_a_planted_operation_without_a_form_is_reported(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.float64.context, "FORMS", {name: form for name, form in FORMS.items() if name != place})
    monkeypatch.setattr(parity.float64.context, "FORMLESS", {place: "planted"})
    with float64_forms() as leaks:
        mx.erf(mlx(X))
        mx.erf(mx.array(X, dtype=mx.float32))
        mx.fast.rope(mlx(X)[None], 8, traditional=False, base=1e4, scale=1.0, offset=0)
    assert list(leaks) == [Leak(place, "formless", "planted", 1)]


@pytest.mark.parametrize(
    ("run", "leak"),
    [
        (lambda x: x.astype(mx.float32), Leak("array.astype", "downcast", "float32", 1)),
        (lambda x: mx.astype(x, mx.bfloat16), Leak("astype", "downcast", "bfloat16", 1)),
        (lambda x: x * 1j, Leak("array.__mul__", "downcast", "complex64", 1)),
        (lambda x: mx.zeros(8).__setitem__(slice(None), x[0]), Leak("array.__setitem__", "downcast", "float32", 1)),
        (
            lambda x: mx.put_along_axis(mx.zeros((3, 8)), mx.zeros((3, 8), dtype=mx.int32), x, axis=1),
            Leak("put_along_axis", "downcast", "float32", 1),
        ),
        (lambda x: x.astype(mx.int32), None),
        (lambda x: x.argmax(), None),
        (lambda x: x > 0, None),
        (lambda x: mx.zeros(8, dtype=mx.float64).__setitem__(slice(None), x[0]), None),
    ],
    ids=["astype", "mx.astype", "1j", "assignment", "put_along_axis", "integers", "argmax", "comparison", "float64"],
)
def test_a_silent_downcast_is_a_leak(run: Callable[[mx.array], Any], leak: Leak | None) -> None:
    with float64_forms() as leaks:
        run(mlx(X))
    assert list(leaks) == ([] if leak is None else [leak])
    assert bool(leaks) == (leak is not None)


def test_a_clean_report_says_so_and_a_leak_counts() -> None:
    with float64_forms() as leaks:
        assert str(leaks) == "no precision leak"
        for _ in range(3):
            mlx(X).astype(mx.float32)
    assert [leak.times for leak in leaks] == [3]
    assert len(leaks) == 1


def test_a_closed_session_answers_by_mlx() -> None:
    lifted = Lifted(Session(), SimpleNamespace(), "sin", "sin", mx.sin, FORMS["sin"])
    assert repr(lifted) == "<float64 form of mlx.core.sin>"
    assert relative(np.array(lifted(mlx(X))), np.sin(X)) > 1e-10


def test_a_pair_is_no_array() -> None:
    assert not isinstance(Float64Spectrum(mlx(X), mlx(X)), mx.array)
