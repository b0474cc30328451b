"""A checkpoint as a model: every tensor of the file accounted for, under the checkpoint's own names.

    with open_checkpoint(path) as checkpoint:
        checkpoint.config                       # ModelConfig
        checkpoint.tensors["bert..."].numpy()   # read now, and not kept

Each tensor of the file is used once, is another name of a shared parameter with equal numbers, is set aside by name
with a reason, or is a problem. A model that is whole has no problem.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np

from mlx_impl.weights import AXIS_MOVES, checkpoint_name
from parity.checkpoint.inference import Inferred, infer
from parity.checkpoint.layout import DECODER, LAYER, POSITION_IDS, WORDS, Head, Shape, state_shapes, state_ties
from parity.checkpoint.opening import OpenFile, open_file
from parity.checkpoint.record import Record, read_record
from parity.checkpoint.tensors import LazyTensor, quoted, shown
from parity.errors import CheckpointError, ConfigError, NoTensorsError
from parity.spec.checkpoint import set_aside_reason
from parity.spec.config import ModelConfig

Layout = Literal["torch", "mlx"]

WRAPPERS: Final = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch puts into names, wherever it wraps a module: torch.compile, sharding, checkpoints of activations."""

PREFIXES: Final = ("model.", "module.", *WRAPPERS)
"""What trainers put before every name: Composer, torch's data parallelism, and the wrappers."""

_WRAPPER: Final = re.compile(rf"(?<![^.])(?:{'|'.join(map(re.escape, WRAPPERS))})")

COMPUTED: Final = ("F64", "F32", "BF16", "F16")
"""Kinds of numbers that a model holds: of a complex number one half would be lost, integers want a scale besides."""

_OF_MODEL: Final = re.compile(r"(^|\.)(bert|cls|classifier)\.")
_MLX_NAME: Final = re.compile(r"(^|\.)implicit_filter(_rev)?\.layers\.\d+\.")


@dataclass(frozen=True)
class SetAside:
    """A tensor of the file that neither implementation uses, and why."""

    name: str
    tensor: LazyTensor
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """A file, the model that it is of, and where each of its tensors goes.

    Attributes:
        file: The open file, under its own names.
        layout: Whose names and axes the file has: the reference's, as published, or the MLX port's.
        prefix: What stood before every name.
        inferred: Head and configuration, and what could not be read.
        tensors: Every tensor of the state dict by the checkpoint's name, in the reference's layout, every alias of a
            shared parameter included, what is set aside not.
        ties: Every alias, with the name that stores it.
        filled: Names that the file does not have and a shared parameter stands for.
        set_aside: What is not used.
        problems: Why this is no whole model; empty if it is one.
        record: What a conversion noted beside the file; None where nothing is.
    """

    file: OpenFile
    layout: Layout
    prefix: str
    inferred: Inferred
    tensors: Mapping[str, LazyTensor]
    ties: Mapping[str, str]
    filled: tuple[str, ...]
    set_aside: tuple[SetAside, ...]
    problems: tuple[str, ...]
    record: Record | None = field(default=None, repr=False)

    @property
    def head(self) -> Head:
        """The model's class."""
        return self.inferred.head

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.inferred.config

    @property
    def stored(self) -> dict[str, LazyTensor]:
        """Every parameter and buffer once, by its first name."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.ties}

    @property
    def aliases(self) -> tuple[str, ...]:
        """Names in the file that repeat a parameter stored under another name."""
        return tuple(name for name in self.ties if name in self.tensors and name not in self.filled)

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors of the file there are of each kind."""
        return dict(Counter(tensor.dtype.name for tensor in self.file.tensors.values()))

    @property
    def accounted(self) -> int:
        """How many tensors of the file are used, repeated or set aside."""
        return len(self.tensors) - len(self.filled) + len(self.set_aside)

    def layer(self, number: int) -> dict[str, LazyTensor]:
        """Return the tensors of one layer, by their names inside it."""
        prefix = f"{LAYER}{number}."
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def disagreements(self) -> Iterator[str]:
        """Compare every alias with its parameter, and `position_ids` with 0, 1, 2, ...; yields what differs."""
        for alias, name in self.ties.items():
            if alias in self.tensors and name in self.tensors:
                yield from _disagreement(alias, self.tensors[alias], name, self.tensors[name])
        for aside in self.set_aside:
            if aside.name == POSITION_IDS:
                yield from _no_count(aside.tensor)

    def close(self) -> None:
        """Close the file; tensors can no longer be read."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(
    path: Path, overrides: Mapping[str, Any] | None = None, published: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Open a checkpoint that is a whole model; its tensors are read when they are asked for.

    Args:
        path: A file of torch.save, safetensors, npz, or the index of several.
        overrides: Values of the configuration for what names and shapes do not say, such as `hyena_w_mod`.
        published: A published configuration, of which only what names and shapes do not say is taken.

    Raises:
        CheckpointError: It cannot be read without risk, is no M2-BERT, or is not whole; the message says why.
        ConfigError: An override is unknown or not allowed.
    """
    checkpoint = read_checkpoint(path, overrides, published)
    try:
        require_whole(checkpoint)
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def require_whole(checkpoint: Checkpoint) -> None:
    """Require that a checkpoint has no problem and its aliases agree.

    Raises:
        CheckpointError: It has, or they do not; the message lists all of it.
    """
    problems = [*checkpoint.problems, *checkpoint.disagreements()]
    if problems:
        some = "; ".join(problems[:MOST_SHOWN]) + ("; ..." if len(problems) > MOST_SHOWN else "")
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise CheckpointError(f"{quoted(checkpoint.file.path)} is no whole model, {count}: {some}")


MOST_SHOWN: Final = 5
"""Problems that a line lists; `parity checkpoint inspect` lists all."""


def read_checkpoint(
    path: Path, overrides: Mapping[str, Any] | None = None, published: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read what model a file is of; unlike `open_checkpoint`, a model that is not whole is returned with its problems.

    Raises:
        CheckpointError: It cannot be read without risk, or no model can be told from its names.
        ConfigError: An override is unknown or not allowed.
    """
    file = open_file(path)
    try:
        return _checkpoint(file, read_record(path), overrides or {}, published or {})
    except (CheckpointError, ConfigError) as error:
        file.close()
        raise type(error)(f"{quoted(path)} {error}") from None
    except BaseException:
        file.close()
        raise


def _checkpoint(
    file: OpenFile, record: Record | None, overrides: Mapping[str, Any], published: Mapping[str, Any]
) -> Checkpoint:
    if not file.tensors:
        raise NoTensorsError("holds no tensor")
    prefix = _prefix(file.tensors)
    names = {name: _WRAPPER.sub("", name.removeprefix(prefix)) for name in file.tensors}
    layout: Layout = "mlx" if any(_MLX_NAME.search(name) for name in names.values()) else "torch"
    if layout == "mlx":
        names = {name: checkpoint_name(bare) for name, bare in names.items()}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise CheckpointError(f"has {shown(twice[0])!r} under two names: of either layout, or wrapped and not")
    tensors = {bare: _in_reference_layout(layout, bare, file.tensors[name]) for name, bare in names.items()}
    aside = {name: reason for name in tensors if (reason := set_aside_reason(name)) is not None}
    used = {name: tensor for name, tensor in tensors.items() if name not in aside}
    shapes = {name: tensor.shape for name, tensor in used.items()}
    record = record if record is not None and record.layout == layout else None
    told = {WORDS: shapes[DECODER], **shapes} if DECODER in shapes else shapes  # either name may stand for both
    inferred = infer(told, overrides, {**({} if record is None else record.config), **published})
    expected = {
        name: shape
        for name, shape in state_shapes(inferred.head, inferred.config).items()
        if set_aside_reason(name) is None
    }
    ties = state_ties(inferred.head, inferred.config)
    whole, filled = _filled({name: used[name] for name in expected if name in used}, ties)
    return Checkpoint(
        file,
        layout,
        prefix,
        inferred,
        {name: whole[name] for name in expected if name in whole},
        ties,
        filled,
        tuple(SetAside(name, tensors[name], reason) for name, reason in aside.items()),
        (*_problems(expected, shapes, whole), *_kinds({name: used[name] for name in expected if name in used})),
        record,
    )


def _prefix(names: Mapping[str, Any]) -> str:
    """Return what stands before every name of the model; a part that does not stand before all of them is none.

    What a trainer keeps beside the model has other names, and is left over in the end.
    """
    own = [name for name in names if _OF_MODEL.search(name)] or list(names)
    prefix = ""
    while True:
        longer = next((one for one in PREFIXES if all(name.startswith(prefix + one) for name in own)), None)
        if longer is None:
            return prefix
        prefix += longer


def _in_reference_layout(layout: Layout, name: str, tensor: LazyTensor) -> LazyTensor:
    return move_axes(name, tensor) if layout == "mlx" else tensor


def move_axes(name: str, tensor: LazyTensor) -> LazyTensor:
    """Move the axes of one tensor between the two layouts, without reading it; its own inverse, as the port's table."""
    moved = len(tensor.shape) > 1 and any(re.search(pattern, name) for pattern in AXIS_MOVES)
    return tensor.swapped() if moved else tensor


def _filled(used: dict[str, LazyTensor], ties: Mapping[str, str]) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """Give every name of a shared parameter its tensor, since some formats keep one name of each."""
    groups: dict[str, list[str]] = {}
    for alias, name in ties.items():
        groups.setdefault(name, [name]).append(alias)
    whole, filled = dict(used), []
    for group in groups.values():
        there = next((used[name] for name in group if name in used), None)
        for name in group:
            if name not in used and there is not None:
                whole[name] = there
                filled.append(name)
    return whole, tuple(filled)


def _problems(expected: Mapping[str, Shape], shapes: Mapping[str, Shape], whole: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"missing {name}" for name in sorted(expected.keys() - whole.keys()))
    yield from (f"left over {shown(name)} {shape}" for name, shape in sorted(shapes.items()) if name not in expected)
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            yield f"shape of {name} is {shapes[name]}, the configuration says {shape}"


def _kinds(used: Mapping[str, LazyTensor]) -> Iterator[str]:
    for name, tensor in used.items():
        if tensor.dtype.name not in COMPUTED:
            yield f"kind of {name} is {tensor.dtype.name}; a model computes with {', '.join(COMPUTED)}"


def _disagreement(alias: str, one: LazyTensor, name: str, other: LazyTensor) -> Iterator[str]:
    if one.at_same_place(other) or one.shape != other.shape:
        return
    if one.dtype != other.dtype:
        yield f"{alias} is {one.dtype.name} and {name}, with which it is shared, {other.dtype.name}"
        return
    if one.strides == other.strides:
        count = sum(
            int(np.count_nonzero(np.frombuffer(mine, one.dtype.bits) != np.frombuffer(theirs, one.dtype.bits)))
            for mine, theirs in zip(one.chunks(), other.chunks(), strict=True)
            if mine != theirs
        )
    else:  # the pieces of both differ
        count = int(np.count_nonzero(one.bits() != other.bits()))
    if count:
        yield f"{alias} differs from {name}, with which it is shared, in {count} of {one.size} numbers"


def _no_count(tensor: LazyTensor) -> Iterator[str]:
    if tensor.nbytes > MAX_COUNTED or tensor.dtype.name not in ("I64", "I32"):
        yield f"{POSITION_IDS} of shape {tensor.shape} and kind {tensor.dtype.name} are no positions"
    elif not np.array_equal(tensor.numpy(), np.arange(tensor.size).reshape(tensor.shape)):
        yield f"{POSITION_IDS} are not 0, 1, 2, ...; both implementations would count otherwise"


MAX_COUNTED: Final = 2**27
"""Bytes of `position_ids` that are compared with what they should be: 16 million positions."""
