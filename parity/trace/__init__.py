"""Capture of named intermediates on either side, without touching the modules' source."""

from parity.trace.mlx_calls import record_mlx
from parity.trace.tensor import Trace, TracedTensor, call_name
from parity.trace.torch_hooks import record_torch

__all__ = ["Trace", "TracedTensor", "call_name", "record_mlx", "record_torch"]
