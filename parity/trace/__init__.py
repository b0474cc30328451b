"""Capture of named intermediates on either side, without touching the modules' source.

The recorders are imported from their own files, `mlx_calls` and `torch_hooks`: each of them needs its framework alone.
"""

from parity.trace.tensor import Trace, TracedTensor, call_name, kind_of, same_bits

__all__ = ["Trace", "TracedTensor", "call_name", "kind_of", "same_bits"]
