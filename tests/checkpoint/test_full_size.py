"""The seven public checkpoints at full size: the numbers are holes of the files, names, shapes and lengths are real."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_pieces import hollow_composer, hollow_safetensors
from harness_pieces import invoke
from test_layout_of_models import EVERY_PUBLIC

from parity.checkpoint import nearest, public_checkpoints, read_checkpoint
from parity.checkpoint.generate import generated_state
from parity.checkpoint.layout import MASKED_LM, Shape, state_ties
from parity.checkpoint.public import PublicCheckpoint

WITH_CONSTANTS = 1066
"""Tensors reported of the 32k retrieval checkpoint, constants included."""


def full_shapes(public: PublicCheckpoint, constants: bool) -> dict[str, Shape]:
    state = generated_state(public.head, public.config, 0, constants=constants)
    return {name: tensor.shape for name, tensor in state.items()}


@pytest.mark.parametrize("form", ["composer", "large composer", "safetensors"])
@EVERY_PUBLIC
def test_all_of_it_is_accounted_for(name: str, form: str, tmp_path: Path) -> None:
    public = public_checkpoints()[name]
    retrieval = public.head != MASKED_LM
    path = tmp_path / "model"
    shapes = full_shapes(public, constants=retrieval)
    if form == "safetensors":
        hollow_safetensors(path, shapes)
    else:
        hollow_composer(path, shapes, state_ties(public.head, public.config), wide=form == "large composer")
    with read_checkpoint(path) as checkpoint:
        assert [*checkpoint.problems, *checkpoint.disagreements()] == []
        assert checkpoint.head == public.head
        assert checkpoint.config == public.config
        assert nearest(checkpoint.inferred) == (public, [])
        assert len(checkpoint.file.tensors) == checkpoint.accounted == (WITH_CONSTANTS if retrieval else 720)
        assert len(checkpoint.set_aside) == (1 + 12 * 29 if retrieval else 1)
        assert len(checkpoint.aliases) == (120 if retrieval else 121)
        assert len(checkpoint.stored) == (597 if retrieval else 598)
        assert checkpoint.filled == ()
        assert sum(one.size for one in checkpoint.stored.values()) < path.stat().st_size


@EVERY_PUBLIC
def test_the_command_says_so(name: str, tmp_path: Path) -> None:
    public = public_checkpoints()[name]
    path = tmp_path / "model.pt"
    hollow_composer(path, public.shapes, state_ties(public.head, public.config))
    outcome = invoke("checkpoint", "inspect", str(path))
    assert outcome.status == 0, outcome.stdout
    total = 720 if public.head == MASKED_LM else 718
    assert f"nearest public checkpoint: {name}, the same in every name and shape" in outcome.stdout
    assert f"accounted for: {total} of {total} tensors: {total - 122 + (total == 718)} used, " in outcome.stdout
    assert outcome.stdout.endswith("OK: a whole model\n")
