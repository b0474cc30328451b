"""How a mutant of M2-BERT's port is written down: which name stands for something else, and for what.

Every builder returns a patch: a function that returns the context in which the port is the wrong one. What stood there
before is looked up when the context is entered and put back when it is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_impl import activations, fft_conv, hyena, mixer, mlp, norm, weights
from mlx_impl.ops import Ops
from parity.attribution import replaced
from parity.mutants.mutant import Kind, Mutant

Patch = Callable[[], AbstractContextManager[object]]
Change = Callable[..., Any]

SPECIFICATION = "specification"
MLX_HABIT = "habit of MLX"
TORCH_HABIT = "habit of PyTorch"
PORT = "a real port"


def measured(family: str) -> str:
    """Source: a family of classic mistakes, measured in numerics.md, section 6."""
    return f"numerics.md 6, family {family}"


def mutants_of(component: str, kind: Kind, *rows: tuple[Any, ...], **common: Any) -> tuple[Mutant, ...]:
    """Mutants of one component and kind: (name, says, source, blamed, patch) or with a mapping of further fields."""
    return tuple(
        Mutant(
            name=name,
            says=says,
            source=source,
            component=component,
            blamed=(blamed,) if isinstance(blamed, str) else tuple(blamed),
            kind=kind,
            patch=patch,
            **common,
            **(more[0] if more else {}),
        )
        for name, says, source, blamed, patch, *more in rows
    )


# What is replaced ------------------------------------------------------------------------------------------------


def method(owner: Any, name: str, change: Change) -> Patch:
    """Method `name` of a class becomes `change(self, original, *arguments)`; `original` takes the arguments alone."""

    def patch() -> AbstractContextManager[object]:
        original = getattr(owner, name)

        def changed(self: Any, *given: Any, **named: Any) -> Any:
            return change(self, partial(original, self), *given, **named)

        return replaced((owner, name, changed))

    return patch


def call(owner: Any, change: Change) -> Patch:
    """Calls of a module's class become `change(self, original, *arguments)`."""
    return method(owner, "__call__", change)


def op(name: str, change: Change) -> Patch:
    """Primitive `name` becomes `change(ops, original, *arguments)`."""
    return method(Ops, name, change)


def built(owner: Any, edit: Callable[[Any], object]) -> Patch:
    """Modules of a class are edited as soon as they are built, before they are filled."""

    def change(self: Any, original: Change, *given: Any, **named: Any) -> None:
        original(*given, **named)
        edit(self)

    return method(owner, "__init__", change)


def function(name: str, change: Change, *modules: Any) -> Patch:
    """A function becomes `change(original, *arguments)` in all modules that know it by `name`."""

    def patch() -> AbstractContextManager[object]:
        changed = partial(change, getattr(modules[0], name))
        return replaced(*((module, name, changed) for module in modules))

    return patch


def core(module: Any, **functions: Change) -> Patch:
    """In one module `mx` has other functions of these names."""

    class Core:
        def __getattr__(self, name: str) -> Any:
            return functions.get(name) or getattr(mx, name)

    return lambda: replaced((module, "mx", Core()))


def several(*patches: Patch) -> Patch:
    """Enter several patches, one inside the other."""

    def patch() -> AbstractContextManager[object]:
        with ExitStack() as stack:
            for one in patches:
                stack.enter_context(one())
            return stack.pop_all()

    return patch


def state(change: Callable[[dict[str, mx.array], Mapping[str, mx.array]], object]) -> Patch:
    """The transfer of weights is changed in place: `change(arrays, initial)`, both by the checkpoint's names."""

    def changed(original: Change, model: Any, tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
        arrays = {weights.checkpoint_name(name): array for name, array in original(model, tensors).items()}
        initial = {weights.checkpoint_name(name): array for name, array in weights.parameters(model).items()}
        change(arrays, initial)
        return {weights.port_name(name): array for name, array in arrays.items()}

    return function("from_state", changed, weights)


def loaded(pattern: str, change: Callable[[mx.array], mx.array]) -> Patch:
    """Every tensor whose checkpoint name matches `pattern` is loaded as `change(tensor)`."""

    def edit(arrays: dict[str, mx.array], _initial: Mapping[str, mx.array]) -> None:
        for name in [name for name in arrays if re.search(pattern, name)]:
            arrays[name] = change(arrays[name])

    return state(edit)


def not_loaded(pattern: str) -> Patch:
    """Tensors whose checkpoint name matches keep the values with which the port was built."""

    def edit(arrays: dict[str, mx.array], initial: Mapping[str, mx.array]) -> None:
        arrays |= {name: initial[name] for name in arrays if re.search(pattern, name)}

    return state(edit)


def exchanged(one: str, other: str) -> Patch:
    """Tensors with `one` in their checkpoint name are exchanged with those that have `other` there instead."""

    def edit(arrays: dict[str, mx.array], _initial: Mapping[str, mx.array]) -> None:
        for name in [name for name in arrays if one in name and name.replace(one, other) in arrays]:
            partner = name.replace(one, other)
            arrays[name], arrays[partner] = arrays[partner], arrays[name]

    return state(edit)


# Places of the port that many mistakes share ---------------------------------------------------------------------


def convolution(change: Change) -> Patch:
    """The long convolution becomes `change(original, u, k, D, k_rev, profile, ops)`."""
    return function("fftconv", change, fft_conv, hyena)


def both_directions(change: Change) -> Patch:
    """The combined kernel's spectrum becomes `change(original, k, k_rev, n, profile, ops)`."""
    return function("_both_directions", change, fft_conv)


def skip(change: Callable[[mx.array, mx.array], mx.array]) -> Patch:
    """The skip term becomes `change(u, D)`, u (b, d, l) and D (1, d, 1)."""
    return function("skip_term", lambda _original, u, D: change(u, D), fft_conv)


def gelu(formula: Callable[[Ops, mx.array], mx.array]) -> Patch:
    """The exact unit becomes `formula(ops, x)`."""
    return op("gelu_erf", lambda self, _original, x: formula(self, x))


def unit(change: Change) -> Patch:
    """The module of the unit becomes `change(self, original, x)`."""
    return call(activations.Gelu, change)


def normalised(formula: Callable[[Any, mx.array], mx.array]) -> Patch:
    """LayerNorm becomes `formula(layer, x) * weight + bias`."""
    return call(norm.LayerNorm, lambda self, _original, x: formula(self, x) * self.weight + self.bias)


def centred(x: mx.array) -> mx.array:
    """x less its mean over the last axis."""
    return x - mx.mean(x, axis=-1, keepdims=True)


def variance(x: mx.array) -> mx.array:
    """Biased variance over the last axis."""
    return mx.mean(mx.square(centred(x)), axis=-1, keepdims=True)


def split(module: Any, change: Callable[[list[mx.array]], Sequence[mx.array]]) -> Patch:
    """What one module splits is handed on as `change(parts)`."""
    return core(module, split=lambda x, parts, axis: change(list(mx.split(x, parts, axis=axis))))


def wired(change: Callable[..., mx.array]) -> Patch:
    """The mixer's middle becomes `change(self, u, x1, x2, v)`, all (b, d, l), u behind the LayerNorm."""

    def forward(self: Any, _original: Change, u: mx.array) -> mx.array:
        u = u if self.layernorm is None else self.layernorm(u)
        thirds = mx.split(self.short_filter(self.in_linear(u).swapaxes(1, 2)), 3, axis=1)
        return self.out_linear(change(self, u.swapaxes(1, 2), *thirds).swapaxes(1, 2))

    return call(mixer.MonarchMixer, forward)


def second(self: Any, u: mx.array) -> Any:
    """The mixer's second convolution of u (b, d, l), 0 where it has none."""
    return 0 if self.filter_fn2 is None else self.filter_fn2(u)


def gated(change: Callable[..., mx.array]) -> Patch:
    """The gated MLP becomes `change(self, gate, value, x)`."""

    def forward(self: Any, _original: Change, x: mx.array) -> mx.array:
        gate, value = mx.split(self.gated_layers(x), 2, axis=-1)
        return change(self, gate, value, x)

    return call(mlp.GatedMlp, forward)


# Precision and gradients -----------------------------------------------------------------------------------------


def through(dtype: mx.Dtype, x: Any) -> Any:
    """Round x to `dtype` and give it its own back."""
    return x.astype(dtype).astype(x.dtype)


def with_vjp(function: Change, arrays: int, wrong: Callable[..., Sequence[mx.array]]) -> Change:
    """The same values with other gradients.

    Args:
        function: Takes `arrays` arrays and then what has no gradient; returns one array.
        arrays: How many.
        wrong: `wrong(right, primals)` returns the cotangents that are handed on, `right` those that should be.
    """

    def computed(*given: Any) -> Any:
        varying, fixed = given[:arrays], given[arrays:]

        def plain(*values: mx.array) -> Any:
            return function(*values, *fixed)

        wrapped = mx.custom_function(plain)

        @wrapped.vjp
        def backward(primals: Any, cotangent: mx.array, _output: mx.array) -> Any:
            values = list(primals) if isinstance(primals, tuple | list) else [primals]
            _, right = mx.vjp(plain, values, [cotangent])
            handed = list(wrong(right, values))
            return handed if isinstance(primals, tuple | list) else handed[0]

        return wrapped(*varying)

    return computed


def op_vjp(name: str, arrays: int, wrong: Callable[..., Sequence[mx.array]]) -> Patch:
    """Primitive `name`, its first arguments arrays, computes the same with gradients `wrong(right, primals)`."""
    return op(name, lambda _self, original, *given: with_vjp(original, arrays, wrong)(*given))


def convolution_vjp(wrong: Callable[..., Sequence[mx.array]]) -> Patch:
    """The bidirectional convolution has gradients `wrong(right, primals)` for u, k, D and k_rev."""

    def change(original: Change, u: Any, k: Any, D: Any, k_rev: Any, profile: Any, ops: Any) -> Any:
        if k_rev is None:
            return original(u, k, D, k_rev, profile, ops)
        return with_vjp(original, 4, wrong)(u, k, D, k_rev, profile, ops)

    return convolution(change)


def convolution_input(change: Callable[..., tuple[Any, Any, Any, Any]]) -> Patch:
    """The convolution gets `change(u, k, D, k_rev)` for its arrays; k_rev may be None."""
    return convolution(lambda original, u, k, D, k_rev, profile, ops: original(*change(u, k, D, k_rev), profile, ops))


def given(change: Callable[[Any], Any], x: Any) -> Any:
    """`change(x)`, None where x is None."""
    return None if x is None else change(x)
