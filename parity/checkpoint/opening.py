"""What a file is, told by its first bytes and never by its name, and the tensors that it holds under its own names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.checkpoint.archive import read_archive
from parity.checkpoint.json_file import read_object
from parity.checkpoint.npz_file import read_npz
from parity.checkpoint.safetensors_file import MAX_HEADER, read_safetensors
from parity.checkpoint.tensors import File, LazyTensor, quoted, shown
from parity.checkpoint.torch_file import StateDict, read_legacy, read_zip
from parity.errors import CheckpointError

MAX_INDEX: Final = 2**23
"""Bytes of the index of a sharded checkpoint: 50,000 tensors."""

MAX_SHARDS: Final = 200
"""Files of a sharded checkpoint, each kept open: systems allow 256 at least."""


@dataclass(frozen=True)
class OpenFile:
    """The tensors of a checkpoint, under the file's own names and not yet read.

    Attributes:
        path: The file that was asked for.
        form: What it is, in words.
        tensors: By name.
        files: Everything that is kept open for them.
    """

    path: Path
    form: str
    tensors: dict[str, LazyTensor]
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def close(self) -> None:
        """Close every file."""
        for file in self.files:
            file.close()


def open_file(path: Path) -> OpenFile:
    """Read what a checkpoint holds: names, kinds, shapes and places, no numbers.

    Raises:
        CheckpointError: It cannot be read, is of no known format, or is not what it declares. The message names the
            file.
    """
    with _named(path):
        file = File(path)
        try:
            if not is_safetensors(file) and _first(file)[:1] == b"{":
                return _sharded(path, file)
            form, tensors = _single(file)
            _require_texts(tensors)
        except BaseException:
            file.close()
            raise
    return OpenFile(path, form, tensors, (file,))


def _require_texts(tensors: dict[str, LazyTensor]) -> None:
    """Require that names can be written again: pickles and JSON can spell half of a character."""
    for name in tensors:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise CheckpointError(
                f"holds {shown(name)!r}, a name with half a character, which no file can hold"
            ) from None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{quoted(path)} {error}") from None


def _first(file: File) -> bytes:
    if not file.size:
        raise CheckpointError("is empty")
    return file.read(0, min(file.size, 16))


def is_safetensors(file: File) -> bool:
    """Whether a short header follows its length: as a number, what other formats begin with is a very long one."""
    first = _first(file)
    return first[8:9] == b"{" and int.from_bytes(first[:8], "little") <= MAX_HEADER


def _single(file: File) -> tuple[str, dict[str, LazyTensor]]:
    first = _first(file)
    if is_safetensors(file):
        return "safetensors", read_safetensors(file)
    if first[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        members = read_archive(file)
        if not members:
            raise CheckpointError("is a ZIP archive without members")
        if all(name.endswith(".npy") for name in members):
            return "npz archive", read_npz(file, members)
        return _torch("zip format", read_zip(file, members))
    if first[:1] == b"\x80":
        return _torch("legacy format", read_legacy(file))
    if first[8:9] == b"{":
        return "safetensors", read_safetensors(file)  # says how its header is too long
    raise CheckpointError(
        f"begins with the bytes {first[:8].hex(' ')}, which is no format that is known: torch.save (.pt, .bin), "
        "safetensors, npz, or the JSON index of a sharded checkpoint"
    )


def _torch(form: str, found: StateDict) -> tuple[str, dict[str, LazyTensor]]:
    words = {"Composer": "Composer checkpoint", "plain": "state dict"}
    what = words.get(found.wrapping, f"state dict {found.wrapping}")
    return f"{what} of torch.save, {form}", found.tensors


def _sharded(path: Path, index: File) -> OpenFile:
    try:
        if index.size > MAX_INDEX:
            raise CheckpointError(f"has {index.size} bytes; an index has at most {MAX_INDEX}")
        wanted = read_object(index.read(0, index.size), "the index").get("weight_map")
    finally:
        index.close()
    if not isinstance(wanted, dict) or not all(isinstance(name, str) for name in wanted.values()):
        raise CheckpointError('is JSON, but no index of a sharded checkpoint: "weight_map" must be a table of texts')
    counts = Counter(wanted.values())
    if len(counts) > MAX_SHARDS:
        raise CheckpointError(f"names {len(counts)} files; {MAX_SHARDS} are allowed")
    tensors: dict[str, LazyTensor] = {}
    files: list[File] = []
    forms: dict[str, Any] = {}
    try:
        for shard in sorted(counts):
            with _shard(shard):
                file = File(_beside(path, shard))
            files.append(file)
            with _shard(shard):
                form, found = _single(file)
                _require_texts(found)
                _require_listed(shard, found, wanted)
            tensors |= found
            forms[form] = None
    except BaseException:
        for file in files:
            file.close()
        raise
    missing = sorted(wanted.keys() - tensors.keys())
    if missing:
        raise CheckpointError(f"lists {shown(missing[0])!r} ({len(missing)} in all), which its file does not hold")
    form = f"{len(files)} files, each {' or '.join(forms)}"
    return OpenFile(path, form, {name: tensors[name] for name in wanted}, tuple(files))


@contextmanager
def _shard(name: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"names {shown(name)!r}, which {error}") from None


def _beside(index: Path, shard: str) -> Path:
    """Return the path of a shard, which lies beside its index, or beside the file that the index is a link to.

    The second is how the Hugging Face cache keeps its files.
    """
    if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
        raise CheckpointError(f"names the file {shown(shard)!r}; a shard is named without a folder and lies beside it")
    path = index.parent / shard
    allowed = {index.parent.resolve(), index.resolve().parent}
    try:
        actual = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise CheckpointError(f"names {shown(shard)!r}, which is missing beside it") from None
    if actual.parent not in allowed:
        raise CheckpointError(f"names {shown(shard)!r}, which is a link to another folder")
    return actual


def _require_listed(shard: str, found: dict[str, LazyTensor], wanted: dict[str, str]) -> None:
    for name in found:
        if name not in wanted:
            raise CheckpointError(f"holds {shown(name)!r}, which the index does not list")
        if wanted[name] != shard:
            raise CheckpointError(f"holds {shown(name)!r}, which the index says is in {shown(wanted[name])!r}")
