"""The M2-BERT layer at float64, forward and gradients: as MLX computes it, in the context, and behind the seam.

The context knows nothing of the port and exchanges MLX's functions beneath it; the seam (`float64_ops`) is what the f64
rung uses. Both must agree with the reference's float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import mlx.core as mx
import numpy as np

from mlx_impl.ops import Ops
from parity.backends.gradients import port_gradients, reference_gradients
from parity.backends.mlx_float64 import float64_ops
from parity.backends.port import fill_port, run_port_outputs
from parity.cases import Case
from parity.examine import Bench
from parity.float64 import float64_forms
from parity.float64.rows import Errors, ModuleRow
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS
from parity.spec.profile import HyperProfile, load_profile
from parity.suites.m2_bert import LAYER
from parity.suites.m2_bert_strata import MODEL

PROFILES: Final = ("canonical", "torch_like", "mlx_stable", "torch_avg")
LENGTHS: Final = (16, 128)
"""Full length and model size of a quick look, and the published length."""


def examine_layers(seed: int = 0) -> list[ModuleRow]:
    """Compare the layer under every built profile: one row for the context and one for the seam."""
    return [row for name in PROFILES for row in _rows(load_profile(name), seed)]


def _rows(profile: HyperProfile, seed: int) -> list[ModuleRow]:
    naive: list[Errors] = []
    lifted: list[Errors] = []
    seam: list[Errors] = []
    leaks: dict[str, None] = {}
    for length in LENGTHS:
        bench = Bench(LAYER, Case.make(LAYER.name, _structure(length), seed=seed), profile)
        truth = _reference(bench)
        naive.append(_port(bench, Ops(profile), truth))
        with float64_forms() as found:
            lifted.append(_port(bench, Ops(profile), truth))
        leaks |= dict.fromkeys(found.operations)
        seam.append(_port(bench, float64_ops(profile), truth))
    name, cases, plain = f"M2-BERT layer, {profile.name}", len(LENGTHS), _worst(naive)
    return [
        ModuleRow(name, cases, plain, _worst(lifted), tuple(leaks), bound="float64_layer"),
        ModuleRow(f"{name}, f64 rung", cases, plain, _worst(seam), (), bound="float64_layer"),
    ]


def _structure(length: int) -> dict[str, Any]:
    width = 24 if length < 100 else 64
    return {
        **MODEL,
        "L": length,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 1,
        "max_position_embeddings": length,
        "long_conv_l_max": length,
    }


Tensors = Mapping[str, Array]


def _reference(bench: Bench) -> tuple[Array, Tensors]:
    parameters, inputs = reference_gradients(bench.pair, bench.module, bench.inputs, RUNGS["f64"])
    return bench.truth[bench.truth.outputs[-1]].values, {**parameters, **inputs}


def _port(bench: Bench, ops: Ops, truth: tuple[Array, Tensors]) -> Errors:
    """Worst relative L2 error of the output, and of any single gradient."""
    rung = RUNGS["f64"]
    with mx.stream(mx.cpu):
        port = fill_port(bench.pair, bench.pair.port(bench.case.options, bench.profile, ops), rung, bench.state)
    outputs = run_port_outputs(bench.pair, port, bench.inputs, rung)
    output, gradients = truth
    distance = _relative(outputs[outputs.outputs[-1]].values, output)
    try:
        parameters, inputs = port_gradients(bench.pair, port, bench.inputs, rung)
    except ValueError:  # MLX has no gradient of a float64 convolution; the table says that it refuses
        return Errors(distance, None)
    found = {**parameters, **inputs}
    return Errors(distance, max(_relative(found[name], gradient) for name, gradient in gradients.items()))


def _relative(actual: Array, truth: Array) -> float:
    size = float(np.linalg.norm(truth))
    distance = float(np.linalg.norm(actual - truth))
    return distance / size if size > 0 else distance


def _worst(errors: list[Errors]) -> Errors:
    """Largest error of the outputs and of the gradients; None if any was refused."""
    gradients = [error.gradient for error in errors if error.gradient is not None]
    return Errors(
        max(error.output for error in errors if error.output is not None),
        max(gradients) if len(gradients) == len(errors) else None,
    )
