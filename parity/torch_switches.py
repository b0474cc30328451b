"""Switches of torch that decide in which precision it multiplies, set for a while and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def ieee_products(device: str) -> Iterator[None]:
    """Have torch multiply float32 in float32 on `device` while the context lasts; only on CUDA may it do otherwise.

    What a profile says of `matmul_precision` is about the port: the reference is exact to its rung under every profile.
    """
    if device != "cuda":
        yield
        return
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed
