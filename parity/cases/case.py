"""A case: everything that is needed to make its arrays again, in one line of JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parity.cases.families import FAMILIES
from parity.errors import CaseError
from parity.spec.precision import RUNGS, RungName

FULL_LADDER: Final[tuple[RungName, ...]] = ("f64", "f32", "bf16", "f16")
FINE_LADDER: Final[tuple[RungName, ...]] = ("f64", "f32")


@dataclass(frozen=True)
class Case:
    """One question put to a pair.

    Args:
        component: Name of the pair.
        structure: Sizes and switches, as sorted (name, value) items so that cases compare and hash.
        family: Shape of the inputs, a name of `FAMILIES`.
        scale: Power of two by which float inputs are multiplied.
        seed: Seed of every array.
        ladder: Rungs on which the case runs; its arrays are exact on every one of them.
    """

    component: str
    structure: tuple[tuple[str, Any], ...]
    family: str
    scale: int
    seed: int
    ladder: tuple[RungName, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The structure as a dictionary."""
        return dict(self.structure)

    def to_json(self) -> str:
        """Return the case without its component as one line of JSON with sorted keys."""
        data = {
            **self.options,
            "family": self.family,
            "scale": self.scale,
            "seed": self.seed,
            "ladder": ",".join(self.ladder),
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def make(
        cls,
        component: str,
        structure: Mapping[str, Any],
        family: str = "normal",
        scale: int = 0,
        seed: int = 0,
        ladder: tuple[RungName, ...] = FULL_LADDER,
    ) -> Case:
        """Build a case from a structure given as a mapping."""
        return cls(component, tuple(sorted(structure.items())), family, scale, seed, ladder)

    @classmethod
    def from_json(cls, component: str, text: str) -> Case:
        """Read what `to_json` wrote.

        Raises:
            CaseError: Not JSON, or a field is missing or out of range.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise CaseError(f"case is not JSON: {error.msg} at column {error.colno}; got {text[:80]!r}") from None
        except (RecursionError, ValueError):
            raise CaseError(f"case is not JSON that can be read: too deep or too long; got {text[:80]!r}") from None
        fields = ("family", "scale", "seed", "ladder")
        if not isinstance(data, dict) or any(name not in data for name in fields):
            raise CaseError(f"a case is one JSON object with {', '.join(fields)} and the sizes; got {text[:80]!r}")
        family, scale, seed, ladder = (data.pop(name) for name in fields)
        rungs = tuple(str(ladder).split(","))
        if not isinstance(family, str) or family not in FAMILIES:
            raise CaseError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")
        if not all(rung in RUNGS for rung in rungs):
            raise CaseError(f"unknown ladder {ladder!r}; allowed: rungs {', '.join(RUNGS)} joined by commas")
        if type(scale) is not int or type(seed) is not int or not 0 <= seed < 2**63:
            raise CaseError(
                f"scale and seed must be integers, seed not negative and below 2**63; got {scale!r} and {seed!r}"
            )
        nested = [name for name, value in data.items() if not isinstance(value, int | float | str)]
        if nested:
            raise CaseError(f"sizes and switches must be plain values; got {nested[0]} = {data[nested[0]]!r}")
        return cls.make(component, data, family, scale, seed, rungs)  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """Order of magnitude: the sum of its sizes."""
        return sum(value for value in self.options.values() if type(value) is int)

    def command(self, profile: str, rung: str, target: str = "") -> str:
        """Return the one command that runs this case again; `target` spells the component where its name does not."""
        words = [
            "parity",
            "run",
            target or self.component,
            "--profile",
            profile,
            "--rung",
            rung,
            "--case",
            self.to_json(),
        ]
        return shlex.join(words)
