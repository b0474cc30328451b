"""Switches that must be set before a framework is imported, and what pytest prints about them."""

from __future__ import annotations

import os

os.environ["MLX_ENABLE_TF32"] = "0"
# A fault that is planted in this process is in no other.
os.environ["PARITY_JOBS"] = "1"

import hypothesis
import mlx.core as mx
import pytest
import torch

from parity.environment import warm_up

torch.set_num_threads(1)
mx.set_default_device(mx.cpu)
warm_up()

hypothesis.settings.register_profile("parity", derandomize=True, database=None, deadline=None, print_blob=True)
hypothesis.settings.load_profile("parity")


def pytest_report_header(config: pytest.Config) -> str:  # noqa: ARG001
    """Say which switches this run stands on."""
    return f"MLX_ENABLE_TF32={os.environ['MLX_ENABLE_TF32']}, torch threads {torch.get_num_threads()}"
