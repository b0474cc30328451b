"""MLX's calls come complete, in order and under their names; instances get their classes back; tracing is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx
import pytest
from captured_trees import EXPECTED, MlxScale, MlxTree, PlantedError, described, listener
from mlx import nn
from mlx.nn.utils import checkpoint
from mlx.utils import tree_flatten

from parity.errors import CaptureError, SelectionError
from parity.float64 import float64_forms
from parity.trace.calls import Call
from parity.trace.mlx_capture import Captured, capture_mlx


def captured(model: nn.Module, **options: Any) -> list[Call]:
    calls, listen = listener()
    with capture_mlx(model, listen, **options):
        model(mx.ones(1))
    return calls


def classes(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def test_every_call_comes_in_the_order_in_which_it_ended() -> None:
    calls = captured(MlxTree())
    assert described(calls) == EXPECTED
    assert [call.order for call in calls] == list(range(len(EXPECTED)))
    assert [call.kind for call in calls[-3:]] == ["MlxBlock", "MlxScale", "MlxTree"]


def test_a_shared_module_has_its_first_name_and_lists_the_others() -> None:
    calls = captured(MlxTree(), select=["again"])
    assert [call.name for call in calls] == ["first", "first#2", "first#3"]
    assert calls[0].aliases == ("again",)


def test_a_cache_is_reported() -> None:
    (block,) = captured(MlxTree(), select=["block"])
    assert block.opaque == (("inputs.cache", "KVCache"), ("outputs.1.cache", "KVCache"))


def test_arguments_come_as_they_were_passed() -> None:
    (call,) = captured(MlxTree(), select=["block.inner"])
    assert (len(call.args), list(call.kwargs)) == (1, ["bias"])


def test_beginnings_come_before_ends_and_without_outputs() -> None:
    events: list[Any] = []
    tree = MlxTree()
    with capture_mlx(
        tree,
        lambda call: events.append(("ends", call.name)),
        ["block*"],
        lambda call: events.append(("begins", call.name, call.order, dict(call.outputs))),
    ):
        tree(mx.ones(1))
    assert events == [
        ("begins", "block", -1, {}),
        ("begins", "block.inner", -1, {}),
        ("ends", "block.inner"),
        ("ends", "block"),
    ]


def test_a_glob_that_matches_nothing_is_refused() -> None:
    tree = MlxTree()
    with (
        pytest.raises(SelectionError, match="'blocks' matches none of 4 modules"),
        capture_mlx(tree, print, ["blocks"]),
    ):
        pass
    assert Captured not in type(tree).__mro__


def test_what_the_receiver_calls_itself_is_not_captured() -> None:
    tree = MlxTree()
    names: list[str] = []

    def again(call: Call) -> None:
        names.append(call.name)
        tree.block(mx.ones(1))

    with capture_mlx(tree, again):
        tree(mx.ones(1))
    assert names == [name for name, *_ in EXPECTED]


# --- lazy evaluation --------------------------------------------------------------------------------------


def allocated(evaluate: bool) -> list[bool]:
    """Whether memory has grown when each call comes, over the start: arrays come into being by evaluation alone."""
    grown: list[bool] = []
    model, x = nn.Sequential(MlxScale(2), MlxScale(3)), mx.ones(1 << 16)
    mx.eval(x)
    start = mx.get_active_memory()
    with capture_mlx(
        model, lambda call: grown.append(mx.get_active_memory() > start + x.nbytes // 2), evaluate=evaluate
    ):
        model(x)
    return grown


def test_outputs_come_unevaluated_unless_asked_for() -> None:
    assert allocated(evaluate=False) == [False, False, False]
    assert allocated(evaluate=True) == [True, True, True]


class Overwriting(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        x[...] = x + 1
        return x


def test_assignments_to_an_array_do_not_reach_what_was_captured() -> None:
    calls = captured(nn.Sequential(MlxScale(5), Overwriting(), Overwriting()))
    assert described(calls)[:3] == [
        ("layers.0", 1, {"x": 1}, {"": 5}),
        ("layers.1", 1, {"x": 5}, {"": 6}),
        ("layers.2", 1, {"x": 6}, {"": 7}),
    ]


# --- the modules go on working ----------------------------------------------------------------------------


class Twice(MlxScale):
    """Calls its parent's `__call__` by `super` and by name."""

    def __call__(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        return super().__call__(x, bias) + MlxScale.__call__(self, x)


def test_a_call_of_a_parents_method_is_no_call_of_its_own() -> None:
    (call,) = captured(Twice(2))
    assert (call.name, call.outputs[""].item()) == ("", 4)


class Registered(nn.Module):
    heirs: ClassVar[list[type]] = []

    def __init_subclass__(cls) -> None:
        Registered.heirs.append(cls)


class Heir(Registered):
    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.array([2.0])
        self.label = "heir"
        self.parts = [nn.Linear(1, 1)]

    def __call__(self, x: mx.array, factor: float = 1.0) -> mx.array:
        """Scale."""
        self.calls = self.get("calls", mx.zeros(1)) + 1
        return self.parts[0](x) * self.weight * factor


def seen_in_capture(look: Callable[[nn.Module], Any]) -> tuple[Any, Any]:
    """What `look` sees of a model before and while it is captured."""
    model = Heir()
    before = look(model)
    with capture_mlx(model, lambda call: None):
        during = look(model)
        model(mx.ones(1))
    return before, during


LOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "isinstance": lambda model: isinstance(model, Heir),
    "name": lambda model: (type(model).__name__, type(model).__qualname__, type(model).__module__, type(model).__doc__),
    "repr": repr,
    "signature": lambda model: str(inspect.signature(model)),
    "docstring": lambda model: model.__call__.__doc__,
    "items": list,
    "attributes": lambda model: (model.label, model.weight.item(), hasattr(model, "absent"), "weight" in model),
    "parameters": lambda model: [name for name, _ in tree_flatten(model.parameters())],
    "names": lambda model: [name for name, _ in model.named_modules()],
    "subclasses heard of": lambda model: list(Registered.heirs),
    "type of a copy": lambda model: type(copy.deepcopy(model)),
    "type of a part's copy": lambda model: type(copy.deepcopy(model).parts[0]),
    "type of a shallow copy": lambda model: type(copy.copy(model)),
    "type of a pickle": lambda model: type(pickle.loads(pickle.dumps(model))),
    "state of a pickle": lambda model: list(pickle.loads(pickle.dumps(model))),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_captured_module_looks_as_before(look: Callable[[nn.Module], Any]) -> None:
    before, during = seen_in_capture(look)
    assert during == before


def test_a_captured_module_can_be_changed() -> None:
    model = Heir()
    with capture_mlx(model, lambda call: None):
        model.label = "other"
        model.weight = mx.array([3.0])
        model.update({"parts": [{"bias": mx.array([5.0])}]})
        model(mx.ones(1))
        model.freeze()
    assert (model.label, model.weight.item(), model.parts[0].bias.item(), model.calls.item()) == ("other", 3, 5, 1)
    assert model.trainable_parameters()["parts"] == [{}]


def test_weights_saved_meanwhile_are_the_models(tmp_path: Any) -> None:
    model = Heir()
    with capture_mlx(model, lambda call: None):
        model(mx.ones(1))
        model.save_weights(str(tmp_path / "w.safetensors"))
    assert sorted(mx.load(str(tmp_path / "w.safetensors"))) == ["calls", "parts.0.bias", "parts.0.weight", "weight"]


def test_a_module_that_cannot_be_called_is_no_obstacle() -> None:
    model = nn.Sequential(MlxScale(2))
    model.holder = nn.Module()
    assert [call.name for call in captured(model)] == ["layers.0", ""]


def test_a_module_within_itself_is_refused() -> None:
    model = nn.Sequential(MlxScale(2))
    model.layers.append(model)
    with pytest.raises(CaptureError, match=r"the module 'layers\.1' is its own descendant"), capture_mlx(model, print):
        pass


# --- what is left behind ----------------------------------------------------------------------------------


class Failing(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        raise PlantedError(x)


class Catching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.failing, self.scale = nn.Sequential(Failing()), MlxScale(2)

    def __call__(self, x: mx.array) -> mx.array:
        try:
            return self.failing(x)
        except PlantedError:
            return self.scale(x)


def test_classes_are_as_they_were_afterwards_and_after_an_exception() -> None:
    tree = MlxTree()
    before = classes(tree)
    captured(tree)
    assert classes(tree) == before

    def fail() -> None:
        with capture_mlx(tree, print):
            assert all(issubclass(cls, Captured) for cls in classes(tree))
            raise PlantedError

    with pytest.raises(PlantedError):
        fail()
    assert classes(tree) == before
    assert described(captured(tree)) == EXPECTED


def test_what_the_receiver_raises_reaches_the_caller() -> None:
    tree = MlxTree()

    def refuse(call: Call) -> None:
        raise PlantedError(call.name)

    with pytest.raises(PlantedError, match="first"), capture_mlx(tree, refuse):
        tree(mx.ones(1))
    assert Captured not in type(tree).__mro__


def test_a_call_that_raises_does_not_end_and_leaves_the_depth_right() -> None:
    calls = captured(nn.Sequential(Catching(), MlxScale(3)))
    assert [(call.name, call.depth, call.outputs[""].item()) for call in calls] == [
        ("layers.0.scale", 2, 2),
        ("layers.0", 1, 2),
        ("layers.1", 1, 6),
        ("", 0, 6),
    ]


# --- several captures -------------------------------------------------------------------------------------


def test_a_tree_is_captured_once_at_a_time() -> None:
    tree = MlxTree()
    calls, listen = listener()
    with capture_mlx(tree, listen):
        with pytest.raises(CaptureError, match="module '' is captured already"), capture_mlx(tree, print):
            pass
        with pytest.raises(CaptureError, match="module '' is captured already"), capture_mlx(tree.block, print):
            pass
        tree(mx.ones(1))
    assert described(calls) == EXPECTED


def test_trees_that_share_classes_are_captured_at_once_and_end_in_any_order() -> None:
    left, right, stranger = MlxTree(), MlxTree(), MlxTree()
    (first, hear_first), (second, hear_second) = listener(), listener()
    opened, other = capture_mlx(left, hear_first), capture_mlx(right, hear_second)
    opened.__enter__()
    other.__enter__()
    for tree in (left, right, stranger):
        tree(mx.ones(1))
    opened.__exit__(None, None, None)  # the first to begin is the first to end
    right(mx.ones(1))
    left(mx.ones(1))
    other.__exit__(None, None, None)
    assert described(first) == EXPECTED
    assert len(second) == 2 * len(EXPECTED)
    assert classes(left) == classes(right) == classes(stranger)


def test_another_thread_may_use_the_same_classes() -> None:
    tree, stranger = MlxTree(), MlxTree()
    seen: list[float] = []
    thread = threading.Thread(target=lambda: seen.append(stranger(mx.ones(1)).item()))
    calls, listen = listener()
    with capture_mlx(tree, listen):
        thread.start()
        thread.join()
        tree(mx.ones(1))
    assert (seen, described(calls)) == ([3300], EXPECTED)


# --- transformations --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _compile_stays_on() -> Iterator[None]:
    yield
    mx.enable_compile()


def by_grad(model: nn.Module) -> object:
    return mx.grad(lambda x: model(x).sum())(mx.ones(1))


def by_nn_grad(model: nn.Module) -> object:
    model.weight = mx.ones(1)
    return nn.value_and_grad(model, lambda x: model(x).sum())(mx.ones(1))


TRANSFORMS: dict[str, Callable[[nn.Module], object]] = {
    "compile of the model": lambda model: mx.compile(model)(mx.ones(1)),
    "compile of a function around it": lambda model: mx.compile(lambda x: model(x) + 1)(mx.ones(1)),
    "grad": by_grad,
    "nn.value_and_grad": by_nn_grad,
    "vjp": lambda model: mx.vjp(model, [mx.ones(1)], [mx.ones(1)]),
    "jvp": lambda model: mx.jvp(model, [mx.ones(1)], [mx.ones(1)]),
    "vmap": lambda model: mx.vmap(model)(mx.ones((2, 1))),
    "checkpoint within grad": lambda model: mx.grad(lambda x: mx.checkpoint(model)(x).sum())(mx.ones(1)),
}


@pytest.mark.parametrize("run", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_call_that_mlx_traces_is_refused_by_name(run: Callable[[nn.Module], object]) -> None:
    tree = MlxTree()
    calls, listen = listener()
    with (
        pytest.raises(CaptureError, match=r"module '' is called while mx\.compile") as refusal,
        capture_mlx(tree, listen),
    ):
        run(tree)
    assert "\n" not in str(refusal.value)
    assert calls == []
    assert Captured not in type(tree).__mro__
    assert described(captured(tree)) == EXPECTED


def test_a_function_that_is_compiled_within_the_tree_is_refused_with_the_module_it_calls() -> None:
    class Hiding(nn.Module):
        """Keeps its compiled function where no attribute shows it."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = scale = MlxScale(2)
            step = mx.compile(scale)

            def run(x: mx.array) -> mx.array:
                return step(x)

            self.step = run

        def __call__(self, x: mx.array) -> mx.array:
            return self.step(x)

    with pytest.raises(CaptureError, match=r"module 'scale' is called while mx\.compile"):
        captured(Hiding())


class CompiledPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = MlxScale(2)
        self.step = mx.compile(self.inner)

    def inner(self, x: mx.array) -> mx.array:
        return self.scale(x)

    def __call__(self, x: mx.array) -> mx.array:
        return self.step(x)


class CompiledModule(nn.Module):
    """Its part poses as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = mx.compile(MlxScale(2))

    def __call__(self, x: mx.array) -> mx.array:
        return self.scale(x)


class CompiledCall(nn.Module):
    """MLX compiles functions alone, so a compiled `__call__` goes through one that is."""

    __call__ = mx.compile(lambda x: x + 1)


def test_a_module_that_holds_a_compiled_function_is_refused_even_where_it_was_traced_before() -> None:
    part = CompiledPart()
    part(mx.ones(1))
    with pytest.raises(CaptureError, match=r"module 'layers\.1' \(CompiledPart\) holds the compiled function 'step'"):
        captured(nn.Sequential(MlxScale(1), part))
    with pytest.raises(CaptureError, match=r"module '' \(CompiledModule\) holds the compiled function 'scale'"):
        captured(CompiledModule())
    with pytest.raises(CaptureError, match=r"module '' \(CompiledCall\) holds the compiled function '__call__'"):
        captured(CompiledCall())


def test_without_compilation_the_same_modules_are_captured() -> None:
    part = CompiledPart()
    part(mx.ones(1))
    mx.disable_compile()
    assert [(call.name, call.outputs[""].item()) for call in captured(part)] == [("scale", 2), ("", 2)]


def test_modules_are_captured_and_transformations_refused_inside_the_float64_context() -> None:
    tree = MlxTree()
    with float64_forms():
        assert described(captured(tree)) == EXPECTED
        with pytest.raises(CaptureError, match="traces it"), capture_mlx(tree, print):
            TRANSFORMS["grad"](tree)


@pytest.mark.parametrize("run", [TRANSFORMS["grad"], TRANSFORMS["vmap"]], ids=["grad", "vmap"])
def test_without_compilation_other_transformations_are_refused(run: Callable[[nn.Module], object]) -> None:
    mx.disable_compile()
    tree = MlxTree()
    with pytest.raises(CaptureError, match="traces it"), capture_mlx(tree, print):
        run(tree)


def test_a_function_compiled_before_the_capture_is_refused() -> None:
    tree = MlxTree()
    compiled = mx.compile(tree)
    compiled(mx.ones(1))
    with pytest.raises(CaptureError, match="compiled before it runs without them"), capture_mlx(tree, print):
        compiled(mx.ones(1))


@partial(mx.compile, shapeless=True)
def compiled_helper(x: mx.array) -> mx.array:
    return x * 2


class Activations(nn.Module):
    """Calls compiled functions that call no module, as `nn.gelu` and `nn.silu` are."""

    def __init__(self) -> None:
        super().__init__()
        self.gelu, self.silu, self.glu = nn.GELU(), nn.SiLU(), nn.GLU()

    def __call__(self, x: mx.array) -> mx.array:
        return self.silu(self.gelu(x)) + nn.gelu(x) + compiled_helper(x)


def test_compiled_functions_that_call_no_module_are_fine() -> None:
    model = Activations()
    model(mx.ones(1))
    assert [call.name for call in captured(model)] == ["gelu", "silu", ""]
    assert captured(model)[-1].outputs[""].item() == model(mx.ones(1)).item()


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = MlxScale(2)
        self.step = checkpoint(self.scale)
        self.again = mx.checkpoint(self.scale)
        self.only = mx.checkpoint(MlxScale(3))

    def __call__(self, x: mx.array) -> mx.array:
        return self.only(self.again(self.step(x)))


def test_a_checkpointed_module_is_captured_with_its_values() -> None:
    calls = captured(Checkpointed())
    assert [(call.name, call.aliases, call.outputs[""].item()) for call in calls] == [
        ("scale", ("again",), 2),
        ("scale#2", ("again",), 4),
        ("only", (), 12),
        ("", (), 12),
    ]


def test_a_capture_that_has_seen_nothing_is_refused() -> None:
    with (
        pytest.raises(CaptureError, match="no module of MlxTree was called during the capture"),
        capture_mlx(MlxTree(), print),
    ):
        MlxTree()(mx.ones(1))
