"""`float64_forms()`: while it is open, MLX computes in float64 what it is given in float64.

The forms are put under the very names of `mlx.core`, `mlx.core.fast`, `mlx.core.fft` and `mlx.core.linalg`, and under
every other name by which a module, a class, an object, a list or a closure holds the same function: the source of the
module under test stays as it is. `mlx.nn` needs no forms of its own: its layers call these functions, and its
activations, which MLX compiles at import, run as plain Python since compilation is off inside.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CellType, FrameType, ModuleType
from typing import Any, Final

import mlx.core as mx

from parity.errors import Float64ContextError
from parity.float64 import elementwise
from parity.float64.compiled import compiling, tracing
from parity.float64.forms import FORMLESS, FORMS, METHOD_FORMS
from parity.float64.leaks import Leaks
from parity.float64.lifted import Assignment, Lifted, LiftedMethod, Operator, Refused, Session

NAMESPACES: Final[Mapping[str, ModuleType]] = {
    "": mx,
    "fast.": mx.fast,
    "fft.": mx.fft,
    "linalg.": mx.linalg,
}

REFUSED: Final[Mapping[str, str]] = {
    "enable_compile": "compiled functions would compute with MLX's own functions, in float32",
    "import_function": "an imported function is a graph of MLX's own functions, which nothing can exchange",
}
"""Functions that may not be called inside, and why."""

UNWATCHED: Final = frozenset((
    "array_equal", "async_eval", "can_cast", "checkpoint", "clear_cache", "clear_streams", "compile",
    "custom_function", "default_device", "default_stream", "depends", "device_count", "device_info",
    "disable_compile", "eval", "export_function", "export_to_dot", "exporter", "get_active_memory",
    "get_array_buffer_size", "get_cache_memory", "get_memory_limit", "get_peak_memory", "get_printoptions", "grad",
    "is_available", "issubdtype", "isdtype", "jvp", "load", "new_stream", "new_thread_local_stream",
    "new_thread_unsafe_stream", "printoptions", "reset_peak_memory", "result_type", "save", "save_gguf",
    "save_safetensors", "savez", "savez_compressed", "set_cache_limit", "set_default_device", "set_default_stream",
    "set_memory_limit", "set_printoptions", "set_wired_limit", "stream", "synchronize", "value_and_grad", "view",
    "vjp", "vmap", "fast.cuda_kernel", "fast.metal_kernel", "fast.precompiled_cuda_kernel",
))  # fmt: skip
"""Functions of MLX that compute nothing, or take functions: left alone."""

OPERATORS: Final = tuple(
    f"__{prefix}{name}__"
    for name in ("add", "sub", "mul", "truediv", "div", "floordiv", "mod", "pow", "matmul")
    for prefix in ("", "r", "i")
)
"""Operators of `mx.array` that can answer in another dtype: float64 times 1j is complex64."""

UNWATCHED_METHODS: Final = frozenset(("item", "tolist", "view"))

Holder = tuple[Any, Any, Any, Any]
"""A container, the key under which it holds a function, the function, and its stand-in."""


@contextmanager
def float64_forms() -> Iterator[Leaks]:
    """Compute in float64, on the CPU, whatever MLX is given in float64; any other dtype goes to MLX as it is.

    Inside, `mx.grad`, `mx.value_and_grad`, `nn.value_and_grad`, `mx.vmap`, `mx.checkpoint` and the like go through the
    forms. Compilation is off, so functions compiled before run through them too; `mx.compile` still returns a function
    that is right inside and after. Contexts nest. On exit, an exception or not, every name is what it was.

    The forms are under MLX's names for the whole process: other threads that compute in float64 meanwhile get them too.
    Nothing reaches a function that another compiled extension or an imported graph calls by itself.

    Yields:
        The precision leaks met so far: operations that lose and have no form, answers coarser than the question, and
        functions held where nothing can exchange them.

    Raises:
        Float64ContextError: It is entered inside a function that MLX is compiling, mapping or differentiating; or a
            function that is not allowed inside is called; or compilation was on again when it was left.

    Example:
        >>> import mlx.core as mx
        >>> with float64_forms() as leaks:
        ...     y = mx.exp(mx.array([1.0], dtype=mx.float64)).item()
        >>> y, len(leaks)
        (2.718281828459045, 0)
    """
    session = getattr(mx.sin, "session", None)
    leaks = Leaks()
    with ExitStack() as stack:
        if session is None:
            session = Session()
            stack.enter_context(_opened(session, leaks))
        elif compiling():
            raise Float64ContextError(_COMPILING)
        else:
            session.reports.append(leaks)
            stack.callback(session.reports.remove, leaks)
        yield leaks


_COMPILING: Final = (
    "compilation is on inside float64_forms(), so compiled functions computed with MLX's own functions, in float32; "
    "call mx.enable_compile() after the context"
)


@contextmanager
def _opened(session: Session, leaks: Leaks) -> Iterator[None]:
    if tracing():
        raise Float64ContextError(
            "float64_forms() was entered inside a function that MLX is compiling, mapping or differentiating, whose "
            "graph would outlive it; enter the context first, and transform the function inside"
        )
    compiled = compiling()
    session.reports.append(leaks)
    stand_ins = _stand_ins(session)
    held = _holders(session, stand_ins)
    with ExitStack() as stack, mx.stream(mx.cpu):
        if compiled:
            stack.callback(mx.enable_compile)
        mx.disable_compile()
        for owner, name, original, stand_in in stand_ins:
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, stand_in)
        for holder, key, original, stand_in in held:
            stack.callback(_exchange, holder, key, stand_in, original)
            _exchange(holder, key, original, stand_in)
        session.open = True
        stack.callback(setattr, session, "open", False)
        yield
        if compiling():
            raise Float64ContextError(_COMPILING)


def _stand_ins(session: Session) -> list[Holder]:
    """Every name of MLX that is exchanged: its owner, the name, what it stands for and what stands in."""
    found: list[Holder] = []
    for prefix, module in NAMESPACES.items():
        for name, original in vars(module).items():
            place = prefix + name
            if name.startswith("_") or isinstance(original, type | ModuleType) or not callable(original):
                continue
            if place in REFUSED:
                found.append(
                    (module, name, original, Refused(session, module, name, place, original, None, REFUSED[place]))
                )
            elif place not in UNWATCHED:
                form, formless = FORMS.get(place), FORMLESS.get(place, "")
                found.append((module, name, original, Lifted(session, module, name, place, original, form, formless)))
    for name, original in vars(mx.array).items():
        if callable(original) and not name.startswith("_") and name not in UNWATCHED_METHODS:
            found.append((mx.array, name, original, _method(session, name, original, METHOD_FORMS.get(name))))
    found += [
        (mx.array, name, original, Operator(session, mx.array, name, f"array.{name}", original))
        for name, original in vars(mx.array).items()
        if name in OPERATORS
    ]
    assign = vars(mx.array)["__setitem__"]
    found.append(
        (mx.array, "__setitem__", assign, Assignment(session, mx.array, "__setitem__", "array.__setitem__", assign))
    )
    return found


def _method(session: Session, name: str, original: Any, form: Any) -> LiftedMethod:
    return LiftedMethod(session, mx.array, name, f"array.{name}", original, form)


def _holders(session: Session, stand_ins: list[Holder]) -> list[Holder]:
    """Who else holds a function that has a form: what can be exchanged is returned, the rest is a leak.

    A running function's local variables hold it unseen.
    """
    wanted = {
        id(original): (original, stand_in)
        for owner, _, original, stand_in in stand_ins
        if owner is not mx.array and stand_in.needed
    }
    originals = [original for original, _ in wanted.values()]
    own = {id(vars(elementwise)), id(originals), *(id(vars(module)) for module in NAMESPACES.values())}
    own |= {id(pair) for pair in wanted.values()} | {id(entry) for entry in stand_ins}
    held: list[Holder] = []
    for holder in gc.get_referrers(*originals):
        if id(holder) in own or isinstance(holder, Lifted | FrameType):
            continue
        places = list(_places(holder, wanted))
        held += [(place, key, *wanted[id(original)]) for place, key, original in places]
        if not places:
            _report(session, holder, wanted)
    return held


def _places(holder: Any, wanted: Mapping[int, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Where in `holder` a wanted function can be exchanged."""
    if isinstance(holder, CellType):
        if id(holder.cell_contents) in wanted:
            yield holder, None, holder.cell_contents
    elif isinstance(holder, list):
        yield from ((holder, index, value) for index, value in enumerate(holder) if id(value) in wanted)
    else:
        for place, namespace in _namespaces(holder):
            yield from ((place, key, value) for key, value in list(namespace.items()) if id(value) in wanted)


def _namespaces(holder: Any) -> Iterator[tuple[Any, dict[Any, Any]]]:
    """A dictionary, or the class that it belongs to; and an object's attributes, a module of mlx.nn being both."""
    if isinstance(holder, dict):
        yield next((kind for kind in gc.get_referrers(holder) if _is_class_of(kind, holder)), holder), holder
    attributes = getattr(holder, "__dict__", None)
    if isinstance(attributes, dict):
        yield attributes, attributes


def _is_class_of(kind: Any, namespace: dict[Any, Any]) -> bool:
    if not isinstance(kind, type) or vars(kind).keys() != namespace.keys():
        return False
    return all(vars(kind)[key] is value for key, value in namespace.items())


def _report(session: Session, holder: Any, wanted: Mapping[int, tuple[Any, Lifted]]) -> None:
    for referent in gc.get_referents(holder):
        if id(referent) in wanted and not isinstance(holder, dict):  # as a key it is not called
            session.record(wanted[id(referent)][1].place, "captured", f"by a {type(holder).__name__}")


def _exchange(holder: Any, key: Any, old: Any, new: Any) -> None:
    """Put `new` where `old` stands; where something else stands by now, leave it."""
    if isinstance(holder, CellType):
        if holder.cell_contents is old:
            holder.cell_contents = new
    elif isinstance(holder, type):
        if vars(holder).get(key) is old:
            setattr(holder, key, new)
    elif isinstance(holder, list):
        if key < len(holder) and holder[key] is old:
            holder[key] = new
    elif holder.get(key) is old:
        holder[key] = new
