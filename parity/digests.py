"""What the port gave, bit for bit, as short hashes over all cases: equal hashes of equal cases mean equal bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from parity.cases import Case
from parity.results import Digest
from parity.trace import Trace, TracedTensor

GRADIENTS: Final = "gradients"
"""Name of the one hash over all gradients: there are as many as parameters, and a baseline is read by people."""

DIGITS: Final = 8
"""Hexadecimal digits of a hash: two different outcomes agree with a probability of 2^-32."""


class RunningDigest:
    """Chained hashes of the cases and of every tensor of the port, for one profile at one rung."""

    def __init__(self) -> None:
        self.cases = ""
        self.tensors: dict[str, str] = {}

    def add(self, case: Case, names: Iterable[str], port: Mapping[str, TracedTensor] | None) -> None:
        """Add one case: the tensors called `names`, in their order; a tensor that is missing counts as such."""
        self.cases = _chained(self.cases, case.to_json().encode())
        held = port.everything if isinstance(port, Trace) else port or {}
        for name in names:
            found = held.get(name)
            self.tensors[name] = _chained(self.tensors.get(name, ""), _bytes(found))

    def resume(self, cases: str, tensors: Mapping[str, str]) -> None:
        """Take the hashes of an earlier process."""
        self.cases, self.tensors = cases, dict(tensors)

    def digest(self, component: str, profile: str, rung: str) -> Digest:
        """Return what was gathered."""
        return Digest(component, profile, rung, self.cases, dict(self.tensors))


def joined(values: Digest, gradients: Digest) -> Digest:
    """Return `values` with one hash of all gradients behind the tensors, and that of their cases behind the cases'."""
    every = "".join(f"{name}\n{tensor}\n" for name, tensor in gradients.tensors.items())
    return replace(
        values,
        cases=values.cases + gradients.cases,
        tensors={**values.tensors, GRADIENTS: _chained("", every.encode())},
    )


def _chained(before: str, content: bytes) -> str:
    return hashlib.sha256(before.encode("ascii") + b"\n" + content).hexdigest()[:DIGITS]


def _bytes(tensor: TracedTensor | None) -> bytes:
    if tensor is None:
        return b"none"
    head = f"{tensor.dtype} {tensor.values.shape}\n".encode()
    return head + np.ascontiguousarray(tensor.values, dtype="<f8").tobytes()
