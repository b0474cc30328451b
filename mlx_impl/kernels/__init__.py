"""Kernels by name: the alternatives among which a profile chooses."""
