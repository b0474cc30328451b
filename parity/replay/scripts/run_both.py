"""Run reference and port of this bundle and compare both with the truth, which is run again too.

    unzip BUNDLE.parity.zip -d bundle && python bundle/run_both.py

or, without unpacking, `PYTHONPATH=BUNDLE.parity.zip python -m run_both`. Needs the packages of mlx-parity.
`parity replay BUNDLE.parity.zip` does this and judges the result besides.
"""

import run_port  # first: it sets the switches, and MLX reads them when it is imported
import run_reference

from parity.metrics import measure
from parity.replay.bundle import SIDES
from parity.replay.sides import compare_side, show_side
from parity.spec.precision import BY_DTYPE

if __name__ == "__main__":
    bundle = run_port.BUNDLE
    truth, reference, port = (
        run_reference.run("f64"),
        run_reference.run(bundle.record.rung),
        run_port.run(run_reference.fresh),
    )
    for side, trace in zip(SIDES, (truth, reference, port), strict=True):
        for line in show_side(compare_side(bundle, side, trace)):
            print(line)
    for name in (tensor.name for tensor in bundle.record.tensors if tensor.name in truth and tensor.name in port):
        if truth[name].values.shape == port[name].values.shape:
            held = BY_DTYPE[port[name].dtype]
            errors = [measure(side[name].values, truth[name].values, held).rel_l2 for side in (reference, port)]
            print(f"{name}: rel L2 against the truth of now: reference {errors[0]:.9g}, port {errors[1]:.9g}")
