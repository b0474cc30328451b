"""Faults of one module of the published model at a small size, forwards and backwards, each with the module to blame.

A fault is planted in a single instance: its class is exchanged for a subclass that differs in `__call__`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_impl import mixer
from parity.backends.port import build_port
from parity.cases import Case
from parity.examine import Bench
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select
from parity.suites.m2_bert_strata import MODEL

STRUCTURE = {
    **MODEL,
    "L": 12,
    "num_hidden_layers": 3,
    "max_position_embeddings": 16,
    "long_conv_l_max": 16,
    "vocab_size": 40,
}
LAYER = "bert.encoder.layer.1."
Call = Callable[..., Any]


@dataclass(frozen=True)
class Fault:
    """What is wrong, in which module, and how: a new call from (module, original call), or another state dict."""

    name: str
    module: str
    change: Callable[[Any, Call], Call] | None = None
    table: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None


def bench(seed: int = 1) -> Bench:
    """A case of the masked-language model with three layers."""
    (pair,) = select(["masked_lm"])
    return Bench(pair, Case.make("masked_lm", STRUCTURE, seed=seed), CANONICAL, intermediates=False)


def port_of(found: Bench, fault: Fault | None = None) -> nn.Module:
    """The port at f64, with a fault."""
    state = found.state if fault is None or fault.table is None else fault.table(found.state)
    port = build_port(found.pair, found.case.options, CANONICAL, RUNGS["f64"], state)
    if fault is not None and fault.change is not None:
        _spoil(port, fault.module, fault.change)
    return port


def _spoil(port: nn.Module, name: str, change: Callable[[Any, Call], Call]) -> None:
    module: Any = dict(port.named_modules())[name]
    cls = type(module)
    changed = change(module, lambda *args: cls.__call__(module, *args))

    def call(_self: nn.Module, *args: Any) -> Any:
        return changed(*args)

    object.__setattr__(module, "__class__", type(cls.__name__, (cls,), {"__call__": call}))


def _tanh(module: Any, _call: Call) -> Call:
    return module.ops.gelu_tanh


def _epsilon(module: Any, _call: Call) -> Call:
    return lambda x: module.ops.layer_norm(x, module.weight, module.bias, 1e-5)


def _no_bias(module: Any, call: Call) -> Call:
    return lambda x: call(x) - module.bias


def _centred(module: Any, call: Call) -> Call:
    def centred(x: mx.array) -> mx.array:
        module.padding = 1
        return call(x)

    return centred


def _modulo_bands(_module: Any, call: Call) -> Call:
    def bands(length: int) -> Any:
        z, t = call(length)
        return mx.concatenate([z[..., :1], z[..., 1:][..., ::-1]], axis=-1), t

    return bands


def _squared_frequency(module: Any, _call: Call) -> Call:
    return lambda x: module.ops.sin(module.w_mod * module.freq * module.freq * x)


def _signed_decay(module: Any, _call: Call) -> Call:
    return lambda t, x: x * (module.ops.exp(t * module.deltas * 0.999) + module.shift)


def _doubled_skip(module: Any, call: Call) -> Call:
    return lambda x: call(x) + module.bias[:, None] * x


def _wrong_gate(module: Any, _call: Call) -> Call:
    def wired(u: mx.array) -> mx.array:
        mixed = module.short_filter(module.in_linear(u).swapaxes(1, 2))
        x1, x2, v = mx.split(mixed, 3, axis=1)
        y = module.filter_fn(v * x2) * x1 + module.filter_fn2(u.swapaxes(1, 2))
        return module.out_linear(y.swapaxes(1, 2))

    return wired


def _no_residual(module: Any, _call: Call) -> Call:
    def wired(x: mx.array) -> mx.array:
        gate, value = mx.split(module.gated_layers(x), 2, axis=-1)
        return module.layernorm(module.wo(module.act(gate) * value))

    return wired


def _added_residual(module: Any, _call: Call) -> Call:
    return lambda x: module.mlp(module.attention(x) + x)


def _reversed_blocks(state: Mapping[str, Array]) -> Mapping[str, Array]:
    """What a table gives that takes the blocks of one weight from the last to the first."""
    name = f"{LAYER}mlp.wo.weight"
    return {**state, name: state[name][::-1]}


def _slow_growth(_module: Any, call: Call) -> Call:
    return lambda *args: call(*args) * (1 + 1e-9)


FORWARD = (
    Fault("embeddings scaled by 1 + 1e-9", "bert.embeddings", _slow_growth),
    Fault("bias of the input projection left out", f"{LAYER}attention.in_linear", _no_bias),
    Fault("short convolution centred", f"{LAYER}attention.short_filter", _centred),
    Fault("bands of the positions in another order", f"{LAYER}attention.filter_fn.pos_emb", _modulo_bands),
    Fault("frequency squared", f"{LAYER}attention.filter_fn.implicit_filter.layers.1", _squared_frequency),
    Fault("decay off by a thousandth", f"{LAYER}attention.filter_fn.modulation", _signed_decay),
    Fault("skip term twice", f"{LAYER}attention.filter_fn2", _doubled_skip),
    Fault("gates exchanged", f"{LAYER}attention", _wrong_gate),
    Fault("GELU by tanh", f"{LAYER}mlp.act", _tanh),
    Fault("epsilon 1e-5", f"{LAYER}mlp.layernorm", _epsilon),
    Fault("residual left out", f"{LAYER}mlp", _no_residual),
    Fault("residual added around the mixer", LAYER[:-1], _added_residual),
    Fault("a weight's blocks in reverse order by the table", f"{LAYER}mlp.wo", table=_reversed_blocks),
)


def _with_vjp(call: Call, vjp: Callable[..., Any]) -> Call:
    """The same values with another vector-Jacobian product: `vjp(right cotangents, arguments)` gives the wrong ones."""

    def function(*args: mx.array) -> mx.array:
        wrapped = mx.custom_function(call)

        @wrapped.vjp
        def backward(primals: Any, cotangent: mx.array, _output: mx.array) -> Any:
            given = primals if isinstance(primals, tuple | list) else (primals,)
            _, right = mx.vjp(call, list(given), [cotangent])
            wrong = vjp(right, given)
            return wrong if isinstance(primals, tuple | list) else wrong[0]

        return wrapped(*args)  # type: ignore[no-any-return]

    return function


def _scaled_vjp(_module: Any, call: Call) -> Call:
    return _with_vjp(call, lambda right, _given: [g * 1.001 for g in right])


def _shifted_vjp(_module: Any, call: Call) -> Call:
    return _with_vjp(call, lambda right, _given: [mx.roll(g, 1, -1) for g in right])


def _uncentred_vjp(_module: Any, call: Call) -> Call:
    return _with_vjp(call, lambda right, _given: [g + g.mean(-1, keepdims=True) + 1e-6 * g for g in right])


def _flipped_vjp(_module: Any, call: Call) -> Call:
    return _with_vjp(call, lambda right, _given: [g[..., ::-1] for g in right])


def _cut_gate(module: Any, _call: Call) -> Call:
    def wired(x: mx.array) -> mx.array:
        gate, value = mx.split(module.gated_layers(x), 2, axis=-1)
        return module.layernorm(module.wo(mx.stop_gradient(module.act(gate)) * value) + x)

    return wired


def _cut_branch(module: Any, _call: Call) -> Call:
    def wired(u: mx.array) -> mx.array:
        mixed = module.short_filter(module.in_linear(u).swapaxes(1, 2))
        x1, x2, v = mx.split(mixed, 3, axis=1)
        y = module.filter_fn(v * x1) * x2 + module.filter_fn2(mx.stop_gradient(u).swapaxes(1, 2))
        return module.out_linear(y.swapaxes(1, 2))

    return wired


BACKWARD = (
    Fault("gradient of GELU off by a thousandth", f"{LAYER}mlp.act", _scaled_vjp),
    Fault("gradient of the short convolution shifted", f"{LAYER}attention.short_filter", _shifted_vjp),
    Fault("gradient of a long convolution reversed", f"{LAYER}attention.filter_fn2", _flipped_vjp),
    Fault("mean left in the gradient of a LayerNorm", f"{LAYER}mlp.layernorm", _uncentred_vjp),
    Fault("no gradient through the gate", f"{LAYER}mlp", _cut_gate),
    Fault("no gradient through the second branch's input", f"{LAYER}attention", _cut_branch),
)

NAMES = {fault.name: fault for fault in (*FORWARD, *BACKWARD)}
assert len(NAMES) == len(FORWARD) + len(BACKWARD)
assert mixer.ShortConvolution.padding == 2
