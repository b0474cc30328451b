"""What a captured call is, which modules are captured, and the bookkeeping that both frameworks' captures share.

A tensor is whatever has a `shape` and a `dtype`: no framework is imported here.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from parity.errors import CaptureError, SelectionError
from parity.trace.tensor import call_name

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
"""Values that are neither tensors nor hide any."""

_SHOWN: Final = 5
"""Names that a message lists."""

NOT_YET: Final = -1
"""`Call.order` of a call that has begun and not ended."""


@dataclass(frozen=True)
class Call:
    """One call of one module of a captured tree.

    Attributes:
        module: Dotted name in its own tree, "" for the root; of several names, the first.
        number: 1 for the module's first call in this capture, counted as calls begin.
        kind: The class's name.
        depth: How many calls of the tree enclose this one; 0 for the outermost.
        order: 0 for the first captured call to end; -1 while it has not.
        args, kwargs: As they were passed.
        inputs: Tensors among the arguments by path: the parameter's name whether passed by position or by keyword,
            the position where the signature has no name for it, then indices and keys: "x", "1", "states.0.k".
        outputs: Tensors of the result by path, "" for a bare tensor; empty while the call has not ended.
        opaque: Where an object lies that is neither tensor, container nor plain value (a cache, say), and its type's
            name: ("inputs.cache", "KVCache"). What it holds is not captured.
        aliases: The module's further names.
    """

    module: str
    number: int
    kind: str
    depth: int
    order: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    opaque: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`module`, or `module#2` from the second call on."""
        return call_name(self.module, self.number)


OnCall = Callable[[Call], object]
"""What a capture does with a call, in the thread that made it."""


# --- tensors of nested containers -------------------------------------------------------------------------


def leaves(tree: object) -> dict[str, Any]:
    """Return the tensors of nested tuples, lists, mappings and dataclasses by path, "" for a bare tensor.

    Raises:
        CaptureError: Two tensors have one path, or a container holds itself.
    """
    return unpack(tree)[0]


def unpack(tree: object) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
    """Return `leaves` of a tree, and paths with type names of the objects that could not be looked into.

    Raises:
        CaptureError: Two tensors have one path, or a container holds itself.
    """
    tensors: dict[str, Any] = {}
    opaque: list[tuple[str, str]] = []
    for path, leaf in _walk(tree, "", ()):
        if not _is_tensor(leaf):
            opaque.append((path, type(leaf).__name__))
        elif path in tensors:
            raise CaptureError(f"two tensors have the path {path!r}: keys that hold dots cannot be told from nesting")
        else:
            tensors[path] = leaf
    return tensors, tuple(opaque)


def _walk(tree: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield tensors and opaque objects; `above` are the containers around `tree`."""
    if isinstance(tree, _PLAIN):
        return
    parts = _parts(tree)
    if parts is None:
        yield path, tree
        return
    if id(tree) in above:
        raise CaptureError(f"the {type(tree).__name__} at {path!r} holds itself; only trees can be captured")
    for key, part in parts:
        yield from _walk(part, f"{path}.{key}" if path else str(key), (*above, id(tree)))


def _parts(tree: Any) -> Iterable[tuple[object, Any]] | None:
    """Return keys and members of a container, None for anything else: a module is none, though MLX's is a dict."""
    if _is_tensor(tree) or isinstance(tree, type) or hasattr(type(tree), "named_modules"):
        return None
    if isinstance(tree, Mapping):
        return tree.items()
    if isinstance(tree, (tuple, list)):
        return enumerate(tree)
    if dataclasses.is_dataclass(tree):
        return [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    return None


def _is_tensor(value: Any) -> bool:
    # Of the type, since asking the object may run a model's `__getattr__`.
    return hasattr(type(value), "shape") and hasattr(type(value), "dtype")


# --- arguments by name ------------------------------------------------------------------------------------


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a callable, or None where Python cannot tell it."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def by_parameter(signature: inspect.Signature | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by parameter name, those that only a `*args` takes by position.

    Arguments that the signature does not take are named by position and keyword: the call itself will refuse them.
    """
    unnamed = {**{str(place): value for place, value in enumerate(args)}, **kwargs}
    if signature is None:
        return unnamed
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return unnamed
    named: dict[str, Any] = {}
    for position, (name, value) in enumerate(bound.items()):
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {str(position + offset): part for offset, part in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


# --- which modules ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A module's place in its tree: its names, its class's name, what its call takes, and whether it is captured."""

    module: str
    aliases: tuple[str, ...]
    kind: str
    signature: inspect.Signature | None
    selected: bool


def selected(names: Mapping[str, Sequence[str]], select: Sequence[str]) -> frozenset[str]:
    """Return which modules a selection names; all of them for an empty one.

    Args:
        names: Every module's first name, with all its names, the first one included.
        select: Globs over dotted names, in which `*` crosses dots; a leading `!` excludes, and exclusions alone
            exclude from everything. A module is meant when any of its names matches.

    Raises:
        SelectionError: A glob matches nothing, or is none.
    """
    if isinstance(select, str):
        raise SelectionError(f"select is the text {select!r}, a sequence of globs is needed: write ({select!r},)")
    wanted = [glob for glob in select if not glob.startswith("!")]
    chosen = frozenset().union(*(_matching(names, glob) for glob in wanted)) if wanted else frozenset(names)
    unwanted = [_matching(names, glob[1:]) for glob in select if glob.startswith("!")]
    return chosen.difference(*unwanted)


def _matching(names: Mapping[str, Sequence[str]], glob: str) -> frozenset[str]:
    if "**" in glob:
        raise SelectionError(
            f"the glob {glob!r} holds '**'; one '*' crosses dots already: write {glob.replace('**', '*')!r}"
        )
    found = frozenset(first for first, every in names.items() if any(fnmatchcase(name, glob) for name in every))
    if not found:
        near = difflib.get_close_matches(glob, [name for name in names if name], _SHOWN, cutoff=0.0)
        raise SelectionError(f"the glob {glob!r} matches none of {len(names)} modules; nearest: {', '.join(near)}")
    return found


def places(tree: Iterable[tuple[str, Any]], select: Sequence[str], call: str) -> dict[int, Place]:
    """Return the place of every module by its identity.

    Args:
        tree: All names of all modules in order, a module as often as it has names.
        select: See `selected`.
        call: The method that says what a call takes: "forward" or "__call__".

    Raises:
        SelectionError: A glob matches nothing, or is none.
    """
    modules: dict[int, Any] = {}
    names: dict[int, list[str]] = {}
    for name, module in tree:
        modules.setdefault(id(module), module)
        names.setdefault(id(module), []).append(name)
    chosen = selected({every[0]: every for every in names.values()}, select)
    return {
        key: Place(
            module=every[0],
            aliases=tuple(every[1:]),
            kind=type(modules[key]).__name__,
            signature=signature_of(getattr(modules[key], call, modules[key])),
            selected=every[0] in chosen,
        )
        for key, every in names.items()
    }


# --- bookkeeping ------------------------------------------------------------------------------------------


@dataclass
class Entered:
    """A call that has begun; `call` only where the module is selected."""

    key: int
    call: Call | None
    mark: Any = None


class Recorder:
    """Numbers the calls of one tree as they begin and end, and hands the selected ones on.

    What `on_call` and `on_enter` call themselves is not recorded: whoever judges a call may run the module again.

    Args:
        at: The place of every module by its identity.
        on_call: Gets every selected call as it ends.
        on_enter: Gets every selected call as it begins, without outputs.
        keep: Returns a tensor that later changes to the given one do not reach.
    """

    def __init__(
        self,
        at: Mapping[int, Place],
        on_call: OnCall,
        on_enter: OnCall | None = None,
        keep: Callable[[Any], Any] = lambda tensor: tensor,
    ) -> None:
        self._at, self._on_call, self._on_enter, self._keep = at, on_call, on_enter, keep
        self._numbers: Counter[int] = Counter()
        self._open: list[Entered] = []
        self._ended = 0
        self._handing_on = False

    @property
    def idle(self) -> bool:
        """Whether calls are not to be recorded now: one is being judged."""
        return self._handing_on

    @property
    def innermost(self) -> Entered | None:
        """The last call that has begun and not ended."""
        return self._open[-1] if self._open else None

    def enter(self, key: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], mark: object = None) -> Entered:
        """Note that a call of the module `key` begins; `mark` is the caller's own."""
        place = self._at[key]
        self._numbers[key] += 1
        entered = Entered(key, None, mark)
        if place.selected:
            tensors, opaque = unpack(by_parameter(place.signature, args, kwargs))
            entered.call = Call(
                module=place.module,
                number=self._numbers[key],
                kind=place.kind,
                depth=len(self._open),
                order=NOT_YET,
                args=args,
                kwargs=kwargs,
                inputs={path: self._keep(tensor) for path, tensor in tensors.items()},
                outputs={},
                opaque=tuple((f"inputs.{path}", kind) for path, kind in opaque),
                aliases=place.aliases,
            )
        self._open.append(entered)
        if entered.call is not None and self._on_enter is not None:
            self._hand_on(self._on_enter, entered.call)
        return entered

    def complete(self, entered: Entered, output: object, evaluate: Callable[[list[Any]], object] | None = None) -> None:
        """Note that a call has returned `output`, and hand it on; `evaluate` gets its tensors first."""
        self.abandon(entered)
        if entered.call is None:
            return
        tensors, opaque = unpack(output)
        call = dataclasses.replace(
            entered.call,
            order=self._ended,
            outputs={path: self._keep(tensor) for path, tensor in tensors.items()},
            opaque=(
                *entered.call.opaque,
                *((f"outputs.{path}" if path else "outputs", kind) for path, kind in opaque),
            ),
        )
        entered.call = None
        self._ended += 1
        if evaluate is not None:
            evaluate([*call.inputs.values(), *call.outputs.values()])
        self._hand_on(self._on_call, call)

    def abandon(self, entered: Entered) -> None:
        """Note that a call has ended, and with it those within it whose end went unseen."""
        while self._open and self._open.pop() is not entered:
            pass

    def require_calls(self, root: str) -> None:
        """Refuse a capture that has seen nothing.

        Raises:
            CaptureError: No module was called.
        """
        if not self._numbers:
            raise CaptureError(
                f"no module of {root} was called during the capture; a function compiled before it runs without them: "
                "call the model itself, uncompiled"
            )

    def _hand_on(self, receiver: OnCall, call: Call) -> None:
        with self._judging():
            receiver(call)

    @contextmanager
    def _judging(self) -> Iterator[None]:
        self._handing_on = True
        try:
            yield
        finally:
            self._handing_on = False
