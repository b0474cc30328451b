"""Run the reference of this bundle alone, with torch and without MLX.

    unzip BUNDLE.parity.zip -d bundle && python bundle/run_reference.py

or, without unpacking, `PYTHONPATH=BUNDLE.parity.zip python -m run_reference`. Needs the packages of mlx-parity.
"""

import os
from dataclasses import replace
from pathlib import Path

from parity.replay.bundle import read_bundle
from parity.replay.sides import compare_side, show_side

BUNDLE = read_bundle(Path(__file__).parent)
os.environ.update(BUNDLE.switches)  # read by libraries when they are loaded

import torch

from parity.backends.reference import (
    at_rung,
    build_reference,
    fresh_parameters,
    load_reference,
    on_device,
    run_reference,
)
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS, RungName
from parity.suites import select
from parity.trace import Trace


def fresh() -> dict[str, Array]:
    """Return what the reference's constructor makes, for parameters that are too large to be in the bundle."""
    (pair,) = select([BUNDLE.record.component])
    return fresh_parameters(build_reference(pair, BUNDLE.case.options, BUNDLE.record.profile))


def run(rung: RungName) -> Trace:
    """Build the reference, fill it with the parameters of the failure and run it; at `f64` that is the truth."""
    torch.set_num_threads(1)
    (chosen,), sizes, profile = select([BUNDLE.record.component]), BUNDLE.case.options, BUNDLE.record.profile
    pair = replace(chosen, devices=BUNDLE.devices)
    state = BUNDLE.state(pair, fresh)
    if state is None:  # the question is what the constructor itself computes
        module = build_reference(pair, sizes, profile, RUNGS[rung].dtype)
    else:
        module = at_rung(load_reference(build_reference(pair, sizes, profile), state), RUNGS[rung])
    module = on_device(pair, module, RUNGS[rung])
    return run_reference(pair, module, BUNDLE.inputs(pair), RUNGS[rung])


if __name__ == "__main__":
    for line in show_side(compare_side(BUNDLE, "truth", run("f64"))):
        print(line)
    for line in show_side(compare_side(BUNDLE, "reference", run(BUNDLE.record.rung))):
        print(line)
