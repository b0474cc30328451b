"""A pickle read as data: what it names is noted, and nothing of it is imported, called or set.

Python's own unpickler calls whatever a pickle names. This one knows text, numbers, lists, tuples, dictionaries, and the
handful of names by which torch writes a tensor; every other object becomes an `Opaque` that only knows its name. So
optimiser state, timestamps, random states and callbacks of a training run do not hinder, and cannot do anything.

Time and memory are bounded by `MAX_OPERATIONS`; a key of a dictionary is a text or left out, since other keys can be
chosen so that all of them collide.

Source: the opcodes, as `pickletools` of Python's library documents and decodes them; torch/_utils.py, `_rebuild_*`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from parity.checkpoint.dtypes import BY_STORAGE, BY_TORCH, Dtype
from parity.checkpoint.tensors import File, checked_shape, shown
from parity.errors import CheckpointError

MAX_OPERATIONS: Final = 500_000
"""Operations of a pickle: 30 for a tensor, so 22,000 for a model of 720, as many for each optimiser moment."""


@dataclass(frozen=True)
class Global:
    """A name of a module, which nobody looks up."""

    name: str


@dataclass(frozen=True, eq=False)
class Opaque:
    """An object that is no data: `name` made it."""

    name: str


class Entries(dict[str, Any]):
    """A dictionary's entries with a text as key; `others` counts those with another."""

    others = 0


@dataclass(frozen=True)
class Storage:
    """Numbers in the archive under a key.

    Attributes:
        key: Their name.
        dtype: Their kind; None if they are bytes, to which a tensor gives a kind.
        count: How many there are.
        start: First of them, where this is a view of a larger storage.
    """

    key: str
    dtype: Dtype | None
    count: int
    start: int = 0


@dataclass(frozen=True, eq=False)
class PickledTensor:
    """A tensor as torch describes it: a window into a storage, all in numbers of `dtype`."""

    dtype: Dtype
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Stream:
    """Part of a file, from `start` to `end`, as `pickletools` reads it: a piece at a time, never beyond the end."""

    def __init__(self, file: File, start: int, end: int) -> None:
        self._file, self._end = file, end
        self._place = self._block_start = start
        self._block = b""

    def tell(self) -> int:
        """Return the byte of the file that is read next."""
        return self._place

    def read(self, count: int) -> bytes:
        """Return `count` bytes, or as many as are left."""
        found = self._next(min(count, self._end - self._place))
        self._place += len(found)
        return found

    def readline(self) -> bytes:
        """Return what is left of a line, its end included."""
        parts = []
        while part := self._next(min(_BLOCK, self._end - self._place)):
            end = part.find(b"\n") + 1
            parts.append(part[:end] if end else part)
            self._place += len(parts[-1])
            if end:
                break
        return b"".join(parts)

    def _next(self, count: int) -> bytes:
        """Return the next `count` bytes and stay there."""
        at = self._place - self._block_start
        if at + count > len(self._block):
            self._block_start, at = self._place, 0
            self._block = self._file.read(self._place, min(max(count, _BLOCK), self._end - self._place))
        return self._block[at : at + count]


_BLOCK: Final = 2**16


def read_pickle(stream: Stream) -> Any:
    """Read the pickle that starts where `stream` stands, and leave it behind the pickle's end.

    Returns:
        Texts, numbers, None, lists, tuples, `Entries`, `Global`, `Opaque`, `Storage`, `PickledTensor`.

    Raises:
        CheckpointError: It is broken, cut, too long, or describes an impossible tensor.
    """
    return read_pickle_and_storages(stream)[0]


def read_pickle_and_storages(stream: Stream) -> tuple[Any, dict[str, int]]:
    """Read a pickle as `read_pickle`; returns besides the bytes of a number of every storage that it names.

    Also of those in which only such tensors lie as an optimiser keeps under a number, or in an object.

    Raises:
        CheckpointError: As `read_pickle`, or two kinds of numbers are said to be in one storage.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("Any", stream))):
            if count >= MAX_OPERATIONS:
                raise CheckpointError(f"the pickle has more than {MAX_OPERATIONS} operations")
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"the pickle is broken: {shown(error) or type(error).__name__}") from None
    return machine.stack[-1], machine.item_sizes


@dataclass
class _Machine:
    """The stack and the memo of a pickle."""

    stack: list[Any] = field(default_factory=list)
    marked: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    item_sizes: dict[str, int] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        else:
            raise CheckpointError(f"the pickle uses {name}, which torch.save does not write")

    def push(self, value: Any) -> None:
        # A call of its own: taking what was marked replaces the stack, which must not be looked up before.
        self.stack.append(value)

    def take(self, count: int) -> list[Any]:
        """Take the last `count` values from the stack."""
        if len(self.stack) < count:
            raise IndexError("a value is missing on its stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def take_marked(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        taken, self.stack = self.stack, self.marked.pop()
        return taken

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.take_marked()

    def put(self, place: Any) -> None:
        if not 0 <= int(place) <= MAX_OPERATIONS:
            raise CheckpointError(f"the pickle's memo is addressed at {place}; {MAX_OPERATIONS} is the last")
        self.memo[int(place)] = self.stack[-1]

    def get(self, place: Any) -> None:
        if int(place) not in self.memo:
            raise KeyError(f"nothing was kept under {place}")
        self.stack.append(self.memo[int(place)])

    def join(self, _: Any) -> None:
        module, name = self.take(2)
        self.stack.append(Global(f"{_named(module)}.{_named(name)}"))

    def name(self, argument: Any) -> None:
        self.stack.append(Global(shown(argument).replace(" ", ".", 1)))

    def call(self, _: Any) -> None:
        function, arguments = self.take(2)
        self.stack.append(_made(function, arguments))

    def build(self, _: Any) -> None:
        """Leave the object as it is: its state is not what the numbers are kept in."""
        self.take(1)
        if not self.stack:
            raise IndexError("a value is missing on its stack")

    def make(self, _: Any) -> None:
        items = self.take_marked()
        self.stack.append(_made(items[0], tuple(items[1:])))

    def make_named(self, argument: Any) -> None:
        self.take_marked()
        self.stack.append(Opaque(shown(argument).replace(" ", ".", 1)))

    def make_with_keywords(self, _: Any) -> None:
        kind = self.take(3)[0]
        self.stack.append(Opaque(_named(kind)))

    def freeze(self, _: Any) -> None:
        self.take_marked()
        self.stack.append(Opaque("frozenset"))

    def drop(self, _: Any) -> None:
        self.take_marked()

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], Entries):
            _fill(self.stack[-1], items)

    def refer(self, _: Any) -> None:
        (found,) = self.take(1)
        storage = _storage(found)
        self.stack.append(storage)
        if isinstance(storage, Storage):
            size = 1 if storage.dtype is None else storage.dtype.itemsize
            if self.item_sizes.setdefault(storage.key, size) != size:
                raise CheckpointError(f"storage {shown(storage.key)!r} has numbers of {size} bytes, and of other sizes")


def _fill(entries: Entries, items: list[Any]) -> Entries:
    if len(items) % 2:
        raise ValueError("a key has no value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            entries.others += 1
        elif key in entries:
            raise CheckpointError(f"the pickle sets {shown(key)!r} twice")
        else:
            entries[key] = value
    return entries


def _named(value: Any) -> str:
    if isinstance(value, Global | Opaque):
        return value.name
    return shown(value) if isinstance(value, str) else type(value).__name__


def _made(function: Any, arguments: Any) -> Any:
    if isinstance(function, Global) and isinstance(arguments, tuple) and function.name in _MAKERS:
        return _MAKERS[function.name](*arguments)
    return Opaque(_named(function))


def _storage(found: Any) -> Storage | Opaque:
    """Return the storage that a persistent id names: ("storage", class, key, device, numbers[, view])."""
    if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
        return Opaque("persistent object")
    _, kind, key, _, count, *view = found
    (count,) = checked_shape((count,))
    class_name = _named(kind).rpartition(".")[2]
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise CheckpointError(f"a storage is called by a {type(key).__name__}")
    if class_name not in BY_STORAGE and class_name != "UntypedStorage":
        return Opaque(class_name)
    dtype = BY_STORAGE.get(class_name)
    if not view or view[0] is None:
        return Storage(str(key), dtype, count)
    _, start, count = view[0]
    start, count = checked_shape((start, count))
    return Storage(str(key), dtype, count, start)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> PickledTensor | Opaque:
    if not isinstance(storage, Storage):
        return Opaque(f"tensor of {_named(storage)}")
    return _window(storage.dtype or BY_TORCH["uint8"], storage, offset, shape, strides)


def _tensor_of_kind(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, kind: Any, *_: Any
) -> PickledTensor | Opaque:
    dtype = BY_TORCH.get(_named(kind).removeprefix("torch."))
    if not isinstance(storage, Storage) or dtype is None:
        return Opaque(f"tensor of {_named(kind)}")
    return _window(dtype, storage, offset, shape, strides)


def _window(dtype: Dtype, storage: Storage, offset: Any, shape: Any, strides: Any) -> PickledTensor:
    shape, strides = checked_shape(shape), checked_shape(strides)
    (offset,) = checked_shape((offset,))
    if len(shape) != len(strides):
        raise CheckpointError(f"a tensor of {len(shape)} axes has {len(strides)} strides")
    return PickledTensor(dtype, storage, offset + storage.start, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _subclass(function: Any, _kind: Any, arguments: Any, *_: Any) -> Any:
    return _made(function, arguments)


def _entries(*items: Any) -> Entries | Opaque:
    """An OrderedDict, which Python 3 pickles empty and fills afterwards; a list to copy could be copied without end."""
    return Opaque("collections.OrderedDict made of a list, as Python 2 writes it") if items else Entries()


def _size(lengths: Any = (), *_: Any) -> tuple[int, ...]:
    return checked_shape(lengths)


_MAKERS: Final[Mapping[str, Callable[..., Any]]] = {
    "collections.OrderedDict": _entries,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_kind,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
}
"""What is understood of all that a pickle may name: functions of this module stand for torch's."""

_PLAIN: Final = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"}
    | {"BINBYTES8", "BYTEARRAY8"}
)
"""Operations that put their argument on the stack."""

_CONSTANTS: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": Entries,
    "EMPTY_SET": lambda: Opaque("set"),
}

_OPERATIONS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: machine.push(*machine.take(1)),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "LIST": lambda machine, _: machine.push(machine.take_marked()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.take_marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "DICT": lambda machine, _: machine.push(_fill(Entries(), machine.take_marked())),
    "FROZENSET": _Machine.freeze,
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.take_marked()),
    "ADDITEMS": _Machine.drop,
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.take_marked()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.join,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.make_with_keywords,
    "OBJ": _Machine.make,
    "INST": _Machine.make_named,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.refer,
}
