"""Run the port of this bundle alone, with MLX and without torch.

    unzip BUNDLE.parity.zip -d bundle && python bundle/run_port.py

or, without unpacking, `PYTHONPATH=BUNDLE.parity.zip python -m run_port`. Needs the packages of mlx-parity.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from parity.replay.bundle import read_bundle
from parity.replay.sides import compare_side, show_side

BUNDLE = read_bundle(Path(__file__).parent)
os.environ.update(BUNDLE.switches)  # MLX reads MLX_ENABLE_TF32 when it is imported

from parity.backends.port import build_port, run_port
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS
from parity.suites import select
from parity.trace import Trace


def run(fresh: Callable[[], Mapping[str, Array]] | None = None) -> Trace:
    """Build the port, fill it with the parameters of the failure and run it at the rung of the failure.

    `fresh` is needed only for parameters that follow from the reference's constructor and are too large to be here.
    """
    (chosen,), rung = select([BUNDLE.record.component]), RUNGS[BUNDLE.record.rung]
    pair = replace(chosen, devices=BUNDLE.devices)
    module = build_port(pair, BUNDLE.case.options, BUNDLE.record.profile, rung, BUNDLE.state(pair, fresh) or {})
    return run_port(pair, module, BUNDLE.inputs(pair), rung)


if __name__ == "__main__":
    for line in show_side(compare_side(BUNDLE, "port", run())):
        print(line)
