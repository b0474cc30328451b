"""Mistakes put into the port of my_pairs.py, one at a time: see docs/mutants.md."""

from pathlib import Path
from unittest import mock

import gated_mlp_mlx as port
import mlx.core as mx
from mlx import nn

from parity.mutants import Mutant

PAIR = f"{Path(__file__).with_name('my_pairs.py')}::gated_mlp"


def gelu_for_silu(self, x):
    """Another activation."""
    n = self.norm(x)
    return x + self.down(nn.gelu(self.gate(n)) * self.up(n))


def residual_without_gradient(self, x):
    """The values are right."""
    n = self.norm(x)
    return mx.stop_gradient(x) + self.down(nn.silu(self.gate(n)) * self.up(n))


def nan_made_zero(self, x):
    """Right for every number."""
    n = self.norm(mx.where(mx.isnan(x), mx.zeros_like(x), x))
    return mx.where(mx.isnan(x), mx.zeros_like(x), x) + self.down(nn.silu(self.gate(n)) * self.up(n))


def factors_exchanged(self, x):
    """The same: products commute."""
    n = self.norm(x)
    return self.down(self.up(n) * nn.silu(self.gate(n))) + x


def called(function):
    """Return the patch that makes the port compute `function`."""
    return lambda: mock.patch.object(port.GatedMLP, "__call__", function)


MUTANTS = [
    Mutant("gelu-for-silu", "gelu for silu", "a habit", PAIR, ("down",), "arithmetic", called(gelu_for_silu)),
    Mutant(
        "residual-without-gradient",
        "no gradient through the residual",
        "a habit",
        PAIR,
        ("",),
        "gradient",
        called(residual_without_gradient),
        seen_by="gradients",
    ),
    Mutant("nan-made-zero", "NaN made 0", "a habit", PAIR, ("",), "special", called(nan_made_zero), seen_by="extremes"),
    Mutant(
        "factors-exchanged",
        "up times gate",
        "nobody",
        PAIR,
        (),
        "wiring",
        called(factors_exchanged),
        equivalent="products commute",
    ),
]
