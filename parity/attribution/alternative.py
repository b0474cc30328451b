"""Alternative: another meaning that a port may have been given, and how the reference is made to compute it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from parity.cases import Case
from parity.pairs import Pair, ParameterRule, Structure


@dataclass(frozen=True)
class Alternative:
    """One other meaning.

    Args:
        name: As reports call it, `knob=value`.
        says: What it computes, in one line.
        components: Names of the pairs that it can concern; elsewhere it is not tried.
        profile: Semantic knobs that it changes.
        edit: Changes a copy of the reference that holds the case's parameters: options and values of its parts.
        patch: Returns a context in which the reference's own names stand for something else.
    """

    name: str
    says: str
    components: frozenset[str]
    profile: Mapping[str, Any] = field(default_factory=dict)
    edit: Callable[[Any, Structure], object] | None = None
    patch: Callable[[], AbstractContextManager[object]] | None = None

    def context(self) -> AbstractContextManager[object]:
        """Return the context in which the reference must run."""
        return nullcontext() if self.patch is None else self.patch()


@dataclass(frozen=True)
class Probe:
    """A case from which meanings can be told apart, and rules of its own for parameters: the first that match win."""

    case: Case
    parameters: tuple[tuple[str, ParameterRule], ...] = ()

    def pair(self, pair: Pair) -> Pair:
        """Return `pair` with this probe's rules before its own."""
        return replace(pair, parameters=(*self.parameters, *pair.parameters))


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Let names of modules or classes stand for other values; all are put back, also after an exception.

    Args:
        changes: (owner, name, value); the owner has that name, its own or inherited.

    Raises:
        AttributeError: An owner has no such name: the source has changed, and the alternative must change with it.
    """
    with ExitStack() as stack:
        for owner, name, value in changes:
            getattr(owner, name)
            if name in vars(owner):
                stack.callback(setattr, owner, name, vars(owner)[name])
            else:
                stack.callback(delattr, owner, name)
            setattr(owner, name, value)
        yield
