"""Capture of every call in a tree of MLX modules, instance by instance.

MLX has no hooks, and Python looks `__call__` up on the class. There are two ways: to replace `__call__` in the classes
and tell instances apart by identity, or to give every instance of the tree a class of its own, a subclass that differs
in `__call__` alone. This is the second:

* no class that others share is touched, so trees that share classes, strangers in other threads, and captures that do
  not end in the order in which they began cannot disturb each other: replacing in classes is undone rightly only from
  the last to the first;
* `super().__call__` reaches the original, unrecorded, since `super()` begins after the class in which it is written;
* `isinstance`, `type(m).__name__`, `repr`, attributes, parameters and `inspect.signature` are as they were; a copy or
  a pickle made meanwhile is of the original class, and no `__init_subclass__` of the model hears of the subclass.

What changes while the capture lasts: `type(m) is SomeClass` is false.

Methods other than `__call__` are not captured, as hooks of torch do not capture them either.
"""

from __future__ import annotations

import copyreg
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from parity.errors import CaptureError
from parity.trace.calls import OnCall, Recorder, places

_TRANSFORMED: Final = type(mx.compile(abs))
"""What mx.compile, mx.checkpoint, mx.vmap and mx.grad return."""

_REFERENTS_UNCOMPILED: Final = 2
"""mx.checkpoint and mx.grad keep their type and their function; mx.compile its inputs and outputs as well."""


class Captured:
    """Base of the classes that instances have while they are captured."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Keep the model's classes, which may list their subclasses, from hearing of this one."""


@contextmanager
def capture_mlx(
    model: nn.Module,
    on_call: OnCall,
    select: Sequence[str] = (),
    on_enter: OnCall | None = None,
    evaluate: bool = False,
) -> Iterator[None]:
    """Hand on every call of a module of `model`, the root included, while the context lasts.

    A module under several names has its first one, the others are its `aliases`. Every instance has its own class
    again afterwards, also after an exception. One thread at a time.

    Args:
        model: The root of the tree.
        on_call: Gets every selected call as it ends; what it calls itself is not captured.
        select: Globs over dotted names (`parity.trace.calls.selected`); all modules by default.
        on_enter: Gets every selected call as it begins, without outputs.
        evaluate: Evaluate inputs and outputs before they are handed on, so that memory follows the module. Otherwise
            they come as MLX has them, mostly unevaluated, and whoever gets them evaluates them.

    Raises:
        SelectionError: A glob matches nothing.
        CaptureError: A module holds a compiled function or is captured already, is called while mx.compile, mx.vmap,
            mx.grad or the like traces it, or none was called at all.
    """
    tree = list(names_of_mlx(model))
    _refuse_captured(tree)
    _refuse_compiled(tree)
    at = places(tree, select, "__call__")
    recorder = Recorder(at, on_call, on_enter, _own_object)

    def record(module: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if recorder.idle:
            return original(module, *args, **kwargs)
        _PROBE.refuse_tracing(at[id(module)].module)
        entered = recorder.enter(id(module), args, kwargs)
        try:
            output = original(module, *args, **kwargs)
        except BaseException:
            recorder.abandon(entered)
            raise
        recorder.complete(entered, output, mx.eval if evaluate else None)
        return output

    wrap = functools.cache(functools.partial(_subclass, record))
    originals: dict[int, tuple[nn.Module, type]] = {
        id(module): (module, type(module)) for _, module in tree if callable(module)
    }
    try:
        for module, cls in originals.values():
            _set_class(module, wrap(cls))
        yield
    finally:
        for module, cls in originals.values():
            _set_class(module, cls)
    recorder.require_calls(type(model).__name__)


def mlx_side(
    model: nn.Module, run: Callable[[], object], select: Sequence[str] = (), device: mx.Device | mx.DeviceType = mx.cpu
) -> Callable[[OnCall], object]:
    """Return one side of `parity.trace.together.advance_together`: `run` under capture, evaluated call by call.

    Args:
        model: The tree to capture.
        run: Runs it forward once.
        select: See `capture_mlx`.
        device: Where it runs.
    """

    def forward(on_call: OnCall) -> object:
        with mx.stream(device), capture_mlx(model, on_call, select, evaluate=True):
            return run()

    return forward


def names_of_mlx(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all names of all modules of a tree, "" for the root, parents first, in the order in which they were set.

    Raises:
        CaptureError: A module is its own descendant.
    """
    yield from _names(model, "", ())


def _names(module: nn.Module, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Yield all names of all modules, parents first, in the order in which they were set; `above` are the parents."""
    yield name, module
    if id(module) in above:
        raise CaptureError(f"the module {name!r} is its own descendant; only trees can be captured")
    children: Any = tree_flatten(module.children(), is_leaf=nn.Module.is_module)
    for key, child in children:
        if isinstance(child, nn.Module):
            yield from _names(_untransformed(child), f"{name}.{key}" if name else key, (*above, id(module)))


def _untransformed(module: nn.Module) -> nn.Module:
    """Return the module that `mx.checkpoint(module)`, which poses as it by its `__class__`, was made from."""
    return gc.get_referents(module)[-1] if type(module) is _TRANSFORMED else module


def _own_object(array: mx.array) -> mx.array:
    """Return another object for the same array, at no cost: `x[...] = y` changes the object, not the array."""
    return array.__copy__()


def _set_class(module: nn.Module, cls: type) -> None:
    object.__setattr__(module, "__class__", cls)


def _subclass(record: Callable[..., Any], cls: Any) -> type:
    """Return a class that is `cls` but for a `__call__` that goes through `record`."""
    original: Any = cls.__call__

    @functools.wraps(original)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return record(self, original, args, kwargs)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        function, arguments, *rest = cls.__reduce_ex__(self, protocol)
        # `pickle` insists on the object's own class where the function is `copyreg.__newobj__`, which means this one.
        function = cls.__new__ if function is copyreg.__newobj__ else function  # type: ignore[attr-defined]
        return (function, tuple(cls if part is own else part for part in arguments), *rest)

    members = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__call__": call,
        "__reduce_ex__": reduce,
    }
    own = type(cls)(cls.__name__, (Captured, cls), members)
    return own


# --- what cannot be captured ------------------------------------------------------------------------------


class _Probe:
    """Tells whether MLX traces this thread's operations, by a placeholder that belonged to a compiled function.

    MLX refuses to evaluate it in either case, without looking at anything else, and says something else where a
    transformation is under way. Any word but the one said outside counts as tracing.

    Source: MLX 0.32.4, `mlx/transforms.cpp`, `eval_impl`, and `array::is_tracer`.
    """

    def __init__(self) -> None:
        left: list[mx.array] = []

        def leave(x: mx.array) -> mx.array:
            left.append(x)
            return x + x

        with _compilation():
            mx.eval(mx.compile(leave)(mx.zeros(1)))
        self._placeholder = left[0]
        self._outside = "without a primitive"

    def refuse_tracing(self, name: str) -> None:
        try:
            mx.async_eval(self._placeholder)
        except RuntimeError as refusal:
            if self._outside in str(refusal):
                return
        except ValueError:  # what MLX raises inside a transformation
            pass
        raise CaptureError(
            f"module {name!r} is called while mx.compile, mx.vmap, mx.grad or the like traces it: there are no values "
            "to capture; call it untransformed, after mx.disable_compile() where it is compiled"
        )


def _compiling() -> bool:
    """Return whether MLX compiles at all: mx.disable_compile() and MLX_DISABLE_COMPILE prevent it."""
    calls: list[None] = []

    def count(x: mx.array) -> mx.array:
        calls.append(None)
        return x + x

    counted = mx.compile(count)
    for _ in range(2):
        mx.eval(counted(mx.zeros(1)))
    return len(calls) == 1


@contextmanager
def _compilation() -> Iterator[None]:
    """Let MLX compile, also where that is disabled."""
    if _compiling():
        yield
        return
    mx.enable_compile()
    try:
        yield
    finally:
        mx.disable_compile()


_PROBE: Final = _Probe()
"""Made on import, since the float64 context, within which modules are captured too, lets nothing be compiled."""


def _refuse_captured(tree: Sequence[tuple[str, nn.Module]]) -> None:
    for name, module in tree:
        if isinstance(module, Captured):
            raise CaptureError(f"module {name!r} is captured already; end that capture first, or let one serve both")


def _refuse_compiled(tree: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse functions that, once compiled, run without calling a module, so that calls would be missed unseen."""
    for name, module in tree:
        for owner in (module, vars(module), *map(vars, type(module).__mro__)):
            for attribute, value in owner.items():
                if _is_compiled(value) and _compiling():
                    raise CaptureError(
                        f"module {name!r} ({type(module).__name__}) holds the compiled function {attribute!r}, within "
                        "which no call can be seen; call mx.disable_compile() first"
                    )


def _is_compiled(value: object) -> bool:
    return type(value) is _TRANSFORMED and len(gc.get_referents(value)) != _REFERENTS_UNCOMPILED
