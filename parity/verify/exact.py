"""A filled module in float64, for truth, without a second copy of its large tables.

Every float32 number is a float64 number, so a module that widens its weights as it needs them computes bit for bit what
one that holds them in float64 would, up to the order in which a product's columns are shared out. The word embeddings
of a published model take 190 MB in float64, of which a sequence looks at a few rows.
"""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import nn
from torch.nn import functional

LARGE: Final = 2**22
"""Numbers of a linear layer's weight beyond which it is widened some rows at a time."""

WIDENED: Final = 2**19
"""Numbers that are widened at a time: four megabytes, which the allocator finds again for the next."""


class ExactEmbedding(nn.Module):
    """weight[ids] in float64, the weight (v, d) held as it is; shapes: ids (...) to (..., d)."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name by which it is called
        """Look up ids (...), (..., d) in float64; the argument's name is that of `nn.Embedding`."""
        return functional.embedding(input, self.weight).double()


class ExactLinear(nn.Module):
    """x weight^T + bias in float64, weight (e, d) and bias (e,) held as they are; shapes: x (..., d) to (..., e)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias: torch.Tensor | None = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name by which it is called
        """Map (..., d) in float64 to (..., e), `WIDENED` numbers of the weight at a time; named as in `nn.Linear`."""
        outputs, features = self.weight.shape
        rows = min(outputs, max(1, WIDENED // features))
        # Both tensors are made once: small results between large temporaries would leave the heap in holes.
        found = torch.empty(*input.shape[:-1], outputs, dtype=torch.float64)
        wide = torch.empty(rows, features, dtype=torch.float64)
        for start in range(0, outputs, rows):
            stop = min(start + rows, outputs)
            part = wide[: stop - start]
            part.copy_(self.weight[start:stop])
            bias = None if self.bias is None else self.bias[start:stop].double()
            found[..., start:stop] = functional.linear(input, part, bias)
        return found


class ExactCopy:
    """A module that is empty now, copied; given the module again once it is filled, the copy computes in float64.

    Args:
        module: On torch's meta device, so that copying it takes no memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self._copy = copy.deepcopy(module)

    def filled(self, module: nn.Module) -> nn.Module:
        """Return the copy with the numbers of `module`, in float64 or widened where they are used."""
        for name, one in list(self._copy.named_modules()):
            own = module.get_submodule(name)
            parent, _, leaf = name.rpartition(".")
            if name and isinstance(own, nn.Embedding):
                self._copy.get_submodule(parent)._modules[leaf] = ExactEmbedding(own)
            elif name and isinstance(own, nn.Linear) and own.weight.numel() > LARGE:
                self._copy.get_submodule(parent)._modules[leaf] = ExactLinear(own)
            else:
                _widen(own, one)
        return self._copy


def _widen(module: nn.Module, exact: nn.Module) -> None:
    """Give the copy of a module, its children not counted, the module's own numbers in float64."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            exact._parameters[name] = nn.Parameter(parameter.double(), requires_grad=False)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            exact._buffers[name] = buffer.double() if buffer.is_floating_point() else buffer
