"""Conversion: all of a checkpoint or nothing, bit for bit in either direction, and what the port makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoint_pieces import (
    FILE_NAMES,
    HEADS,
    PEAK,
    ROOT,
    TINY,
    TINY_CHECKPOINT,
    bare,
    contents,
    hollow_composer,
    small_file,
)
from harness_pieces import clean_environment, invoke
from safetensors.numpy import load_file

import mlx_impl
from mlx_impl.weights import from_state
from parity.checkpoint import convert, generate, open_checkpoint, read_checkpoint
from parity.checkpoint.generate import FORMS, Form
from parity.checkpoint.layout import CLASSIFICATION, DECODER, MASKED_LM, POSITION_IDS, Head, state_shapes, state_ties
from parity.checkpoint.record import constants_path, record_path
from parity.errors import CheckpointError, OutputError
from parity.files import staged_file
from parity.spec.config import ModelConfig

GOLDEN = ROOT / "tests" / "data" / "goldens" / "masked_lm_0.safetensors"


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", FORMS)
def test_there_and_back_bit_for_bit(form: Form, head: Head, dtype: str, tmp_path: Path) -> None:
    constants = head == CLASSIFICATION
    path = small_file(tmp_path, form, head, dtype=dtype, constants=constants)
    there = tmp_path / ("there.npz" if form in ("plain", "npz") else "there.safetensors")
    back = tmp_path / ("back.safetensors" if form in ("plain", "legacy") else "back.pt")
    done = convert(path, there, keep_constants=True)
    with read_checkpoint(there) as port:
        assert port.layout == "mlx"
        assert done.written == len(port.file.tensors) == len(port.stored)
        assert not port.problems
    again = convert(there, back)
    assert contents(back) == bare(contents(path))
    assert again.written == len(state_shapes(head, TINY)) + (58 if constants else 0)
    assert again.set_aside == ()


def test_without_the_constants_they_are_named_and_the_rest_comes_back(tmp_path: Path) -> None:
    path = small_file(tmp_path, "plain", CLASSIFICATION, constants=True)
    done = convert(path, tmp_path / "there.safetensors")
    assert len(done.set_aside) == 59
    again = convert(tmp_path / "there.safetensors", tmp_path / "back.pt")
    assert len(again.set_aside) == 58
    whole = contents(path)
    assert contents(tmp_path / "back.pt") == {name: whole[name] for name in whole if "flashfft" not in name}
    assert POSITION_IDS in contents(tmp_path / "back.pt")


def test_constants_that_the_conversion_did_not_note_are_refused(tmp_path: Path) -> None:
    path = small_file(tmp_path, "plain", CLASSIFICATION, constants=True)
    convert(path, tmp_path / "there.safetensors", keep_constants=True)
    kept = constants_path(tmp_path / "there.safetensors")
    kept.write_bytes(kept.read_bytes().replace(b"flashfft.table_3", b"flashfft.table_X"))
    with pytest.raises(CheckpointError, match="table_X', which the conversion did not note"):
        convert(tmp_path / "there.safetensors", tmp_path / "back.pt")


@pytest.mark.parametrize("head", HEADS)
def test_it_is_what_the_ports_own_table_makes_of_the_state_dict(head: Head, tmp_path: Path) -> None:
    path = small_file(tmp_path, "safetensors", head)
    convert(path, tmp_path / "there.npz")
    port = getattr(mlx_impl, head)(TINY)
    wanted = from_state(port, mx.load(str(path)))
    found = mx.load(str(tmp_path / "there.npz"))
    assert found.keys() == wanted.keys()
    assert all(mx.array_equal(found[name], wanted[name]) for name in wanted)
    port.load_weights(str(tmp_path / "there.npz"), strict=True)


def test_a_checkpoint_of_the_original_code_gives_its_logits(tmp_path: Path) -> None:
    """From the converted file and the configuration beside it, nothing else."""
    golden = load_file(GOLDEN)
    convert(TINY_CHECKPOINT, tmp_path / "m2.safetensors")
    record = json.loads(record_path(tmp_path / "m2.safetensors").read_text(encoding="utf-8"))
    port = getattr(mlx_impl, record["head"])(ModelConfig.parse(record["config"]))
    port.load_weights(str(tmp_path / "m2.safetensors"), strict=True)
    port.eval()
    logits = np.array(port(mx.array(golden["input:ids"]), mx.array(golden["input:tt"])))
    # Within three times what the original itself loses at float32; `parity golden` judges the port itself.
    lost = np.abs(golden["output:y.f32"] - golden["output:y.f64"]).max()
    assert np.abs(logits - golden["output:y.f64"]).max() < 3 * lost
    convert(tmp_path / "m2.safetensors", tmp_path / "back.pt")
    reference = _reference(tmp_path / "back.pt")
    with torch.no_grad():
        exact = reference(torch.from_numpy(golden["input:ids"]), torch.from_numpy(golden["input:tt"])).numpy()
    assert np.linalg.norm(exact - golden["output:y.f64"]) < 1e-13 * np.linalg.norm(exact)


def _reference(path: Path) -> Any:
    import reference_torch

    with open_checkpoint(path) as checkpoint:
        model = getattr(reference_torch, checkpoint.head)(checkpoint.config)
    model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return model.double().eval()


def test_what_cannot_be_read_travels_in_the_record(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    convert(path, tmp_path / "there.npz", overrides={"hyena_w_mod": 14, "intermediate_size": 95})
    with open_checkpoint(tmp_path / "there.npz") as checkpoint:
        assert (checkpoint.config.hyena_w_mod, checkpoint.config.intermediate_size) == (14, 95)
    with open_checkpoint(tmp_path / "there.npz", {"hyena_w_mod": 2}) as checkpoint:
        assert checkpoint.config.hyena_w_mod == 2
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config.hyena_w_mod == 1


def test_a_broken_record_is_refused_and_foreign_json_is_none(tmp_path: Path) -> None:
    convert(small_file(tmp_path), tmp_path / "there.npz")
    record = record_path(tmp_path / "there.npz")
    good = record.read_text(encoding="utf-8")
    for text, message in (
        (good.replace('"parity_checkpoint": 1', '"parity_checkpoint": 2'), "version 2 is unknown"),
        (good.replace('"dtype": "I64"', '"dtype": "I65"'), "no known dtype"),
        (good[:100], "no valid JSON"),
        (good.replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 7'), "layer_norm_eps = 7 is not allowed"),
    ):
        record.write_text(text, encoding="utf-8")
        with pytest.raises(Exception, match=message):
            open_checkpoint(tmp_path / "there.npz")
    record.write_text('{"a": 1}', encoding="utf-8")
    with open_checkpoint(tmp_path / "there.npz") as checkpoint:
        assert checkpoint.record is None


def test_one_name_of_a_shared_parameter_is_enough(tmp_path: Path) -> None:
    state = dict(torch.load(small_file(tmp_path, "plain"), weights_only=True))
    whole = contents(tmp_path / FILE_NAMES["plain"])
    ties = state_ties(MASKED_LM, TINY)
    last = {name: [alias for alias in ties if ties[alias] == name][-1] for name in ties.values()}
    for group in ties.values():
        for name in [group, *(alias for alias in ties if ties[alias] == group)]:
            if name != last[group]:
                state.pop(name, None)
    torch.save(state, tmp_path / "some.pt")
    with open_checkpoint(tmp_path / "some.pt") as checkpoint:
        assert len(checkpoint.filled) == 21
        assert checkpoint.accounted == len(state)
    convert(tmp_path / "some.pt", tmp_path / "there.npz")
    convert(tmp_path / "there.npz", tmp_path / "back.pt")
    assert contents(tmp_path / "back.pt") == whole


def test_another_format_keeps_every_name(tmp_path: Path) -> None:
    path = small_file(tmp_path, "composer", CLASSIFICATION, constants=True)
    done = convert(path, tmp_path / "out.safetensors", to="torch")
    assert contents(tmp_path / "out.safetensors") == bare(contents(path))
    assert done.set_aside == ()
    convert(path, tmp_path / "one.safetensors")
    convert(tmp_path / "one.safetensors", tmp_path / "two.npz", to="mlx")
    assert contents(tmp_path / "two.npz") == contents(tmp_path / "one.safetensors")
    one, two = (record_path(tmp_path / name).read_text(encoding="utf-8") for name in ("one.npz", "two.npz"))
    assert one == two


def test_what_is_there_is_left_alone_unless_forced(tmp_path: Path) -> None:
    path, out = small_file(tmp_path), tmp_path / "out.npz"
    record_path(out).write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"out\.json' is there already; .* --force"):
        convert(path, out)
    assert not out.exists()
    convert(path, out, force=True)
    first = out.read_bytes()
    with pytest.raises(OutputError, match=r"out\.npz' is there already"):
        convert(path, out)
    convert(path, out, force=True)
    assert out.read_bytes() == first


def test_the_checkpoint_itself_is_never_replaced(tmp_path: Path) -> None:
    path = small_file(tmp_path, "safetensors")
    (tmp_path / "link.safetensors").symlink_to(path)
    for out in (path, tmp_path / "link.safetensors"):
        with pytest.raises(OutputError, match="is the checkpoint itself"):
            convert(path, out, force=True)


@pytest.mark.parametrize(
    ("out", "to", "message"),
    [
        ("out.pt", "mlx", "no ending of a checkpoint for mlx; allowed: .safetensors, .npz"),
        ("out.npz", "torch", "no ending of a checkpoint for torch; allowed: .safetensors, .pt, .bin"),
        ("out", None, "no ending of a checkpoint for mlx"),
        ("none/out.npz", None, "cannot write into"),
    ],
)
def test_an_output_that_cannot_be_is_refused(out: str, to: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=message):
        convert(small_file(tmp_path), tmp_path / out, to=to)


@pytest.mark.parametrize("taken", ["out.safetensors", "out.json", "out.constants.safetensors"])
def test_a_folder_is_not_replaced_and_nothing_is_left_beside_it(taken: str, tmp_path: Path) -> None:
    path = small_file(tmp_path, constants=True)
    (tmp_path / taken).mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        convert(path, tmp_path / "out.safetensors", force=True, keep_constants=True)
    assert {one.name for one in tmp_path.iterdir()} == {path.name, taken}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without a device that is always full")
def test_a_disk_that_is_full_at_last_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path)

    @contextmanager
    def full(out: Path, remedy: str) -> Iterator[IO[bytes]]:
        file = Path("/dev/full").open("wb", buffering=2**24)  # noqa: SIM115 - closing it fails as well
        try:
            yield file
        except OSError as error:
            raise OutputError(str(error)) from None
        finally:
            with suppress(OSError):
                file.close()

    monkeypatch.setattr(sys.modules["parity.checkpoint.convert"], "staged_file", full)
    with pytest.raises(OutputError, match="No space"):
        convert(path, tmp_path / "out.safetensors")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_aliases_that_lie_otherwise_are_compared_though_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path, "plain")
    found = dict(torch.load(path, weights_only=True))
    found[DECODER] = found[DECODER].T.contiguous().T
    torch.save(found, path)
    monkeypatch.setattr("parity.checkpoint.tensors.CHUNK", 64)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.disagreements()) == []
    found[DECODER][3, 5] += 1
    torch.save(found, path)
    with pytest.raises(CheckpointError, match=f"{DECODER} differs from .* in 1 of 960 numbers"):
        open_checkpoint(path)


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path) -> None:
    vast = TINY.model_copy(update={"vocab_size": 2**33})
    hollow_composer(tmp_path / "vast.pt", state_shapes(MASKED_LM, vast), state_ties(MASKED_LM, vast), wide=True)
    with pytest.raises(OutputError, match=r"takes \d{12,} bytes, and \d+ are free"):
        convert(tmp_path / "vast.pt", tmp_path / "out.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["vast.pt"]


@pytest.mark.parametrize("nameless", [True, False], ids=["without a name", "with a name"])
def test_an_interruption_leaves_nothing(nameless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = small_file(tmp_path)

    def interrupt(name: str, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, tmp_path / "out.npz", on_tensor=interrupt)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    convert(path, tmp_path / "out.npz")
    assert contents(tmp_path / "out.npz")


def test_a_staged_file_replaces_or_is_none(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        with staged_file(tmp_path / "file", "") as file:
            file.write(text)
        assert (tmp_path / "file").read_bytes() == text
    with pytest.raises(OutputError, match="cannot write"), staged_file(tmp_path / "none" / "file", "do so"):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


SLOW = """
import sys, time
from pathlib import Path
from parity.checkpoint import convert
def wait(name, total):
    print(name, flush=True)
    time.sleep(0.05)
convert(Path(sys.argv[1]), Path(sys.argv[2]), on_tensor=wait)
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="only Linux has files without a name")
def test_a_killed_conversion_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    words = [sys.executable, "-c", SLOW, str(path), str(tmp_path / "out.safetensors")]
    with subprocess.Popen(words, env=clean_environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(0.2)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


MEASURED = """
from parity.checkpoint import convert, open_checkpoint
before = peak()
if sys.argv[3] == "whole":
    with open_checkpoint(Path(sys.argv[1])) as checkpoint:
        kept = [tensor.numpy() for tensor in checkpoint.stored.values()]
convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(peak() - before)
"""

ALLOWANCE = 48 * 2**20
"""Bytes beyond the imports: pieces of 4 MiB of two tensors that are compared, copies of them, and the directory."""


@pytest.mark.parametrize(
    ("form", "out", "how"),
    [
        ("composer", "out.safetensors", "pieces"),
        ("legacy", "out.npz", "pieces"),
        ("safetensors", "out.safetensors", "pieces"),
        ("composer", "out.safetensors", "whole"),
    ],
)
def test_memory_stays_at_pieces_of_tensors(form: Form, out: str, how: str, tmp_path: Path) -> None:
    """Of a file of 200 MB; a conversion that kept what it reads is seen to take more."""
    large = TINY.model_copy(update={"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 200_000})
    path = tmp_path / FILE_NAMES[form]
    generate(path, MASKED_LM, large, form)
    assert path.stat().st_size > 200 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", PEAK + MEASURED, str(path), str(tmp_path / out), how],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (int(done.stdout) < ALLOWANCE) == (how == "pieces"), done.stdout
    assert (tmp_path / out).stat().st_size > 200 * 2**20


def test_the_command_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = small_file(tmp_path, "plain", CLASSIFICATION, constants=True)
    outcome = invoke("checkpoint", "convert", path.name, "there.safetensors", "--keep-constants", "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    facts = json.loads(outcome.stdout)
    assert (facts["tensors"], facts["restored"], facts["layout"]) == (107, 0, "mlx")
    assert len(facts["set_aside"]) == 59
    assert facts["constants"] == "there.constants.safetensors"
    outcome = invoke("checkpoint", "convert", "there.safetensors", "back.pt")
    assert outcome.stdout.splitlines()[0].startswith("back.pt: 186 tensors for torch, 20 of them names restored, ")


def test_inspect_as_json_and_what_a_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = small_file(tmp_path)
    Path("config.json").write_text('{"hyena_w_mod": 14, "vocab_size": 30522, "architectures": ["x"]}', encoding="utf-8")
    outcome = invoke("checkpoint", "inspect", path.name, "--config", "config.json", "--json")
    facts = json.loads(outcome.stdout)
    assert outcome.status == 0
    assert facts["config"]["hyena_w_mod"] == 14
    assert facts["published_differs"] == {"vocab_size": [40, 30522]}
    assert (facts["tensors"], facts["accounted"], facts["prefix"]) == (130, 130, "model.")
    outcome = invoke("checkpoint", "inspect", path.name, "--config", "config.json", "--set", "hyena_w_mod=2")
    assert "  hyena_w_mod = 2 (given): " in outcome.stdout
    assert "the configuration given says vocab_size = 30522; the checkpoint says 40" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "hyena_w_mod"), "--set takes KEY=VALUE, each key once; got 'hyena_w_mod'"),
        (("--set", "hyena_w_mod=1", "--set", "hyena_w_mod=2"), "each key once"),
        (("--set", "hidden_size=7"), "hidden_size = 7 contradicts"),
        (("--set", "hyena_w_mod=fast"), "hyena_w_mod = 'fast' is not allowed"),
        (("--set", "speed=1"), "unknown key 'speed'"),
        (("--config", "none.json"), "configuration 'none.json' cannot be opened"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = invoke("checkpoint", "inspect", small_file(tmp_path).name, *arguments)
    assert outcome.status == 2
    (line,) = outcome.stderr.splitlines()
    assert message in line


def test_a_file_without_tensors_is_nothing_to_compare(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "empty.pt")
    for arguments in (("inspect", "empty.pt"), ("convert", "empty.pt", "out.npz")):
        outcome = invoke("checkpoint", arguments[0], *(str(tmp_path / name) for name in arguments[1:]))
        assert outcome.status == 3
        assert outcome.stderr.endswith("empty.pt' holds no tensor\n")


def test_generate_refuses_what_is_there_and_names_the_public_ones(tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_text("mine", encoding="utf-8")
    outcome = invoke("checkpoint", "generate", "m2-bert-80m", str(tmp_path / "there.pt"))
    assert (outcome.status, "--force replaces it" in outcome.stderr) == (2, True)
    outcome = invoke("checkpoint", "generate", "m2-bert", str(tmp_path / "new.pt"))
    assert (outcome.status, "there are m2-bert-80m, " in outcome.stderr) == (2, True)
    assert (tmp_path / "there.pt").read_text(encoding="utf-8") == "mine"
