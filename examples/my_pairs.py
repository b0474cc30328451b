"""Two models of PyTorch and their ports to MLX under test, and a port that is wrong: see docs/pairs.md."""

import gated_mlp_mlx as port
import gated_mlp_torch as reference
import hypothesis.strategies as st

from parity import Pair

GATED_MLP = Pair(
    "gated_mlp",
    reference=lambda c: reference.GatedMLP(c["dim"], c["hidden"]),
    port=lambda c: port.GatedMLP(c["dim"], c["hidden"]),
    configurations=[{"dim": 8, "hidden": 24, "length": 5}, {"dim": 13, "hidden": 13, "length": 1}],
    inputs=lambda c: {"x": (2, c["length"], c["dim"])},
)

SHORT_MIXER = Pair(
    "short_mixer",
    reference=lambda c: reference.ShortMixer(c["dim"], 2 * c["dim"], c["taps"]),
    port=lambda c: port.ShortMixer(c["dim"], 2 * c["dim"], c["taps"]),
    configurations=st.fixed_dictionaries({"dim": st.integers(3, 12), "taps": st.integers(1, 4)}),
    inputs=lambda c: {"x": (2, 7, c["dim"])},
    renames={r"^mlp\.": "feed_forward."},
)
