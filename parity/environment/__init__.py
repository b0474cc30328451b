"""What this machine, its libraries and its switches can do to the bits: fingerprint, measured bits, warm-up.

Beside `parity.backends` this is the only package that may import both frameworks. Importing it changes
nothing: no environment variable, no thread count and no precision switch is set here, all are only reported.
"""

from parity.environment.devices import product_findings, require_devices
from parity.environment.fingerprint import Environment, collect
from parity.environment.frameworks import Framework, mlx_framework, torch_framework
from parity.environment.probe import ProbeRow, measure_bits
from parity.environment.problems import OPERATIONS, Problem, pose
from parity.environment.render import to_json, to_table
from parity.environment.warmup import warm_up

__all__ = [
    "OPERATIONS",
    "Environment",
    "Framework",
    "ProbeRow",
    "Problem",
    "collect",
    "measure_bits",
    "mlx_framework",
    "pose",
    "product_findings",
    "require_devices",
    "to_json",
    "to_table",
    "torch_framework",
    "warm_up",
]
