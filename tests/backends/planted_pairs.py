"""Pairs of one torch module that do nothing but what a test needs."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from torch import nn

from parity.pairs import InputSpec, Pair


def pair_of(module: nn.Module, shape: tuple[int, ...] = (2, 4)) -> Pair:
    """A pair whose reference is `module`; it has no port."""

    def no_port(*arguments: Any) -> Any:
        raise AssertionError("these tests build no port")

    return Pair(
        name="planted",
        structures=st.just({}),
        keys=frozenset(),
        corpus=({},),
        inputs=lambda structure: {"x": InputSpec(shape)},
        reference=lambda structure, profile: module,
        port=no_port,
        call=lambda built, inputs: {"y": built(inputs["x"])},
        transfer=no_port,
        to_state=no_port,
        tap_name=str,
    )
