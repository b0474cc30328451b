"""Verification of a checkpoint: both models run from one file, whole, a layer's weights in memory at a time."""

from parity.verify.passes import Answers, RungResult, Verification, verify

__all__ = ["Answers", "RungResult", "Verification", "verify"]
