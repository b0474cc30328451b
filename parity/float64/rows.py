"""One line of the table of modules: the same layer of torch.nn and mlx.nn, with the same weights, in float64."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from parity.tolerance import CONSTANTS


@dataclass(frozen=True)
class Errors:
    """Relative L2 errors from torch's float64; None for what MLX refuses to compute.

    Attributes:
        output: Of the outputs.
        gradient: Of the gradients of all inputs and parameters, as one vector.
    """

    output: float | None
    gradient: float | None


@dataclass(frozen=True)
class ModuleRow:
    """The largest errors of one module over its cases.

    Attributes:
        module: Its name, and how it is set.
        cases: How many shapes, weights and inputs were drawn.
        naive: Errors as MLX computes float64.
        lifted: Errors inside the context.
        leaks: Precision leaks met inside the context.
        refusal: Why MLX itself refuses, else ''.
        bound: Name of the constant of `parity.tolerance` within which it must be.
    """

    module: str
    cases: int
    naive: Errors
    lifted: Errors
    leaks: tuple[str, ...]
    refusal: str = ""
    bound: str = "float64_module"

    @property
    def passed(self) -> bool:
        """Whether outputs and gradients inside the context are within the table's bound, and nothing leaked."""
        bound = CONSTANTS[self.bound].value
        errors = (self.lifted.output, self.lifted.gradient)
        return not self.leaks and all(error is not None and error <= bound for error in errors)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the judgement as JSON knows them."""
        return {**asdict(self), "leaks": list(self.leaks), "passed": self.passed}
