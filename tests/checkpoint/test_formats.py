"""Every format is read as its own library reads it, and what is written here its own library reads."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoint_pieces import FILE_NAMES, TINY, TINY_CHECKPOINT, bare, contents, small_file
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from parity.checkpoint import convert, generated_state, open_checkpoint
from parity.checkpoint.dtypes import BY_TORCH, DTYPES
from parity.checkpoint.generate import FORMS, Form
from parity.checkpoint.layout import MASKED_LM, WORDS
from parity.checkpoint.opening import open_file
from parity.errors import CheckpointError

KINDS = ("F32", "BF16", "F16", "F64")


def same_bits(mine: bytes, tensor: torch.Tensor) -> bool:
    return mine == tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("form", ["composer", "plain", "legacy"])
def test_torch_reads_what_is_written(form: Form, dtype: str, tmp_path: Path) -> None:
    path = small_file(tmp_path, form, dtype=dtype)
    found = torch.load(path, weights_only=True)
    found = found["state"]["model"] if form == "composer" else found
    mine = contents(path)
    assert found.keys() == mine.keys()
    for name, tensor in found.items():
        kind, shape, data = mine[name]
        assert (kind.torch, shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        assert same_bits(data, tensor)
    prefix = "model." if form == "composer" else ""
    words, decoder = found[f"{prefix}{WORDS}"], found[f"{prefix}cls.predictions.decoder.weight"]
    assert words.data_ptr() == decoder.data_ptr()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", sorted({one for one in BY_TORCH if not one.startswith("float8")}))
def test_what_torch_writes_is_read(kind: str, legacy: bool, tmp_path: Path) -> None:
    dtype = getattr(torch, kind)
    whole = torch.arange(24).reshape(2, 3, 4).to(dtype)
    state = {
        "whole": whole,
        "transposed": whole.transpose(0, 2),
        "slice": whole[1, :, 1::2],
        "scalar": whole[1, 2, 3],
        "none": whole[:0],
        "parameter": torch.nn.Parameter(whole.clone(), requires_grad=False),
    }
    torch.save(state, tmp_path / "state.pt", _use_new_zipfile_serialization=not legacy)
    mine = contents(tmp_path / "state.pt")
    assert mine.keys() == state.keys()
    for name, tensor in state.items():
        assert mine[name][:2] == (BY_TORCH[kind], tuple(tensor.shape))
        assert same_bits(mine[name][2], tensor), name


def test_float8_of_torch_is_read(tmp_path: Path) -> None:
    for kind in ("float8_e4m3fn", "float8_e5m2"):
        state = {"a": torch.arange(8.0).to(getattr(torch, kind))}
        torch.save(state, tmp_path / "state.pt")
        ((dtype, shape, data),) = contents(tmp_path / "state.pt").values()
        assert (dtype.torch, shape) == (kind, (8,))
        assert same_bits(data, state["a"])


def test_a_module_with_its_metadata_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "state.pt")
    assert contents(tmp_path / "state.pt").keys() == module.state_dict().keys()
    torch.save({"epoch": 3, "state_dict": module.state_dict(), "optimizer": {0: [1, 2]}}, tmp_path / "wrapped.pt")
    assert contents(tmp_path / "wrapped.pt").keys() == module.state_dict().keys()
    assert "wrapped in state_dict" in open_file(tmp_path / "wrapped.pt").form


def test_an_optimiser_a_random_state_and_a_clock_do_not_hinder(tmp_path: Path) -> None:
    import datetime
    import random

    model = torch.load(TINY_CHECKPOINT, weights_only=True)["state"]["model"]
    state = {
        "model": model,
        "optimizers": {"Adam": {"state": {name: {"exp_avg": one} for name, one in model.items()}}},
        "timestamp": {"now": datetime.timedelta(seconds=3)},
        "callbacks": [Path("somewhere"), {1, 2}, frozenset({3}), np.float64(3.0)],
    }
    rng = [{"python": random.getstate(), "numpy": np.random.MT19937(0).state, "torch": torch.get_rng_state()}]
    torch.save({"state": state, "rng": rng}, tmp_path / "full.pt")
    assert contents(tmp_path / "full.pt") == contents(TINY_CHECKPOINT)


@pytest.mark.parametrize("dtype", KINDS)
def test_safetensors_either_way(dtype: str, tmp_path: Path) -> None:
    path = small_file(tmp_path, "safetensors", dtype=dtype)
    theirs = load_file(path)
    mine = contents(path)
    assert theirs.keys() == mine.keys()
    assert all(same_bits(mine[name][2], tensor) for name, tensor in theirs.items())
    save_file(theirs, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert contents(tmp_path / "theirs.safetensors") == mine


@pytest.mark.parametrize("dtype", KINDS)
def test_npz_either_way(dtype: str, tmp_path: Path) -> None:
    path = small_file(tmp_path, "npz", dtype=dtype)
    mine = contents(path)
    with np.load(path, allow_pickle=False) as theirs:
        assert set(theirs.files) == mine.keys()
        assert all(theirs[name].tobytes() == mine[name][2] for name in mine)
    if dtype != "F64":
        loaded = mx.load(str(path))
        assert loaded[WORDS].dtype == {"F32": mx.float32, "BF16": mx.bfloat16, "F16": mx.float16}[dtype]
        mx.savez(str(tmp_path / "theirs.npz"), **loaded)
        assert contents(tmp_path / "theirs.npz") == mine
    np.savez(tmp_path / "fortran.npz", a=np.asfortranarray(np.arange(12.0).reshape(3, 4)))
    assert contents(tmp_path / "fortran.npz")["a"][2] == np.arange(12.0).tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_format_holds_the_same_numbers(form: Form, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    plain = contents(small_file(tmp_path / "other", "plain"))
    found = contents(small_file(tmp_path, form))
    assert bare(found) == plain


def test_a_format_is_known_by_its_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    path = small_file(tmp_path, "safetensors")
    path.rename(tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.file.form == "safetensors"


@pytest.mark.parametrize("low", [0x50, 0x7B, 0x80])
def test_a_header_whose_length_begins_like_another_format_is_a_header(low: int, tmp_path: Path) -> None:
    # 'P' of a ZIP archive, '{' of an index, the first byte of a pickle.
    text = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    text += b" " * (low - len(text))
    (tmp_path / "model").write_bytes(len(text).to_bytes(8, "little") + text + b"xy")
    assert contents(tmp_path / "model")["a"][2] == b"xy"


@pytest.mark.parametrize("form", ["safetensors", "composer"])
def test_shards_of_either_kind(form: Form, tmp_path: Path) -> None:
    import json

    whole = contents(small_file(tmp_path, "plain"))
    state = torch.load(tmp_path / FILE_NAMES["plain"], weights_only=True)
    names = sorted(state)
    places = {name: f"part-{number % 2}.bin" for number, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: state[name].clone() for name in names if places[name] == shard}
        if form == "safetensors":
            save_file(part, tmp_path / shard)
        else:
            torch.save(part, tmp_path / shard)
    (tmp_path / "index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    assert contents(tmp_path / "index.json") == whole


def test_shards_in_a_cache_of_links_are_found(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    small_file(blobs, "shards")
    for number, path in enumerate(sorted(blobs.iterdir())):
        path.rename(blobs / f"{number:040}")
        (snapshot / path.name).symlink_to(Path(os.path.relpath(blobs, snapshot)) / f"{number:040}")
    with open_checkpoint(snapshot / FILE_NAMES["shards"]) as checkpoint:
        assert checkpoint.accounted == 130


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    state = torch.load(small_file(tmp_path, "plain"), weights_only=True)
    state["flashfft.twiddles"] = torch.zeros(24, dtype=torch.complex128)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="complex128, for which safetensors has no name"):
        convert(tmp_path / "odd.pt", tmp_path / "out.safetensors", keep_constants=True)
    assert not list(tmp_path.glob("out*"))


def test_a_kind_that_no_model_computes_with_is_a_problem(tmp_path: Path) -> None:
    state = torch.load(small_file(tmp_path, "plain"), weights_only=True)
    state["bert.embeddings.LayerNorm.bias"] = torch.zeros(24, dtype=torch.complex128)
    torch.save(state, tmp_path / "complex.pt")
    with pytest.raises(CheckpointError, match=r"LayerNorm\.bias is C128; a model computes with F64, F32, BF16, F16"):
        convert(tmp_path / "complex.pt", tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_no_crash(tmp_path: Path) -> None:
    with open_checkpoint(small_file(tmp_path, "safetensors")) as checkpoint:
        last = max(checkpoint.tensors.values(), key=lambda tensor: tensor.offset)
        os.truncate(checkpoint.file.path, 2**14)
        with pytest.raises(CheckpointError, match="truncated"):
            last.numpy()


def test_tensors_are_values_of_their_own_kind(tmp_path: Path) -> None:
    for dtype in KINDS:
        with open_checkpoint(small_file(tmp_path, "legacy", dtype=dtype)) as checkpoint:
            values = checkpoint.tensors[WORDS].numpy()
            assert values.dtype == DTYPES[dtype].values
            assert values.flags.writeable
            assert values.shape == (TINY.vocab_size, TINY.hidden_size)
            assert checkpoint.layer(1)["mlp.wo.bias"].numpy().shape == (TINY.hidden_size,)


def test_the_same_seed_gives_the_same_file_and_another_another(tmp_path: Path) -> None:
    first, again, other = (generated_state(MASKED_LM, TINY, seed) for seed in (1, 1, 2))
    assert [b"".join(first[name].chunks()) for name in first] == [b"".join(again[name].chunks()) for name in again]
    assert b"".join(first[WORDS].chunks()) != b"".join(other[WORDS].chunks())
    path = small_file(tmp_path, "safetensors")
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
