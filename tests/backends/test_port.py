"""Building a port leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from parity.backends.port import build_port
from parity.cases import corpus_cases
from parity.examine import Modules
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select


def waiting_operations(array: mx.array, folder: Path) -> int:
    """How many operations are yet to be computed before `array` is known."""
    file = folder / "graph.dot"
    mx.export_to_dot(str(file), array)
    return file.read_text().count('shape="rectangle"') + file.read_text().count("shape=rectangle")


def test_drawn_and_unused_weights_leave_no_chain_behind_the_random_state(tmp_path: Path) -> None:
    (pair,) = select(["monarch_mixer"])
    case = corpus_cases(pair, 0)[0]
    state = Modules(pair, case, CANONICAL).state
    build_port(pair, case.options, CANONICAL, RUNGS["f32"], state)
    assert waiting_operations(mx.random.state[0], tmp_path) == 0
    mx.random.normal((2,))
    assert waiting_operations(mx.random.state[0], tmp_path) > 0, "the count sees what is unevaluated"
    mx.eval(mx.random.state)
