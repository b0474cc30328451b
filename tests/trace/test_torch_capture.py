"""Torch's calls come complete, in order and under their names; hooks go; what hooks do not see is refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captured_trees import EXPECTED, PlantedError, TorchScale, TorchTree, described, listener
from torch import fx, nn

from parity.errors import CaptureError, SelectionError
from parity.trace.calls import Call
from parity.trace.torch_capture import capture_torch


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def captured(model: nn.Module, **options: Any) -> list[Call]:
    calls, listen = listener()
    with capture_torch(model, listen, **options):
        model(torch.ones(1))
    return calls


def test_every_call_comes_in_the_order_in_which_it_ended() -> None:
    calls = captured(TorchTree())
    assert described(calls) == EXPECTED
    assert [call.order for call in calls] == list(range(len(EXPECTED)))
    assert [call.kind for call in calls[-3:]] == ["TorchBlock", "TorchScale", "TorchTree"]


def test_a_shared_module_has_its_first_name_and_lists_the_others() -> None:
    calls = captured(TorchTree(), select=["again"])
    assert [call.name for call in calls] == ["first", "first#2", "first#3"]
    assert calls[0].aliases == ("again",)


def test_a_cache_is_reported() -> None:
    (block,) = captured(TorchTree(), select=["block"])
    assert block.opaque == (("inputs.cache", "KVCache"), ("outputs.1.cache", "KVCache"))


def test_arguments_come_as_they_were_passed() -> None:
    (call,) = captured(TorchTree(), select=["block.inner"])
    assert (len(call.args), list(call.kwargs)) == (1, ["bias"])


def test_beginnings_come_before_ends_and_without_outputs() -> None:
    events: list[Any] = []
    tree = TorchTree()
    with capture_torch(
        tree,
        lambda call: events.append(("ends", call.name)),
        ["block*"],
        lambda call: events.append(("begins", call.name, call.order, dict(call.outputs))),
    ):
        tree(torch.ones(1))
    assert events == [
        ("begins", "block", -1, {}),
        ("begins", "block.inner", -1, {}),
        ("ends", "block.inner"),
        ("ends", "block"),
    ]


def test_a_glob_that_matches_nothing_is_refused_and_leaves_no_hook() -> None:
    tree = TorchTree()
    with (
        pytest.raises(SelectionError, match="'blocks' matches none of 4 modules"),
        capture_torch(tree, print, ["blocks"]),
    ):
        pass
    assert hooks(tree) == 0


def test_what_the_receiver_calls_itself_is_not_captured() -> None:
    tree = TorchTree()
    names: list[str] = []

    def again(call: Call) -> None:
        names.append(call.name)
        tree.block(torch.ones(1))

    with capture_torch(tree, again):
        tree(torch.ones(1))
    assert names == [name for name, *_ in EXPECTED]


def test_two_captures_of_one_tree_both_hear_everything() -> None:
    tree = TorchTree()
    (outer, heard), (inner, heard_too) = listener(), listener()
    with capture_torch(tree, heard), capture_torch(tree, heard_too):
        tree(torch.ones(1))
    assert described(outer) == described(inner) == EXPECTED


# --- operations in place ----------------------------------------------------------------------------------


class Overwriting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


def test_operations_in_place_do_not_reach_what_was_captured() -> None:
    calls = captured(nn.Sequential(TorchScale(5), Overwriting(), Overwriting()))
    assert described(calls)[:3] == [
        ("0", 1, {"x": 1}, {"": 5}),
        ("1", 1, {"x": 5}, {"": 6}),
        ("2", 1, {"x": 6}, {"": 7}),
    ]


def test_without_copies_an_overwritten_input_is_refused() -> None:
    model = nn.Sequential(TorchScale(5), Overwriting())
    with pytest.raises(CaptureError, match=r"module '1' overwrote its own input\(s\) 0\.0 in place"):
        captured(model, copies=False)
    assert hooks(model) == 0


def test_without_copies_gradients_go_through_the_captured_tensors() -> None:
    tree, x = TorchTree(), torch.ones(1, requires_grad=True)
    calls, listen = listener()
    with capture_torch(tree, listen, ["block"], copies=False):
        y = tree(x)
    (gradient,) = torch.autograd.grad(y, calls[0].outputs["0"])
    assert gradient.item() == 11


# --- what is left behind ----------------------------------------------------------------------------------


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise PlantedError(x)


class Catching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.failing, self.scale = nn.Sequential(Failing()), TorchScale(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            return self.failing(x)
        except PlantedError:
            return self.scale(x)


def test_hooks_are_gone_afterwards_and_after_an_exception() -> None:
    tree = TorchTree()
    captured(tree)
    assert hooks(tree) == 0

    def fail() -> None:
        with capture_torch(tree, print):
            assert hooks(tree) == 8
            raise PlantedError

    with pytest.raises(PlantedError):
        fail()
    assert hooks(tree) == 0


def test_what_the_receiver_raises_reaches_the_caller() -> None:
    tree = TorchTree()

    def refuse(call: Call) -> None:
        raise PlantedError(call.name)

    with pytest.raises(PlantedError, match="first"), capture_torch(tree, refuse):
        tree(torch.ones(1))
    assert hooks(tree) == 0


def test_a_call_that_raises_does_not_end_and_leaves_the_depth_right() -> None:
    model = nn.Sequential(Catching(), TorchScale(3))
    expected = [("0.scale", 2, 2), ("0", 1, 2), ("1", 1, 6), ("", 0, 6)]
    assert [(call.name, call.depth, call.outputs[""].item()) for call in captured(model)] == expected
    try:
        raise PlantedError
    except PlantedError:  # while another exception is being handled
        assert [(call.name, call.depth, call.outputs[""].item()) for call in captured(model)] == expected


# --- what is refused --------------------------------------------------------------------------------------


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Sequential(nn.ReLU()))


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(TorchScale(2), torch.ones(1))


def compiled_in_place() -> nn.Module:
    model = nn.ReLU()
    model.compile(backend="eager")
    return model


class CompiledForward(nn.Module):
    @torch.compile(backend="eager")
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class CompiledPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = TorchScale(2)
        self.step = torch.compile(self.inner, backend="eager")

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale(x)


UNSEEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "torch.compile": (lambda: torch.compile(nn.ReLU(), backend="eager"), "is compiled by torch.compile"),
    "Module.compile": (compiled_in_place, "is compiled by torch.compile"),
    "a compiled method": (CompiledForward, "holds 'forward', compiled by torch.compile"),
    "a compiled part": (CompiledPart, "holds 'step', compiled by torch.compile"),
    "torch.jit.script": (scripted, "is a ScriptModule"),
    "torch.jit.trace": (traced, "is a ScriptModule"),
    "torch.fx": (lambda: fx.symbolic_trace(TorchScale(2)), "is a graph traced by torch.fx"),
    "DataParallel": (lambda: nn.DataParallel(nn.ReLU()), "runs replicas of its module"),
}


@pytest.mark.parametrize(("build", "reason"), UNSEEN.values(), ids=UNSEEN)
def test_modules_whose_calls_hooks_do_not_see_are_refused(build: Callable[[], nn.Module], reason: str) -> None:
    model = nn.Sequential(nn.ReLU(), build())
    with pytest.raises(CaptureError, match=f"module '1' .*{reason}") as refusal, capture_torch(model, print):
        pass
    assert "\n" not in str(refusal.value)
    assert hooks(model) == 0


def by_vmap(model: nn.Module) -> object:
    return torch.func.vmap(model)(torch.ones(2, 1))


def by_func_grad(model: nn.Module) -> object:
    return torch.func.grad(lambda x: model(x).sum())(torch.ones(1))


def by_jit(model: nn.Module) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(model, torch.ones(1))


@pytest.mark.parametrize(
    ("run", "by"),
    [
        (fx.symbolic_trace, "torch.fx"),
        (by_vmap, "a transform of torch.func"),
        (by_func_grad, "a transform of torch.func"),
        (by_jit, "torch.jit.trace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_call_that_something_traces_is_refused(run: Callable[[nn.Module], object], by: str) -> None:
    model = nn.Sequential(TorchScale(2))
    calls, listen = listener()
    with pytest.raises(CaptureError, match=f"module '0?' is called while {by} traces it"), capture_torch(model, listen):
        run(model)
    assert calls == []
    assert hooks(model) == 0


def test_a_capture_that_has_seen_nothing_is_refused() -> None:
    with (
        pytest.raises(CaptureError, match="no module of TorchTree was called during the capture"),
        capture_torch(TorchTree(), print),
    ):
        TorchTree()(torch.ones(1))


def test_a_function_compiled_before_the_capture_is_refused() -> None:
    tree = nn.Sequential(TorchScale(2))
    compiled = torch.compile(tree, backend="eager")
    compiled(torch.ones(1))
    with pytest.raises(CaptureError, match="compiled before it runs without them"), capture_torch(tree, print):
        compiled(torch.ones(1))


@pytest.mark.parametrize("part", ["", "0"])
def test_a_function_compiled_under_the_capture_is_refused(part: str) -> None:
    tree = nn.Sequential(TorchScale(2))
    compiled = torch.compile(tree.get_submodule(part), backend="eager")
    calls, listen = listener()
    with pytest.raises(CaptureError), capture_torch(tree, listen):
        compiled(torch.ones(1))
    assert calls == []


def test_a_copy_of_the_model_is_not_captured() -> None:
    tree = TorchTree()
    calls, listen = listener()
    with capture_torch(tree, listen):
        tree(torch.ones(1))
        copied = copy.deepcopy(tree)
    assert len(calls) == len(EXPECTED)
    assert copied is not tree
