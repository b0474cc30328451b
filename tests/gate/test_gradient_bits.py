"""The gate's hashes hold gradients too: another derivative of the same values has other bits, and only there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
from small_nets import Port, pair_of, tanh_with

from parity.digests import GRADIENTS
from parity.results import Digest, Results
from parity.run import Plan, execute
from parity.spec.profile import CANONICAL

TANH_ROUNDED = tanh_with(lambda y: (1 - y) * (1 + y))


def digests(act: Callable[[Any], Any]) -> Mapping[str, Digest]:
    pair = pair_of(lambda n: Port(n, act))
    found = execute(Plan([pair], [CANONICAL], ("f64", "f32", "bf16"), "quick", 0), Results({"seed": 0}))
    assert found.verdict == "pass"
    return {digest.rung: digest for digest in found.digests}


def test_a_derivative_that_rounds_otherwise_has_other_bits_and_the_values_the_same() -> None:
    library, own = digests(mx.tanh), digests(TANH_ROUNDED)
    assert digests(mx.tanh) == library
    for rung in ("f64", "f32"):
        before, now = library[rung], own[rung]
        assert before.cases == now.cases
        assert [name for name in before.tensors if before.tensors[name] != now.tensors[name]] == [GRADIENTS]
    assert GRADIENTS not in library["bf16"].tensors
    assert library["bf16"] == own["bf16"]
