"""Attribution of one module within a model: which known meaning it computes, from the reference's own inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from parity.attribution.alternative import Alternative
from parity.attribution.constants import number
from parity.attribution.evidence import alternative_module, applicable
from parity.examine import Bench
from parity.spec.arrays import Array


class LocalAttribution:
    """Names the alternative that a module of a wrong port computes.

    With T what the reference makes of its inputs, T_m what it makes of them under alternative m, and y what the port
    does: beta = <y - T, T_m - T> / |T_m - T|^2, and m is named if beta is within the gate around 1 and T_m leaves no
    more than a hundredth of the squared residual. No rounding is weighed: this is for f64.

    Args:
        bench: The case, and the reference with its parameters.
        alternatives: The library.
    """

    def __init__(self, bench: Bench, alternatives: Sequence[Alternative]) -> None:
        self._bench = bench
        self._alternatives = applicable(alternatives, bench.pair, bench.profile)

    def __call__(self, module: str, run: Callable[[torch.nn.Module], Array], truth: Array, made: Array) -> str:
        """Return `behaves as if: NAME (beta), MEANING`, empty if no alternative explains the residual.

        Args:
            module: Name of the reference's module.
            run: What a module makes of the reference's inputs.
            truth: What the reference's own did.
            made: What the port's did.
        """
        residual = made - truth
        size = float(np.linalg.norm(residual))
        best, words = 1 - number("share"), ""
        for alternative in self._alternatives:
            signature = self._signature(alternative, module, run, truth)
            square = float(np.vdot(signature, signature))
            if not 0 < square < float("inf"):
                continue
            beta = float(np.vdot(signature, residual)) / square
            left = (float(np.linalg.norm(residual - signature)) / size) ** 2
            if left < best and abs(beta - 1) <= number("beta"):
                best, words = left, f"behaves as if: {alternative.name} (beta {beta:.4f}), {alternative.says}"
        return words

    def _signature(
        self, alternative: Alternative, module: str, run: Callable[[torch.nn.Module], Array], truth: Array
    ) -> Array:
        with alternative_module(self._bench, alternative) as model:
            part = dict(model.named_modules()).get(module)
            if part is None:
                return np.zeros_like(truth)
            made = run(part)
        return made - truth if made.shape == truth.shape else np.zeros_like(truth)
