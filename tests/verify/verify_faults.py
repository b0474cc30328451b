"""Faults planted in one layer of the port, as a loader or a port might have them, and where they must be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mlx_impl import LayerNorm
from parity.spec.arrays import AnyArray
from parity.verify.parts import Port

State = Mapping[str, AnyArray]
LAYER = "bert.encoder.layer.1."


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        spoil: Turns what a part of the port should be filled with into what it is.
        culprit: The module, or one of the modules, that must be blamed; a module of layer 1 but for heads.
        of_model: Changes the port itself, before it runs.
    """

    culprit: str
    spoil: Callable[[dict[str, AnyArray]], dict[str, AnyArray]] = dict
    of_model: Callable[[Port], None] = lambda port: None


def changed(name: str, change: Callable[[AnyArray], AnyArray]) -> Callable[[dict[str, AnyArray]], dict[str, AnyArray]]:
    """Change one tensor wherever it is loaded."""
    return lambda state: {key: change(value) if key == name else value for key, value in state.items()}


def _one_number(values: AnyArray) -> AnyArray:
    spoilt = values.copy()
    spoilt.reshape(-1)[values.size // 2] += 0.01
    return spoilt


def _epsilon(port: Port) -> None:
    norm = port.model.bert.encoder.layer[1].mlp.layernorm
    assert isinstance(norm, LayerNorm)
    norm.eps = 1e-5


def _reversed_taps(values: AnyArray) -> AnyArray:
    return np.ascontiguousarray(values[..., ::-1])


def _half_filter(state: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """The reverse network's first layer loaded from the forward one."""
    network = f"{LAYER}attention.filter_fn."
    ours, theirs = f"{network}implicit_filter_rev.0.weight", f"{network}implicit_filter.0.weight"
    return {**state, ours: state[theirs]} if ours in state else state


FAULTS: Mapping[str, Fault] = {
    "one number of a tensor": Fault(
        LAYER + "attention.in_linear", changed(LAYER + "attention.in_linear.weight", _one_number)
    ),
    "a bias dropped": Fault(LAYER + "mlp.wo", changed(LAYER + "mlp.wo.bias", np.zeros_like)),
    "a transposed block": Fault(
        LAYER + "mlp.wo",
        changed(LAYER + "mlp.wo.weight", lambda w: np.ascontiguousarray(w.swapaxes(1, 2)).reshape(w.shape)),
    ),
    "blocks in another order": Fault(
        LAYER + "mlp.gated_layers", changed(LAYER + "mlp.gated_layers.weight", lambda w: w[::-1].copy())
    ),
    "taps reversed": Fault(
        LAYER + "attention.short_filter", changed(LAYER + "attention.short_filter.weight", _reversed_taps)
    ),
    "another epsilon": Fault(LAYER + "mlp.layernorm", of_model=_epsilon),
    "a frequency off by a thousandth": Fault(
        LAYER + "attention.filter_fn.implicit_filter.1",
        lambda state: {k: v * np.float32(1.001) if k.startswith(LAYER) and k.endswith("freq") else v
                       for k, v in state.items()},
    ),
    "positions made anew": Fault(
        LAYER + "attention.filter_fn.pos_emb",
        changed(LAYER + "attention.filter_fn.pos_emb.z", lambda z: np.roll(z, 1, axis=1)),
    ),
    "a skip term missing": Fault(
        LAYER + "attention.filter_fn2", changed(LAYER + "attention.filter_fn2.bias", np.zeros_like)
    ),
    "the reverse filter taken from the forward one": Fault(
        LAYER + "attention.filter_fn.implicit_filter_rev.0", _half_filter
    ),
    "a decoder of its own": Fault(
        "cls.predictions.decoder", changed("cls.predictions.decoder.weight", lambda w: w[::-1].copy())
    ),
}  # fmt: skip
"""By what is wrong."""
