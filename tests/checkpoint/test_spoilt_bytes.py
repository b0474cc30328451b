"""Good files with a few bytes changed, cut or repeated: read as what they still are, or refused, nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_pieces import small_file
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.checkpoint import read_checkpoint
from parity.checkpoint.generate import FORMS, Form
from parity.errors import ParityError

EDITS = ("flip", "zero", "fill", "cut", "repeat", "drop")


def spoil(data: bytes, kind: str, seed: int) -> bytes:
    """Change a good file somewhere; half of the time near its ends, where its structure is."""
    draw = np.random.Generator(np.random.Philox(seed))
    reach = int(draw.choice([64, 4096, len(data)]))
    place = int(draw.integers(min(reach, len(data))))
    place = place if draw.integers(2) else len(data) - 1 - place
    count = int(draw.integers(1, 9))
    before, piece, after = data[:place], data[place : place + count], data[place + count :]
    if kind == "flip":
        return before + bytes(byte ^ (1 << int(draw.integers(8))) for byte in piece) + after
    if kind in ("zero", "fill"):
        return before + (b"\0" if kind == "zero" else b"\xff") * len(piece) + after
    if kind == "cut":
        return before
    return before + piece + piece + after if kind == "repeat" else before + after


def files(path: Path) -> list[Path]:
    """The file that is spoilt: of shards the index, or one of them."""
    return sorted(path.parent.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_it_is_read_or_refused(form: Form, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = small_file(tmp_path_factory.mktemp(form), form)
    good = {one: one.read_bytes() for one in files(path)}
    read, refusals = [], []

    @given(kind=st.sampled_from(EDITS), seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=150)
    def spoilt(kind: str, seed: int) -> None:
        chosen = sorted(good)[seed % len(good)]
        chosen.write_bytes(spoil(good[chosen], kind, seed))
        try:
            with read_checkpoint(path) as checkpoint:
                list(checkpoint.disagreements())
                for tensor in checkpoint.tensors.values():
                    tensor.numpy()
            read.append(kind)
        except ParityError as error:
            refusals.append(str(error))
        finally:
            chosen.write_bytes(good[chosen])

    spoilt()
    assert min(len(read), len(refusals)) > 10
    assert [line for line in refusals if not line.isprintable()] == []
