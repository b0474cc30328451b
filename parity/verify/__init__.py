"""Verification of a checkpoint: both models run from one file, whole, a layer's weights in memory at a time."""

from parity.verify.passes import Answers, RungResult, Verification, verify
from parity.verify.stored import Agreement, Stored, read_stored

__all__ = ["Agreement", "Answers", "RungResult", "Stored", "Verification", "read_stored", "verify"]
