"""A port that is wrong as ports are: the norm's epsilon is that of another model."""

import gated_mlp_mlx as port
import gated_mlp_torch as reference

from parity import Pair

WRONG = Pair(
    "wrong_epsilon",
    reference=lambda c: reference.GatedMLP(c["dim"], c["hidden"]),
    port=lambda c: port.GatedMLP(c["dim"], c["hidden"], eps=1e-6),
    configurations=[{"dim": 8, "hidden": 24, "length": 5}],
    inputs=lambda c: {"x": (2, c["length"], c["dim"])},
)
