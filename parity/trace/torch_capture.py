"""Capture of every call in a tree of torch modules, by forward hooks.

A call of `module.forward(...)` that bypasses `module(...)` passes the hooks by, as does a function of torch that reads
a submodule's weights (`nn.MultiheadAttention` does so with its `out_proj`): such calls are not seen.

Source: PyTorch 2.13, `torch/nn/modules/module.py`, `_call_impl`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import torch
from torch import fx, nn

from parity.errors import CaptureError
from parity.trace.calls import OnCall, Recorder, places, unpack

_DYNAMO: Final = "torch._dynamo.eval_frame"
"""Module of torch.compile's own classes and functions, imported with its first use."""

_WRAPPER: Final = "compile_wrapper"
"""Name of the function there that every compiled function runs in."""

_DYNAMO_MARK: Final = "_torchdynamo_orig_callable"
"""Attribute by which torch.compile marks a function that it returns."""


@contextmanager
def capture_torch(
    model: nn.Module,
    on_call: OnCall,
    select: Sequence[str] = (),
    on_enter: OnCall | None = None,
    copies: bool = True,
) -> Iterator[None]:
    """Hand on every call of a module of `model`, the root included, while the context lasts.

    A module under several names has its first one, the others are its `aliases`. Two captures of one tree at once both
    hear everything. The hooks are gone afterwards, also after an exception. One thread at a time.

    Args:
        model: The root of the tree.
        on_call: Gets every selected call as it ends; what it calls itself is not captured.
        select: Globs over dotted names (`parity.trace.calls.selected`); all modules by default.
        on_enter: Gets every selected call as it begins, without outputs.
        copies: Copy tensors as they pass, so that an operation in place (`x += ...`) does not change them afterwards.
            Without, inputs and outputs are the tensors themselves, gradients and all, and an input that was
            overwritten during its call is refused.

    Raises:
        SelectionError: A glob matches nothing.
        CaptureError: The model is compiled, scripted, traced or replicated, is called while something traces it, or
            was not called at all; or an input was overwritten.
    """
    _refuse_what_hooks_do_not_see(model)
    at = places(model.named_modules(remove_duplicate=False), select, "forward")
    keep: Callable[[Any], Any] = torch.clone if copies else _itself
    recorder = Recorder(at, on_call, on_enter, keep)
    handles = [
        handle for module in model.modules() for handle in _hooks(module, at[id(module)].module, recorder, copies)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    recorder.require_calls(type(model).__name__)


def torch_side(model: nn.Module, run: Callable[[], object], select: Sequence[str] = ()) -> Callable[[OnCall], object]:
    """Return one side of `parity.trace.together.advance_together`: `run` under capture, without gradients.

    Args:
        model: The tree to capture.
        run: Runs it forward once.
        select: See `capture_torch`.
    """

    def forward(on_call: OnCall) -> object:
        # Gradient mode belongs to the thread, so it is set in the one that runs the pass.
        with torch.no_grad(), capture_torch(model, on_call, select):
            return run()

    return forward


def _itself(tensor: Any) -> Any:
    return tensor


def _hooks(module: nn.Module, name: str, recorder: Recorder, copies: bool) -> Iterator[Any]:
    """Register the two hooks of one module.

    The second is called when `forward` raises, too, so that the depth stays right when a caller catches that: only
    then is the exception being handled not the one that was being handled, if any, as the call began.
    """

    def before(called: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not recorder.idle:
            _refuse_tracing(name, args, kwargs)
            versions = None if copies else _versions((args, kwargs))
            recorder.enter(id(called), args, kwargs, (sys.exception(), versions))

    def after(called: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object) -> None:
        entered = recorder.innermost
        if recorder.idle or entered is None:
            return
        while entered is not None and entered.key != id(called):
            recorder.abandon(entered)
            entered = recorder.innermost
        if entered is None:
            return
        handled, versions = entered.mark
        if sys.exception() is not handled:
            recorder.abandon(entered)
            return
        if versions is not None:
            _refuse_overwritten(name, versions, _versions((args, kwargs)))
        recorder.complete(entered, output)

    yield module.register_forward_pre_hook(before, with_kwargs=True)
    yield module.register_forward_hook(after, with_kwargs=True, always_call=True)


def _versions(tree: object) -> dict[str, int]:
    """Count the changes in place of every tensor so far; inference tensors do not count theirs."""
    return {path: tensor._version for path, tensor in unpack(tree)[0].items() if not tensor.is_inference()}


def _refuse_overwritten(name: str, before: Mapping[str, int], now: Mapping[str, int]) -> None:
    changed = [path for path, version in before.items() if now[path] != version]
    if changed:
        raise CaptureError(
            f"module {name!r} overwrote its own input(s) {', '.join(changed)} in place; capture with copies=True"
        )


def _refuse_what_hooks_do_not_see(model: nn.Module) -> None:
    for name, module in model.named_modules():
        reason = _unseen(module)
        if reason is not None:
            raise CaptureError(
                f"module {name!r} ({type(module).__name__}) {reason}, and calls within it run past the hooks: "
                "capture the module that it was made from"
            )


def _unseen(module: nn.Module) -> str | None:
    # Importing torch._dynamo takes seconds; a module of its class cannot be there unless it is imported already.
    dynamo = sys.modules.get(_DYNAMO)
    if module._compiled_call_impl is not None or (dynamo is not None and isinstance(module, dynamo.OptimizedModule)):
        return "is compiled by torch.compile"
    for owner in (vars(module), *map(vars, type(module).__mro__)):
        compiled = [name for name, value in owner.items() if hasattr(value, _DYNAMO_MARK)]
        if compiled:
            return f"holds {compiled[0]!r}, compiled by torch.compile"
    if isinstance(module, torch.jit.ScriptModule):
        return "is a ScriptModule"
    if isinstance(module, fx.GraphModule):
        return "is a graph traced by torch.fx"
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "runs replicas of its module"
    return None


def _refuse_tracing(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if torch.compiler.is_compiling() or _within_compiled():
        by = "torch.compile or torch.export"
    elif torch.jit._trace.is_tracing():
        by = "torch.jit.trace"
    elif any(isinstance(value, fx.Proxy) for value in (*args, *kwargs.values())):
        by = "torch.fx"
    elif torch._C._functorch.peek_interpreter_stack() is not None:
        by = "a transform of torch.func"
    else:
        return
    raise CaptureError(f"module {name!r} is called while {by} traces it: no values to capture; call it untraced")


def _within_compiled() -> bool:
    """Return whether this call came through a function that torch.compile returned.

    While it traces, what a hook raises only makes it run the model as written, hooks included: that run is refused.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == _WRAPPER and frame.f_globals.get("__name__") == _DYNAMO:
            return True
        frame = frame.f_back
    return False
