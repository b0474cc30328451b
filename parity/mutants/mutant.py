"""Mutant: a mistake that a porter could have made, put into the port while it is built and run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

Kind = Literal["arithmetic", "kernel", "wiring", "weights", "profile", "gradient", "dtype", "training", "special"]


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        name: Unique, lower case, words joined by hyphens: `gelu-tanh`.
        says: What was written instead, in one line.
        source: Where it comes from: a section of the specification, a known bug of a port, a habit of either framework.
        component: The pair against which it is run: the smallest that has the mistake in it.
        blamed: Globs of the module that must be blamed first, in the reference's names; "" is the pair's own output.
        kind: What kind of mistake.
        patch: Returns the context in which the port is the wrong one; it is entered before the port is built.
        equivalent: Why it computes the same, for mutants that must pass; empty for all others.
        unseen_at_f32: Why f32 alone, without f64, cannot see it; empty where it must.
    """

    name: str
    says: str
    source: str
    component: str
    blamed: tuple[str, ...]
    kind: Kind
    patch: Callable[[], AbstractContextManager[object]]
    equivalent: str = ""
    unseen_at_f32: str = ""
