"""Mutants: known mistakes of ports, and how many of them the harness catches."""

from parity.mutants.mutant import Check, Kind, Mutant

__all__ = ["Check", "Kind", "Mutant"]
