"""Mutant: a mistake that a porter could have made, put into the port while it is built and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from parity.spec.profile import CANONICAL, HyperProfile

Kind = Literal["arithmetic", "kernel", "wiring", "weights", "profile", "gradient", "dtype", "training", "special"]
Check = Literal["run", "gradients", "extremes"]


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
        knobs: Knobs of the profile under which it runs that are not the canonical ones; an ignored knob needs them.
        seen_by: The suite that must see it: the forward pass or the gradients of `parity run`, or `parity extremes`.
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
    knobs: Mapping[str, Any] = field(default_factory=dict)
    seen_by: Check = "run"

    @property
    def profile(self) -> HyperProfile:
        """The profile under which it runs: the canonical one, or that with its knobs changed, by the mutant's name."""
        return CANONICAL.replace(name=self.name, **self.knobs) if self.knobs else CANONICAL
