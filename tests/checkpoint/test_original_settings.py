"""Files as the original's trainer would save them under other settings: every switch, odd sizes, what lies beside.

The models are the reference's own, so that names and shapes are not those of the table which inference reads.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from checkpoint_pieces import TINY
from harness_pieces import invoke

import reference_torch
from parity.checkpoint import convert, open_checkpoint
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM, Head
from parity.spec.config import ModelConfig

SWITCHES: Final = (
    "bidirectional",
    "residual_long_conv",
    "hyena_training_additions",
    "use_glu_mlp",
    "use_monarch_mlp",
    "use_positional_encodings",
)
SIZES: Final[tuple[dict[str, int], ...]] = (
    {"hidden_size": 24, "intermediate_size": 96, "monarch_mlp_nblocks": 4},
    {"hidden_size": 7, "intermediate_size": 5, "monarch_mlp_nblocks": 3},
    {"hidden_size": 20, "intermediate_size": 80, "monarch_mlp_nblocks": 1},
    {"hidden_size": 13, "intermediate_size": 52, "monarch_mlp_nblocks": 8},
    {"hidden_size": 26, "intermediate_size": 50, "monarch_mlp_nblocks": 4},
)
HEADS: Final[tuple[tuple[Head, dict[str, Any]], ...]] = (
    (MASKED_LM, {}),
    (CLASSIFICATION, {}),
    (CLASSIFICATION, {"attention_pooling": True, "num_labels": 1}),
)
ALL: Final = [dict(zip(SWITCHES, values, strict=True)) for values in itertools.product([False, True], repeat=6)]
UNREAD: Final = {"intermediate_size": "blocks are padded", "monarch_mlp_nblocks": "there are no blocks"}
"""What some combinations do not show, and the beginning of what `inspect` says of it."""


def model_of(head: Head, config: ModelConfig) -> torch.nn.Module:
    """A model of random weights, none of which is zero or one."""
    generator = torch.Generator().manual_seed(config.hidden_size)
    model: torch.nn.Module = getattr(reference_torch, head)(config).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if not name.endswith((".z", ".freq")):
                values.copy_(torch.randn(values.shape, generator=generator) / values.shape[-1] ** 0.5)
    return model


def saved(path: Path, state: Mapping[str, torch.Tensor], **options: Any) -> Path:
    torch.save({"state": {"model": {f"model.{name}": values for name, values in state.items()}}}, path, **options)
    return path


@pytest.mark.parametrize("number", range(len(ALL)))
def test_every_combination_of_switches_is_inferred_and_converted_bit_for_bit(number: int, tmp_path: Path) -> None:
    for (head, extra), size in zip(HEADS, (SIZES[(number + shift) % len(SIZES)] for shift in range(3)), strict=True):
        config = ModelConfig.model_validate({**TINY.model_dump(), **ALL[number], **size, **extra})
        state = model_of(head, config).state_dict()
        path = saved(tmp_path / "epoch.pt", state)
        with open_checkpoint(path) as checkpoint:
            assumed = {it.key: it.reason for it in checkpoint.inferred.assumed}
            found, wanted = checkpoint.config.model_dump(), config.model_dump()
        unread = {key for key in found if found[key] != wanted[key]}
        assert all(assumed[key].startswith(UNREAD[key]) for key in unread)
        assert "intermediate_size" not in unread or size["hidden_size"] in (7, 26)
        out = tmp_path / ("model.npz" if number % 2 else "model.safetensors")
        said = {key: wanted[key] for key in unread}
        convert(path, out, overrides=said, force=True)
        with open_checkpoint(out) as converted:
            assert converted.config == config
        convert(out, tmp_path / "back.pt", force=True)
        back = torch.load(tmp_path / "back.pt", weights_only=True)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], values) for name, values in state.items())


COVERING: Final = (0b000000, 0b111111, 0b010101, 0b101010, 0b001011, 0b110100, 0b100110, 0b011001)
"""Numbers of combinations in which every pair of switches has each of its four values."""


def test_the_covering_combinations_cover_all_pairs() -> None:
    chosen = [ALL[number] for number in COVERING]
    for one, other in itertools.combinations(SWITCHES, 2):
        assert len({(it[one], it[other]) for it in chosen}) == 4


@pytest.mark.parametrize("number", COVERING)
def test_a_covering_set_is_verified_against_logits_of_the_reference(number: int, tmp_path: Path) -> None:
    head, extra = HEADS[number % 3]
    config = ModelConfig.model_validate({**TINY.model_dump(), **ALL[number], **SIZES[number % 4], **extra})
    path, golden = with_logits(tmp_path, head, config)
    outcome = invoke("checkpoint", "verify", str(path), "--golden", str(golden))
    assert outcome.status == 0, outcome.stdout


def with_logits(folder: Path, head: Head, config: ModelConfig) -> tuple[Path, Path]:
    """Save a model, and its answers in float64 to a few ids."""
    model = model_of(head, config)
    path, golden = saved(folder / "epoch.pt", model.state_dict()), folder / "logits.npz"
    rng = np.random.Generator(np.random.Philox(3))
    ids, mask = rng.integers(0, config.vocab_size, (2, 11)), np.ones((2, 11), dtype=np.int64)
    mask[1, 7:] = 0
    with torch.no_grad():
        if head == MASKED_LM:
            np.savez(golden, ids=ids, logits=model.double()(torch.from_numpy(ids)).numpy())
        else:
            y = model.double()(torch.from_numpy(ids), torch.from_numpy(mask))["y"]
            np.savez(golden, ids=ids, mask=mask, logits=y.numpy())
    return path, golden


def test_a_size_within_a_block_is_told_by_the_logits_alone(tmp_path: Path) -> None:
    config = ModelConfig.model_validate({**TINY.model_dump(), **SIZES[4], "use_glu_mlp": False})
    path, golden = with_logits(tmp_path, MASKED_LM, config)
    arguments = ("checkpoint", "verify", str(path), "--golden", str(golden))
    outcome = invoke(*arguments)
    assert outcome.status == 1
    assert "`parity checkpoint inspect` lists as not stored" in outcome.stdout.splitlines()[-1]
    assert invoke(*arguments, "--set", "intermediate_size=50").status == 0


# --- what lies around the state dict ----------------------------------------------------------------------


def composer(state: Mapping[str, Any], prefix: str = "model.") -> dict[str, Any]:
    """Everything that Composer's trainer keeps, in the shapes in which it keeps it."""
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    rng = {"python": (3, (1, 2), None), "numpy": np.random.Generator(np.random.Philox(1)).bit_generator.state}
    return {
        "state": {
            "model": {f"{prefix}{name}": values for name, values in state.items()},
            "optimizers": {"DecoupledAdamW": optimizer.state_dict()},
            "schedulers": {"LinearWithWarmupSchedule": {"last_epoch": 3}},
            "callbacks": {"SpeedMonitor": {"history": [1.0]}},
            "timestamp": {"Timestamp": {"epoch": 1, "total_wct": datetime.timedelta(seconds=3)}},
            "algorithms": [("GradientClipping", {"repr": "GradientClipping()"})],
        },
        "rng": [{**rng, "torch": torch.get_rng_state()}],
    }


def cast(dtype: torch.dtype) -> Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {name: one.to(dtype) if one.is_floating_point() else one for name, one in state.items()}


def constants(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = ("f_16_fft", "twiddle_factors_fft_16_16", "f_32_ifft")
    tables = {
        f"bert.encoder.layer.{layer}.attention.{network}.flashfft.{name}": torch.zeros(16, 16, 2, dtype=torch.float16)
        for layer, network, name in itertools.product((0, 1), ("filter_fn", "filter_fn2"), names)
    }
    return {**state, **tables}


def untied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in state.items()}


def wrapped(state: Mapping[str, torch.Tensor], wrapper: str) -> dict[str, torch.Tensor]:
    """Names as they are where every second module of the encoder is wrapped."""
    return {
        name.replace("layer.0.", f"layer.0.{wrapper}").replace(".mlp.", f".mlp.{wrapper}"): values
        for name, values in state.items()
    }


AROUND: Final[Mapping[str, Callable[[Mapping[str, torch.Tensor]], Any]]] = {
    "Composer": composer,
    "Composer, without a prefix": lambda state: composer(state, ""),
    "Composer, data parallel": lambda state: composer(state, "module.model."),
    "Composer, compiled": lambda state: composer(state, "model._orig_mod."),
    "Composer, sharded": lambda state: composer(wrapped(state, "_fsdp_wrapped_module."), "model._fsdp_wrapped_module."),
    "Composer, activations made anew": lambda state: composer(wrapped(state, "_checkpoint_wrapped_module.")),
    "compiled layers": lambda state: wrapped(state, "_orig_mod."),
    "DeepSpeed": lambda state: {"module": dict(state), "optimizer": None},
    "Composer, bfloat16": lambda state: composer(cast(torch.bfloat16)(state)),
    "Composer, constants of FlashFFT": lambda state: composer(constants(state)),
    "a plain state dict": dict,
    "Lightning": lambda state: {"state_dict": {f"model.{name}": one for name, one in state.items()}, "epoch": 1},
    "a model and an optimiser": lambda state: {"model": dict(state), "optimizer": composer({})["state"]["optimizers"]},
    "float16": cast(torch.float16),
    "float64": cast(torch.float64),
    "parameters": lambda state: {
        name: torch.nn.Parameter(one) if one.is_floating_point() else one for name, one in state.items()
    },
    "a copy of every shared parameter": untied,
    "axes exchanged in memory": lambda state: {
        name: one.T.contiguous().T if one.ndim == 2 else one for name, one in state.items()
    },
    "without position_ids": lambda state: {name: one for name, one in state.items() if "position_ids" not in name},
}  # fmt: skip


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("head", [MASKED_LM, CLASSIFICATION])
def test_whatever_lies_around_it_the_model_is_found_whole(name: str, zipped: bool, head: Head, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"num_hidden_layers": 2})
    state = model_of(head, config).state_dict()
    held = AROUND[name](state)
    path = tmp_path / "file.pt"
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.head, checkpoint.config) == (head, config)
        dtype = next((it for it in (torch.bfloat16, torch.float16) if str(it)[6:] in name), torch.float32)
        for tensor, values in checkpoint.tensors.items():
            wanted = state[tensor].to(dtype).double().numpy()
            assert np.array_equal(values.numpy().astype(np.float64), wanted)


def test_what_a_trainer_keeps_among_the_tensors_is_named_as_left_over(tmp_path: Path) -> None:
    state = {f"model.{name}": one for name, one in model_of(MASKED_LM, TINY).state_dict().items()}
    path = tmp_path / "file.pt"
    torch.save({"state": {"model": {**state, "train_metrics.total": torch.zeros(1)}}}, path)
    outcome = invoke("checkpoint", "inspect", str(path))
    assert outcome.status == 1
    assert "left over train_metrics.total (1,)" in outcome.stdout
