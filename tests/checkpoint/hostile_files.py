"""Files that are broken, or made to do harm: how each is made, and what must be said of it."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from checkpoint_pieces import TINY, hollow_composer, small_file

from parity.checkpoint.generate import generate, generated_state
from parity.checkpoint.layout import DECODER, MASKED_LM, POSITION_IDS, WORDS, state_shapes, state_ties
from parity.checkpoint.writers import _integer, _lengths, _name, _text, write_safetensors

MARKER: Final = "parity-was-made-to-run-code"
"""A file that every payload would make, in the folder where the command runs."""


class Hostile(NamedTuple):
    """One file: `make` puts it into a folder and returns its path; `message` is looked for in the one line."""

    name: str
    make: Callable[[Path], Path]
    message: str


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, function: Callable[..., object] = os.system, arguments: tuple[object, ...] = ()) -> None:
        self.call = function, arguments or (f"touch {MARKER}",)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def archive(folder: Path, members: Mapping[str, bytes], **options: int) -> Path:
    path = folder / "hostile.pt"
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def pickled(data: bytes, storages: Mapping[str, bytes] | None = None) -> Callable[[Path], Path]:
    """An archive of torch.save with this pickle."""
    members = {f"e/data/{key}": content for key, content in (storages or {}).items()}
    return lambda folder: archive(folder, {"e/data.pkl": data, "e/version": b"3\n", **members})


def raw(data: bytes, name: str = "hostile.bin") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def header(text: str | bytes, numbers: bytes = b"", length: int | None = None) -> Callable[[Path], Path]:
    """A safetensors file with this header."""
    data = text.encode() if isinstance(text, str) else text
    return raw((len(data) if length is None else length).to_bytes(8, "little") + data + numbers, "hostile.safetensors")


def entry(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tensor(
    shape: tuple[int, ...] = (2,),
    strides: tuple[int, ...] = (1,),
    offset: int = 0,
    count: int = 2,
    kind: bytes = _name("torch", "FloatStorage"),
    key: str = "0",
) -> bytes:
    """A pickle's tensor, in a storage of `count` numbers."""
    storage = b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _integer(count) + b"tQ"
    window = _integer(offset) + _lengths(shape) + _lengths(strides) + b"\x89}"
    return _name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + window + b"tR"


def state(value: bytes, name: str = "a") -> bytes:
    return b"\x80\x02}" + _text(name) + value + b"s."


RUN: Final = b"cos\nsystem\n(" + _text(f"touch {MARKER}") + b"t"
"""os.system and its arguments, on the stack of a pickle."""

INDEX: Final = "model.safetensors.index.json"


def index(
    places: object, shards: Mapping[str, Mapping[str, dict[str, object]]] | None = None
) -> Callable[[Path], Path]:
    """An index, and shards of two floats a tensor beside it."""

    def make(folder: Path) -> Path:
        for name, found in (shards or {}).items():
            data = json.dumps(found).encode()
            (folder / name).write_bytes(len(data).to_bytes(8, "little") + data + bytes(8 * len(found)))
        (folder / INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
        return folder / INDEX

    return make


def linked_shard(folder: Path) -> Path:
    outside = folder / "elsewhere"
    outside.mkdir()
    header(json.dumps({"a": entry()}), bytes(8))(outside)
    (folder / "shard").symlink_to(outside / "hostile.safetensors")
    return index({"a": "shard"})(folder)


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def folder_itself(folder: Path) -> Path:
    (folder / "model").mkdir()
    return folder / "model"


def device(folder: Path) -> Path:
    (folder / "device").symlink_to("/dev/zero")
    return folder / "device"


def cut(share: float, form: str = "composer") -> Callable[[Path], Path]:
    """A good file of which a share is left."""

    def make(folder: Path) -> Path:
        path = small_file(folder, form)  # type: ignore[arg-type]
        os.truncate(path, int(path.stat().st_size * share))
        return path

    return make


def patched(find: bytes, put: bytes, form: str = "composer", last: bool = False) -> Callable[[Path], Path]:
    """A good file in which bytes are replaced."""

    def make(folder: Path) -> Path:
        path = small_file(folder, form)  # type: ignore[arg-type]
        data = path.read_bytes()
        assert find in data
        place = data.rfind(find) if last else data.find(find)
        path.write_bytes(data[:place] + put + data[place + len(find) :])
        return path

    return make


def appended(form: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = small_file(folder, form)  # type: ignore[arg-type]
        path.write_bytes(path.read_bytes() + b"more")
        return path

    return make


def bomb_zip(folder: Path) -> Path:
    path = folder / "hostile.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("e/data.pkl", "w") as member:
            for _ in range(64):
                member.write(bytes(2**20))
        file.writestr("e/version", b"3\n")
    return path


def bomb_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "hostile.npz", a=np.zeros(2**22))
    return folder / "hostile.npz"


def overlapping_zip(folder: Path) -> Path:
    """Two entries of the directory that name the same member: the trick of zip bombs without compression."""
    path = archive(folder, {"e/data.pkl": state(tensor()), "e/data/0": bytes(8), "e/data/1": bytes(8)})
    data = path.read_bytes()
    place = data.rfind(b"e/data/1") - 46
    first = struct.unpack_from("<L", data, data.rfind(b"e/data/0") - 46 + 42)[0]
    path.write_bytes(data[: place + 42] + struct.pack("<L", first) + data[place + 46 :])
    return path


def doubled_zip(folder: Path) -> Path:
    path = archive(folder, {"e/data.pkl": state(tensor()), "e/data/0": bytes(8), "e/data/1": bytes(8)})
    path.write_bytes(path.read_bytes().replace(b"e/data/1", b"e/data/0"))
    return path


def too_many_members(folder: Path) -> Path:
    path = folder / "hostile.pt"
    count = 2**17
    names = b"PK\x01\x02" + bytes(42)
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(names) * count, 4)
    end += struct.pack("<4sLQL", b"PK\x06\x07", 0, 4 + len(names) * count, 1)
    end += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(b"PK\x03\x04" + names * count + end)
    return path


def object_array(folder: Path) -> Path:
    np.savez(folder / "hostile.npz", a=np.array([Payload()], dtype=object))
    return folder / "hostile.npz"


def npy(text: bytes, numbers: bytes = bytes(8), version: bytes = b"\x01\x00") -> Callable[[Path], Path]:
    content = b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + numbers
    return lambda folder: archive(folder, {"a.npy": content})


def legacy_payload(folder: Path) -> Path:
    torch.save({"a": Payload()}, folder / "hostile.bin", _use_new_zipfile_serialization=False)
    return folder / "hostile.bin"


def payload_beside_a_model(folder: Path) -> Path:
    """A Composer file whose callbacks would run code, and whose model lacks a tensor."""
    shapes = {name: shape for name, shape in state_shapes(MASKED_LM, TINY).items() if name not in (WORDS, DECODER)}
    state_dict = {f"model.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    torch.save({"state": {"model": state_dict, "callbacks": Payload()}}, folder / "hostile.pt")
    return folder / "hostile.pt"


def untied(folder: Path) -> Path:
    path = folder / "hostile.safetensors"
    generated = generated_state(MASKED_LM, TINY, 1)
    generated[DECODER] = generated_state(MASKED_LM, TINY, 2)[DECODER]
    with path.open("wb") as file:
        write_safetensors(file, generated, {}, lambda _: None)
    return path


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], Path]:
    """A good state dict, changed."""

    def make(folder: Path) -> Path:
        generate(folder / "good.pt", MASKED_LM, TINY, "plain")
        found = dict(torch.load(folder / "good.pt", weights_only=True))
        (folder / "good.pt").unlink()
        change(found)
        torch.save(found, folder / "hostile.pt")
        return folder / "hostile.pt"

    return make


def huge_hollow(folder: Path) -> Path:
    """A model of 2**33 words, whose numbers are a hole of the file."""
    vast = TINY.model_copy(update={"vocab_size": 2**33})
    hollow_composer(folder / "hostile.pt", state_shapes(MASKED_LM, vast), state_ties(MASKED_LM, vast), wide=True)
    os.truncate(folder / "hostile.pt", 2**30)
    return folder / "hostile.pt"


def removed(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda found: found.pop(name)


def without_filters(found: dict[str, torch.Tensor]) -> None:
    for name in [name for name in found if "filter" in name]:
        del found[name]


def put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda found: found.update({name: value})


LAYER0: Final = "bert.encoder.layer.0."
LEGACY: Final = b"".join(
    pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
DEEP: Final = 200_000

HOSTILE: Final = [
    # Not a checkpoint at all.
    Hostile("missing", lambda folder: folder / "none.pt", "cannot be opened: No such file"),
    Hostile("empty", raw(b""), "is empty"),
    Hostile("a folder", folder_itself, "is a folder"),
    Hostile("a pipe that nobody writes to", pipe, "no regular file"),
    Hostile("a device without end", device, "no regular file"),
    Hostile("text", raw(b"these are weights"), "no format that is known"),
    Hostile("a tar archive", raw(b"data.pkl" + bytes(1024)), "no format that is known"),
    Hostile("a name that breaks lines", raw(b"nothing", "a\nparity: OK\x1b[2J"), r"a\\x0aparity: OK\\x1b\[2J"),
    # Pickles.
    Hostile("os.system by REDUCE", pickled(state(RUN + b"R")), "no tensor that can be read, but os.system"),
    Hostile("os.system by INST", pickled(state(b"(" + _text("x") + b"ios\nsystem\n")), "but os.system"),
    Hostile("os.system by OBJ", pickled(state(b"(cos\nsystem\n" + _text(f"touch {MARKER}") + b"o")), "but os.system"),
    Hostile("os.system by NEWOBJ", pickled(state(RUN + b"\x81")), "but os.system"),
    Hostile("os.system by STACK_GLOBAL", pickled(state(_text("os") + _text("system") + b"\x93)R")), "but os.system"),
    Hostile("os.system as the state dict", pickled(b"\x80\x02" + RUN + b"R."), "holds a os.system, no state dict"),
    Hostile("a payload of the pickle module", pickled(pickle.dumps({"a": Payload()})), "posix.system|nt.system"),
    Hostile("eval instead of a tensor", pickled(pickle.dumps({"a": Payload(eval, ("1",))})), "builtins.eval"),
    Hostile("a payload in the legacy format", legacy_payload, "posix.system|nt.system"),
    Hostile("a payload before the legacy magic", raw(pickle.dumps(Payload())), "torch.save did not write"),
    Hostile("a payload beside a broken model", payload_beside_a_model, "word_embeddings.weight is missing"),
    Hostile("a plain pickle", raw(pickle.dumps({"a": [1.0, 2.0]})), "torch.save did not write"),
    Hostile("a list", pickled(b"\x80\x02]."), "holds a list, no state dict"),
    Hostile("entries without a name", pickled(b"\x80\x02}K\x01" + tensor() + b"s."), "have a key that is no text"),
    Hostile("a name twice", pickled(b"\x80\x02}" + (_text("a") + b"Ns") * 2 + b"."), "sets 'a' twice"),
    Hostile("a pickle without its end", pickled(b"\x80\x02}" + _text("a")), "the pickle is broken"),
    Hostile("a pickle that takes from nothing", pickled(b"\x80\x02R."), "a value is missing on its stack"),
    Hostile("a pickle that recalls nothing", pickled(b"\x80\x02h\x07."), "nothing was kept under 7"),
    Hostile("an unknown operation", pickled(b"\x80\x02\xff."), "the pickle is broken"),
    Hostile("an extension code", pickled(b"\x80\x02\x82\x01."), "uses EXT1"),
    Hostile("a memo of four billion", pickled(b"\x80\x02Nr\xff\xff\xff\xff."), "memo is addressed at 4294967295"),
    Hostile("a text of an exabyte", pickled(b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"."), "is broken"),
    Hostile("bytes of an exabyte", pickled(b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b"."), "is broken"),
    Hostile("a number of a million digits", pickled(b"\x80\x02I" + b"9" * 10**6 + b"\n."), "the pickle is broken"),
    Hostile("a million dictionaries", pickled(b"\x80\x02" + b"}" * 10**6 + b"."), "more than 500000 operations"),
    Hostile(
        "lists in lists without end", pickled(b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b"."), "holds a list"
    ),
    Hostile("tuples in tuples as a key", pickled(b"\x80\x02})" + b"\x85" * DEEP + b"Ns."), "key that is no text"),
    Hostile("marks without end", pickled(b"\x80\x02" + b"(" * DEEP + b"."), "a value is missing"),
    Hostile("a storage that is not there", pickled(state(tensor())), "the numbers of 'a' are missing"),
    Hostile("a storage that is short", pickled(state(tensor()), {"0": bytes(4)}), "declares 8 bytes and has 4"),
    Hostile("a storage that is long", pickled(state(tensor()), {"0": bytes(12)}), "declares 8 bytes and has 12"),
    Hostile("a shape beyond the storage", pickled(state(tensor((3,))), {"0": bytes(8)}), "reaches beyond its storage"),
    Hostile("an offset beyond the storage", pickled(state(tensor(offset=1)), {"0": bytes(8)}), "reaches beyond"),
    Hostile("a negative offset", pickled(state(tensor(offset=-1 % 2**32)), {"0": bytes(8)}), "reaches beyond"),
    Hostile("a negative length", pickled(state(tensor((-1 % 2**32,))), {"0": bytes(8)}), "reaches beyond"),
    Hostile("numbers repeated by stride 0", pickled(state(tensor((2**30,), (0,))), {"0": bytes(8)}), "more numbers"),
    Hostile("a shape of 2**93", pickled(state(tensor((2**31 - 1,) * 3, (1,) * 3)), {"0": bytes(8)}), "reaches beyond"),
    Hostile("forty axes", pickled(state(tensor((1,) * 40, (1,) * 40)), {"0": bytes(8)}), "at most 32 lengths"),
    Hostile("strides of other axes", pickled(state(tensor((1, 1), (1,))), {"0": bytes(8)}), "2 axes has 1 strides"),
    Hostile(
        "a storage of unknown numbers",
        pickled(state(tensor(kind=_name("torch", "QInt8Storage"))), {"0": bytes(8)}),
        "tensor of QInt8Storage",
    ),
    # Archives.
    Hostile("a ZIP bomb", bomb_zip, "is compressed .* bytes for 67108864"),
    Hostile("a ZIP archive of something else", lambda folder: archive(folder, {"a.txt": b"x"}), "0 members data.pkl"),
    Hostile("a ZIP archive of nothing", lambda folder: archive(folder, {}), "without members"),
    Hostile(
        "a TorchScript archive",
        lambda folder: archive(folder, {"m/code/a.py": b"", "m/data.pkl": b"", "m/constants.pkl": b""}),
        "TorchScript archive, which holds code",
    ),
    Hostile("members that overlap", overlapping_zip, "is not where the ZIP directory says|overlaps"),
    Hostile("a member twice", doubled_zip, "two members of the archive are called 'e/data/0'"),
    Hostile("a hundred thousand members", too_many_members, "100000 are allowed"),
    Hostile("an archive cut in the middle", cut(0.5), "no directory at its end: truncated"),
    Hostile("an archive that lacks its last bytes", cut(0.9999), "truncated"),
    Hostile("an archive that goes on", appended("composer"), "bytes follow the end of the ZIP archive"),
    Hostile("a machine of another byte order", patched(b"little", b"big   "), "another byte order"),
    Hostile("a member elsewhere", patched(b"PK\x03\x04", b"PK\x07\x08", last=True), "is not where"),
    Hostile("a terabyte declared in a gigabyte", huge_hollow, "truncated"),
    # The legacy format.
    Hostile("a legacy file cut in its numbers", cut(0.9, "legacy"), "truncated"),
    Hostile("a legacy file cut in its pickle", cut(0.05, "legacy"), "is broken"),
    Hostile("a legacy file that goes on", appended("legacy"), "4 bytes follow the last storage"),
    Hostile(
        "a legacy storage of 2**63 numbers",
        raw(LEGACY + state(tensor()) + b"\x80\x02]" + _text("0") + b"a." + (2**63).to_bytes(8, "little")),
        "declares 9223372036854775808 numbers",
    ),
    Hostile("a legacy file of big-endian", raw(LEGACY.replace(b"\x88", b"\x89")), "another byte order"),
    # safetensors.
    Hostile("a header longer than the file", header("{}", length=2**30), "declares a header of 1073741824 bytes"),
    Hostile("a header of an exabyte", header("{}", length=2**60), "no format|declares a header"),
    Hostile("a header of 9 MiB", header(b"{" + b" " * (9 * 2**20) + b"}"), "4194304 are allowed"),
    Hostile("a header that is no JSON", header("{abc}   "), "the header is no valid JSON"),
    Hostile("a header nested without end", header('{"a":' + "[" * 10**6), "the header is no valid JSON"),
    Hostile("a header of empty lists", header('{"a":[' + "[]," * 10**6 + "[]]}"), "has not the keys"),
    Hostile("a header with a number of digits", header('{"a":' + "9" * 10**5 + "}"), "no valid JSON"),
    Hostile("a tensor twice in the header", header('{"a":1,"a":2}'), "'a' stands there twice"),
    Hostile("an entry without its offsets", header('{"a":{"dtype":"F32","shape":[]}}'), "has not the keys"),
    Hostile("an unknown kind of numbers", header(json.dumps({"a": entry(dtype="F4")}), bytes(8)), "is of dtype F4"),
    Hostile("a negative length in the header", header(json.dumps({"a": entry((-2,))}), bytes(8)), "from 0 on"),
    Hostile("a length of 2**70", header(json.dumps({"a": entry((2**70,))}), bytes(8)), "an integer of 71 bits"),
    Hostile("a length that is a truth", header(json.dumps({"a": entry((True, 2))}), bytes(8)), "from 0 on"),
    Hostile("a shape of 2**120 numbers", header(json.dumps({"a": entry((2**60, 2**60))}), bytes(8)), "takes 5316911"),
    Hostile("offsets the wrong way round", header(json.dumps({"a": entry((2,), (8, 0))}), bytes(8)), "no beginning"),
    Hostile("offsets behind the end", header(json.dumps({"a": entry((2,), (0, 8))}), bytes(4)), "bytes behind the end"),
    Hostile(
        "tensors that overlap",
        header(json.dumps({"a": entry(), "b": entry((2,), (4, 12))}), bytes(12)),
        "'b' overlaps 'a'",
    ),
    Hostile(
        "numbers that nobody owns",
        header(json.dumps({"a": entry(), "b": entry((2,), (12, 20))}), bytes(20)),
        "4 bytes between 'a' and 'b' are no tensor's",
    ),
    Hostile("a safetensors file that goes on", appended("safetensors"), "4 bytes follow the last tensor"),
    Hostile("a safetensors file cut in half", cut(0.5, "safetensors"), "behind the end of the file: truncated"),
    # npz.
    Hostile("a compressed npz", bomb_npz, "is compressed"),
    Hostile("an npz of objects", object_array, "holds objects, which only a pickle can restore: refused"),
    Hostile("an npz of a broken array", lambda folder: archive(folder, {"a.npy": b"\x93NUMPY"}), "no .npy array"),
    Hostile("an npz whose header is code", npy(b"__import__('os').system('touch x')"), "cannot be read"),
    Hostile("an npz whose header is nested", npy(b"(" * 9000), "cannot be read"),
    Hostile("an npz of another byte order", npy(b"{'descr':'>f4','fortran_order':False,'shape':(2,)}"), "of kind >f4"),
    Hostile(
        "an npz array of a terabyte",
        npy(b"{'descr':'<f4','fortran_order':False,'shape':(2**38,)}".replace(b"2**38", b"274877906944")),
        "takes 1099511627776 bytes, and has 8",
    ),
    # Sharded.
    Hostile("an index of nothing", index([]), "no index of a sharded checkpoint"),
    Hostile("an index that is a configuration", raw(b'{"hidden_size": 768}', "config.json"), "no index of a sharded"),
    Hostile("an index with a number", index({"a": 1}), "must be a table of texts"),
    Hostile("a shard above", index({"a": "../secret"}), "a shard is named without a folder"),
    Hostile("a shard by its whole path", index({"a": "/etc/passwd"}), "a shard is named without a folder"),
    Hostile("a shard that is the folder", index({"a": ".."}), "a shard is named without a folder"),
    Hostile("a shard behind a link", linked_shard, "is a link to another folder"),
    Hostile("a shard that is missing", index({"a": "none"}), "names 'none', which is missing beside it"),
    Hostile("an index that names itself", index({"a": INDEX}), "begins with the bytes"),
    Hostile("a tensor that its shard lacks", index({"a": "s", "b": "s"}, {"s": {"a": entry()}}), "lists 'b'"),
    Hostile(
        "a tensor that no index lists", index({"a": "s"}, {"s": {"a": entry(), "b": entry((2,), (8, 16))}}), "not list"
    ),
    Hostile(
        "a tensor in two shards",
        index({"a": "s", "b": "t"}, {"s": {"a": entry()}, "t": {"a": entry(), "b": entry((2,), (8, 16))}}),
        "which the index says is in 's'",
    ),
    Hostile("a thousand shards", index({str(one): f"s{one}" for one in range(1000)}), "names 1000 files"),
    # Whole files that are no whole model.
    Hostile("a tensor missing", changed(removed(f"{LAYER0}mlp.wo.bias")), f"missing {LAYER0}mlp.wo.bias"),
    Hostile("a tensor left over", changed(put("bert.extra", torch.zeros(2))), r"left over bert.extra \(2,\)"),
    Hostile("a shape that fits no other", changed(put(f"{LAYER0}mlp.wo.bias", torch.zeros(2))), r"is \(2,\), the"),
    Hostile("aliases that disagree", untied, f"{DECODER} differs from {WORDS}, with which it is shared, in 960 of 960"),
    Hostile(
        "a sine that disagrees",
        changed(put(f"{LAYER0}attention.filter_fn.implicit_filter_rev.3.freq", torch.zeros(1, 12))),
        "implicit_filter_rev.3.freq differs from .*implicit_filter.1.freq",
    ),
    *(
        Hostile(
            f"a bias of kind {kind}",
            changed(put(f"{LAYER0}mlp.wo.bias", torch.zeros(24, dtype=dtype))),
            f"kind of {LAYER0}mlp.wo.bias is {kind}; a model computes with F64, F32, BF16, F16",
        )
        for kind, dtype in (
            ("C64", torch.complex64),
            ("C128", torch.complex128),
            ("I8", torch.int8),
            ("BOOL", torch.bool),
            ("F8_E4M3", torch.float8_e4m3fn),
        )
    ),
    Hostile("half a character in a name", changed(put("flashfft.\ud800", torch.zeros(2))), "with half a character"),
    Hostile(
        "half a character in a header", header(json.dumps({"flashfft.\ud800": entry()}), bytes(8)), "half a character"
    ),
    Hostile("aliases of two kinds", changed(put(DECODER, torch.zeros(40, 24).half())), f"{DECODER} is F16 and {WORDS}"),
    Hostile(
        "positions that count otherwise",
        changed(put(POSITION_IDS, torch.ones(1, 16).long())),
        "0, 1, 2",
    ),
    Hostile(
        "positions that are no integers",
        changed(put(POSITION_IDS, torch.ones(1, 16))),
        "no positions",
    ),
    Hostile(
        "an ordinary BERT", changed(lambda found: [found.pop(one) for one in list(found) if "filter" in one]), "missing"
    ),
]
"""Refused by `inspect` with status 2, or 1 where the file can be read and is no whole model; by `convert` with 2."""

assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)
