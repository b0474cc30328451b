"""Building a port leaves nothing behind."""

from __future__ import annotations

import mlx.core as mx

from parity.backends.port import build_port
from parity.cases import corpus_cases
from parity.examine import Modules
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select


def test_what_a_port_draws_does_not_depend_on_what_was_built_before() -> None:
    """Nor does the random state keep a chain of all that was ever drawn and never looked at."""
    (pair,) = select(["monarch_mixer"])
    case = corpus_cases(pair, 0)[0]
    state = Modules(pair, case, CANONICAL).state
    after = []
    for _ in range(2):
        build_port(pair, case.options, CANONICAL, RUNGS["f32"], state)
        after.append(mx.random.state[0].tolist())
    assert after[0] == after[1]
