"""Layers of mlx.nn as they are installed, against the layers of torch.nn of the same name, with the same weights.

Nothing of them was written for float64 or for this harness: they show that the float64 context needs no help from the
module under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import mlx.core as mx
import mlx.nn as mnn
import mlx.utils
import numpy as np
import torch
from torch import nn as tnn

from parity.backends.convert import mlx_from_numpy, numpy_from_mlx, numpy_from_torch, torch_from_numpy
from parity.float64 import float64_forms
from parity.float64.rows import Errors, ModuleRow
from parity.spec.arrays import AnyArray, Array

State = Mapping[str, Array]
Reading = Callable[[State], Array]
CASES: Final = 4


@dataclass(frozen=True)
class Rule:
    """How a parameter of MLX's layer is read off the parameters of torch's, and its gradient off their gradients."""

    value: Reading
    gradient: Reading


@dataclass(frozen=True)
class Twins:
    """One layer on both sides, and how to call it.

    Attributes:
        torch: torch's layer, in float64.
        mlx: MLX's.
        rules: MLX's parameters by name.
        inputs: Arrays, the first axis being the batch; integers are indices.
        run_torch: Calls torch's layer; outputs in MLX's layout.
        run_mlx: Calls MLX's.
        zeros: Parameters of torch's layer that MLX's does not have, held at zero.
    """

    torch: tnn.Module
    mlx: mnn.Module
    rules: Mapping[str, Rule]
    inputs: Sequence[AnyArray]
    run_torch: Callable[..., Any]
    run_mlx: Callable[..., Any]
    zeros: Sequence[str] = field(default=())


def _read(function: Reading) -> Rule:
    """A parameter that is a piece of torch's, or all of one in another layout."""
    return Rule(function, function)


def _same(*names: str) -> dict[str, Rule]:
    return {name: _read(itemgetter(name)) for name in names}


def _under(prefix: str, rules: Mapping[str, Rule], source: str) -> dict[str, Rule]:
    """Rules of a part: MLX calls it `prefix`, torch `source`."""

    def within(reading: Reading) -> Reading:
        return lambda state: reading(
            {name.removeprefix(source): array for name, array in state.items() if name.startswith(source)}
        )

    return {prefix + name: Rule(within(rule.value), within(rule.gradient)) for name, rule in rules.items()}


def _call(module: Any, *inputs: Any) -> Any:
    return module(*inputs)


def _sizes(generator: np.random.Generator, *ranges: tuple[int, int]) -> list[int]:
    return [int(generator.integers(low, high + 1)) for low, high in ranges]


def _normal(generator: np.random.Generator, *shape: int) -> Array:
    return generator.standard_normal(shape)


# --- layers ---------------------------------------------------------------------------------------------------------


def _linear(generator: np.random.Generator) -> Twins:
    b, l, d, out = _sizes(generator, (1, 4), (1, 9), (3, 40), (1, 40))
    x = _normal(generator, b, l, d)
    return Twins(tnn.Linear(d, out), mnn.Linear(d, out), _same("weight", "bias"), [x], _call, _call)


def _embedding_linear(generator: np.random.Generator) -> Twins:
    b, l, words, d, out = _sizes(generator, (1, 4), (1, 9), (5, 30), (3, 20), (2, 20))
    tokens = generator.integers(0, words, (b, l))
    rules = {
        **_under("layers.0.", _same("weight"), "0."),
        **_under("layers.1.", _same("weight", "bias"), "1."),
    }
    return Twins(
        tnn.Sequential(tnn.Embedding(words, d), tnn.Linear(d, out)),
        mnn.Sequential(mnn.Embedding(words, d), mnn.Linear(d, out)),
        rules,
        [tokens],
        _call,
        _call,
    )


def _channels_last(weight: Array) -> Array:
    return np.moveaxis(weight, 1, -1)


def _convolution(axes: int, plain: bool) -> Callable[[np.random.Generator], Twins]:
    """With strides, dilations and groups unless `plain`: MLX refuses those in float64."""

    def build(generator: np.random.Generator) -> Twins:
        b, c, out, groups, taps = _sizes(generator, (1, 3), (1, 4), (1, 4), (1, 3), (1, 4))
        stride, padding, dilation = _sizes(generator, (1, 3), (0, 3), (1, 2))
        space = _sizes(generator, *[(8, 12)] * axes)
        stride, dilation, groups = (1, 1, 1) if plain else (stride, dilation, groups)
        given: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        there, here = (tnn.Conv1d, mnn.Conv1d) if axes == 1 else (tnn.Conv2d, mnn.Conv2d)
        return Twins(
            there(c * groups, out * groups, taps, **given),
            here(c * groups, out * groups, taps, **given),
            {"weight": _read(lambda state: _channels_last(state["weight"])), **_same("bias")},
            [_normal(generator, b, *space, c * groups)],
            lambda module, x: module(x.movedim(-1, 1)).movedim(1, -1),
            _call,
        )

    return build


def _norm(there: Callable[..., tnn.Module], here: Callable[..., mnn.Module], *names: str) -> Any:
    def build(generator: np.random.Generator) -> Twins:
        b, l, d = _sizes(generator, (1, 4), (1, 9), (4, 40))
        x = _normal(generator, b, l, d) * 2 + 1
        return Twins(there(d), here(d), _same(*names), [x], _call, _call)

    return build


def _group_norm(generator: np.random.Generator) -> Twins:
    b, l, groups, each = _sizes(generator, (1, 4), (3, 9), (1, 4), (2, 6))
    d = groups * each
    return Twins(
        tnn.GroupNorm(groups, d),
        mnn.GroupNorm(groups, d, pytorch_compatible=True),
        _same("weight", "bias"),
        [_normal(generator, b, l, d) + 1],
        lambda module, x: module(x.movedim(-1, 1)).movedim(1, -1),
        _call,
    )


def _activation(there: Callable[[], tnn.Module], here: Callable[[], mnn.Module]) -> Any:
    def build(generator: np.random.Generator) -> Twins:
        b, l, d = _sizes(generator, (1, 4), (1, 9), (2, 40))
        return Twins(there(), here(), {}, [_normal(generator, b, l, d) * 2], _call, _call)

    return build


def _attention_rules(bias: bool) -> dict[str, Rule]:
    def third(name: str, index: int) -> Rule:
        return _read(lambda state: np.split(state[name], 3)[index])

    rules = {}
    for index, part in enumerate(("query_proj", "key_proj", "value_proj")):
        rules[f"{part}.weight"] = third("in_proj_weight", index)
        if bias:
            rules[f"{part}.bias"] = third("in_proj_bias", index)
    return {**rules, **_under("out_proj.", _same("weight", *(["bias"] if bias else [])), "out_proj.")}


def _attention(masked: bool) -> Callable[[np.random.Generator], Twins]:
    def build(generator: np.random.Generator) -> Twins:
        b, l, heads, each = _sizes(generator, (1, 3), (2, 9), (1, 4), (2, 8))
        d = heads * each
        forbidden = np.triu(np.ones((l, l), dtype=bool), 1) if masked else None

        def run_torch(module: tnn.Module, *inputs: Any) -> Any:
            mask = None if forbidden is None else torch.from_numpy(forbidden)
            return module(*inputs, need_weights=False, attn_mask=mask)[0]

        def run_mlx(module: mnn.Module, *inputs: Any) -> Any:
            mask = None if forbidden is None else mx.array(np.where(forbidden, -np.inf, 0.0), dtype=mx.float64)
            return module(*inputs, mask)

        inputs = [_normal(generator, b, l, d) for _ in range(3)]
        there = tnn.MultiheadAttention(d, heads, batch_first=True)
        here = mnn.MultiHeadAttention(d, heads, bias=True)
        return Twins(there, here, _attention_rules(bias=True), inputs, run_torch, run_mlx)

    return build


_ENCODER_ZEROS: Final = ("self_attn.in_proj_bias", "self_attn.out_proj.bias")


def _encoder_rules() -> dict[str, Rule]:
    pairs = {"ln1.": "norm1.", "ln2.": "norm2.", "linear1.": "linear1.", "linear2.": "linear2."}
    rules = _under("attention.", _attention_rules(bias=False), "self_attn.")
    for here, there in pairs.items():
        rules |= _under(here, _same("weight", "bias"), there)
    return rules


def _encoder_layer(norm_first: bool, activation: str) -> Callable[[np.random.Generator], Twins]:
    def build(generator: np.random.Generator) -> Twins:
        b, l, heads, each, wide = _sizes(generator, (1, 3), (2, 9), (1, 4), (4, 8), (4, 40))
        d = heads * each
        given: dict[str, Any] = {"activation": activation, "norm_first": norm_first, "batch_first": True}
        return Twins(
            tnn.TransformerEncoderLayer(d, heads, wide, dropout=0.0, **given),
            mnn.TransformerEncoderLayer(d, heads, wide, activation=getattr(mnn, activation), norm_first=norm_first),
            _encoder_rules(),
            [_normal(generator, b, l, d)],
            _call,
            lambda module, x: module(x, None),
            _ENCODER_ZEROS,
        )

    return build


def _encoder(generator: np.random.Generator) -> Twins:
    b, l, heads, each, wide, layers = _sizes(generator, (1, 3), (2, 9), (1, 4), (4, 8), (4, 40), (2, 3))
    d = heads * each
    layer = tnn.TransformerEncoderLayer(
        d, heads, wide, dropout=0.0, activation="gelu", norm_first=True, batch_first=True
    )
    there = tnn.TransformerEncoder(layer, layers, norm=tnn.LayerNorm(d), enable_nested_tensor=False)
    rules = _under("ln.", _same("weight", "bias"), "norm.")
    for index in range(layers):
        rules |= _under(f"layers.{index}.", _encoder_rules(), f"layers.{index}.")
    return Twins(
        there,
        mnn.TransformerEncoder(layers, d, heads, wide, activation=mnn.gelu, norm_first=True),
        rules,
        [_normal(generator, b, l, d)],
        _call,
        lambda module, x: module(x, None),
        [f"layers.{index}.{name}" for index in range(layers) for name in _ENCODER_ZEROS],
    )


def _recurrent(name: str) -> Callable[[np.random.Generator], Twins]:
    """RNN, LSTM (gates i, f, g, o) and GRU (r, z, n), gates in the same order on both sides.

    torch adds two biases in every gate, MLX one: the sum, of which the gradient is that of either. MLX's GRU keeps the
    hidden bias of n apart.
    """

    def both(state: State) -> Array:
        return state["bias_ih_l0"] + state["bias_hh_l0"]

    def build(generator: np.random.Generator) -> Twins:
        b, l, d, h = _sizes(generator, (1, 4), (1, 9), (2, 12), (2, 12))
        wx, wh = ("Wxh", "Whh") if name == "RNN" else ("Wx", "Wh")
        rules = {wx: _read(lambda state: state["weight_ih_l0"]), wh: _read(lambda state: state["weight_hh_l0"])}
        if name == "GRU":

            def joint(state: State) -> Array:
                hidden: Array = np.concatenate([state["bias_hh_l0"][: 2 * h], np.zeros(h)])
                return hidden + state["bias_ih_l0"]

            rules["b"] = Rule(joint, lambda state: state["bias_ih_l0"])
            rules["bhn"] = _read(lambda state: state["bias_hh_l0"][2 * h :])
        else:
            rules["bias"] = Rule(both, lambda state: state["bias_ih_l0"])
        return Twins(
            getattr(tnn, name)(d, h, batch_first=True),
            getattr(mnn, name)(d, h),
            rules,
            [_normal(generator, b, l, d)],
            lambda module, x: module(x)[0],
            lambda module, x: module(x)[0] if name == "LSTM" else module(x),
        )

    return build


MODULES: Final[Mapping[str, Callable[[np.random.Generator], Twins]]] = {
    "Linear": _linear,
    "Embedding + Linear": _embedding_linear,
    "Conv1d": _convolution(1, plain=True),
    "Conv1d, strided, dilated, grouped": _convolution(1, plain=False),
    "Conv2d": _convolution(2, plain=True),
    "Conv2d, strided, dilated, grouped": _convolution(2, plain=False),
    "LayerNorm": _norm(tnn.LayerNorm, mnn.LayerNorm, "weight", "bias"),
    "RMSNorm": _norm(lambda d: tnn.RMSNorm(d, eps=1e-5), mnn.RMSNorm, "weight"),
    "GroupNorm": _group_norm,
    "GELU": _activation(tnn.GELU, mnn.GELU),
    "GELU, tanh": _activation(lambda: tnn.GELU(approximate="tanh"), lambda: mnn.GELU("tanh")),
    "SiLU": _activation(tnn.SiLU, mnn.SiLU),
    "Sigmoid": _activation(tnn.Sigmoid, mnn.Sigmoid),
    "Softmax": _activation(lambda: tnn.Softmax(dim=-1), mnn.Softmax),
    "LogSoftmax": _activation(lambda: tnn.LogSoftmax(dim=-1), mnn.LogSoftmax),
    "ELU": _activation(tnn.ELU, mnn.ELU),
    "Softplus": _activation(lambda: tnn.Softplus(threshold=100), mnn.Softplus),
    "Mish": _activation(tnn.Mish, mnn.Mish),
    "MultiHeadAttention": _attention(masked=False),
    "MultiHeadAttention, causal": _attention(masked=True),
    "TransformerEncoderLayer, relu, norm last": _encoder_layer(norm_first=False, activation="relu"),
    "TransformerEncoderLayer, gelu, norm first": _encoder_layer(norm_first=True, activation="gelu"),
    "TransformerEncoder": _encoder,
    "RNN": _recurrent("RNN"),
    "GRU": _recurrent("GRU"),
    "LSTM": _recurrent("LSTM"),
}
"""The layers of the table, each built from a generator that draws its shapes."""


# --- running them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Computed:
    """Outputs and gradients of one run, each as one vector; `refusal` is why MLX computes one of them not at all."""

    output: Array | None
    gradient: Array | None
    refusal: str = ""

    def errors(self, truth: Computed) -> Errors:
        """Relative L2 error of either, None for what was refused."""
        return Errors(_relative(self.output, truth.output), _relative(self.gradient, truth.gradient))


def _relative(actual: Array | None, truth: Array | None) -> float | None:
    if actual is None or truth is None:
        return None
    if actual.shape != truth.shape:
        return math.inf
    error = float(np.linalg.norm(actual - truth) / np.linalg.norm(truth))
    return error if math.isfinite(error) else math.inf


def _vector(arrays: Sequence[Array]) -> Array:
    return np.concatenate([array.ravel() for array in arrays])


def fill(twins: Twins, generator: np.random.Generator) -> None:
    """Draw torch's parameters, N(0, 1/fan-in) and for vectors N(0, 0.3^2), around 1 for scales; copy them to MLX.

    Raises:
        ValueError: A parameter of MLX's layer has no rule, or a rule no parameter.
    """
    twins.torch.to(torch.float64)
    for name, parameter in twins.torch.named_parameters():
        shape = tuple(parameter.shape)
        fan_in = math.prod(shape[1:])
        drawn = generator.standard_normal(shape) * (0.3 if len(shape) == 1 else 1 / math.sqrt(fan_in))
        scale = float(len(shape) == 1 and name.endswith("weight"))
        values = np.zeros(shape) if name in twins.zeros else drawn + scale
        parameter.data = torch_from_numpy(values, "float64")
    state = {name: numpy_from_torch(value)[0] for name, value in twins.torch.named_parameters()}
    weights = [(name, mlx_from_numpy(rule.value(state), "float64")) for name, rule in twins.rules.items()]
    twins.mlx.load_weights(weights, strict=True)


def _gradient(leaf: torch.Tensor) -> Array:
    """What has reached a leaf; nothing is zero."""
    return np.zeros(tuple(leaf.shape)) if leaf.grad is None else numpy_from_torch(leaf.grad)[0]


def _run_torch(twins: Twins, cotangent: np.random.Generator) -> tuple[Computed, Array]:
    inputs = [torch_from_numpy(array, "float64") for array in twins.inputs]
    leaves = [tensor.requires_grad_() for tensor in inputs if tensor.is_floating_point()]
    output = twins.run_torch(twins.torch, *inputs)
    w = cotangent.standard_normal(tuple(output.shape))
    (output * torch_from_numpy(w, "float64")).sum().backward()
    slopes = {name: _gradient(value) for name, value in twins.torch.named_parameters()}
    gradients = [_gradient(leaf) for leaf in leaves]
    gradients += [rule.gradient(slopes) for _, rule in sorted(twins.rules.items())]
    return Computed(numpy_from_torch(output)[0].ravel(), _vector(gradients)), w


def _run_mlx(twins: Twins, w: Array) -> Computed:
    inputs = [mlx_from_numpy(array, "float64") for array in twins.inputs]
    real = [index for index, array in enumerate(inputs) if array.dtype == mx.float64]
    weights = mlx_from_numpy(w, "float64")
    parameters = twins.mlx.trainable_parameters()

    def loss(values: Any, given: list[mx.array]) -> tuple[mx.array, mx.array]:
        twins.mlx.update(values)
        filled = dict(zip(real, given, strict=True))
        output = twins.run_mlx(twins.mlx, *(filled.get(index, array) for index, array in enumerate(inputs)))
        return mx.sum(output * weights), output

    (_, output), (slopes, given) = mx.value_and_grad(loss, argnums=(0, 1))(parameters, [inputs[i] for i in real])
    twins.mlx.update(parameters)
    by_name = dict(mlx.utils.tree_flatten(slopes))
    first, refused = _evaluated([output])
    second, refused_too = _evaluated([*given, *(by_name[name] for name in sorted(twins.rules))])
    return Computed(first, second, refused or refused_too)


def _evaluated(arrays: Sequence[mx.array]) -> tuple[Array | None, str]:
    """One vector of all arrays, or MLX's words: of a float64 convolution it computes no gradient."""
    try:
        return _vector([numpy_from_mlx(array)[0] for array in arrays]), ""
    except (RuntimeError, ValueError) as refusal:
        return None, str(refusal).splitlines()[0]


def examine_module(name: str, seed: int = 0, cases: int = CASES) -> ModuleRow:
    """Compare one layer of the table with torch's in float64, as MLX computes it and inside the context.

    Args:
        name: A key of `MODULES`.
        seed: Seed of the shapes, weights and inputs.
        cases: How many are drawn.

    Returns:
        The largest errors over the cases, and what leaked.
    """
    naive, lifted = [], []
    found: dict[str, None] = {}
    refusals: dict[str, None] = {}
    for case in range(cases):
        generator = np.random.Generator(np.random.Philox([seed, case]))
        twins = MODULES[name](generator)
        fill(twins, generator)
        truth, w = _run_torch(twins, generator)
        with mx.stream(mx.cpu):
            plain = _run_mlx(twins, w)
        with float64_forms() as leaks:
            lifted.append(_run_mlx(twins, w).errors(truth))
        naive.append(plain.errors(truth))
        found |= dict.fromkeys(leaks.operations)
        refusals |= dict.fromkeys([plain.refusal] if plain.refusal else [])
    return ModuleRow(name, cases, _worst(naive), _worst(lifted), tuple(found), "; ".join(refusals))


def _worst(errors: Sequence[Errors]) -> Errors:
    """Largest error of the outputs and of the gradients; None if any was refused."""
    return Errors(_largest([error.output for error in errors]), _largest([error.gradient for error in errors]))


def _largest(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) else None


def examine_modules(seed: int = 0, cases: int = CASES) -> list[ModuleRow]:
    """Compare every layer of the table with torch's."""
    return [examine_module(name, seed, cases) for name in MODULES]
