"""Checkpoints of M2-BERT: what a file is, which model it is of, and its conversion between PyTorch and MLX.

No code of a file is ever run, and nothing is read before it is asked for:

    from parity.checkpoint import open_checkpoint

    with open_checkpoint(Path("model.pt"), {"hyena_w_mod": 1}) as checkpoint:
        checkpoint.head, checkpoint.config
        checkpoint.tensors["bert.embeddings.LayerNorm.weight"].numpy()
        checkpoint.layer(3)  # names inside the layer, tensors not yet read
"""

from __future__ import annotations

from parity.checkpoint.convert import Conversion, convert
from parity.checkpoint.extend import extend
from parity.checkpoint.generate import generate, generated_state
from parity.checkpoint.inference import Assumed, Inferred, infer
from parity.checkpoint.model import Checkpoint, SetAside, open_checkpoint, read_checkpoint, require_whole
from parity.checkpoint.public import PublicCheckpoint, nearest, public_called, public_checkpoints
from parity.checkpoint.tensors import LazyTensor

__all__ = [
    "Assumed",
    "Checkpoint",
    "Conversion",
    "Inferred",
    "LazyTensor",
    "PublicCheckpoint",
    "SetAside",
    "convert",
    "extend",
    "generate",
    "generated_state",
    "infer",
    "nearest",
    "open_checkpoint",
    "public_called",
    "public_checkpoints",
    "read_checkpoint",
    "require_whole",
]
