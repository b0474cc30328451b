"""Mutants: known mistakes of ports, and how many of them the harness catches."""

from parity.mutants.mutant import Kind, Mutant

__all__ = ["Kind", "Mutant"]
