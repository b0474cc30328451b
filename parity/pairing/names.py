"""Partners by name: the same name, or the one that a table of renames gives."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from parity.errors import PairingError
from parity.pairing.node import Node

Renames = Mapping[str, str] | Sequence[tuple[str, str]]
"""Patterns, searched for in the reference's names, and what stands there in the port's, as `re.sub` takes them."""


def by_name(reference: Mapping[str, Node], port: Mapping[str, Node], renames: Renames) -> dict[str, tuple[str, str]]:
    """Return (the port's name, the reason) by the reference's name.

    All patterns are applied to a name one after the other. A name that one of them changes goes where that leads, and
    keeps its own place only if the port has no module there.

    Raises:
        PairingError: A pattern is no regular expression, matches nothing, or leads to nothing that the port has, or two
            names become one.
    """
    table = list(renames.items()) if isinstance(renames, Mapping) else list(renames)
    targets = _with_aliases(port)
    renamed = {name: _rename(name, table) for name in reference}
    for index, (pattern, _) in enumerate(table):
        _require_use(pattern, {name: to for name, (to, used) in renamed.items() if index in used}, reference, targets)
    found: dict[str, tuple[str, str]] = {}
    for name, (to, used) in renamed.items():
        if used and to in targets:
            patterns = ", ".join(f"{table[index][0]} -> {table[index][1]}" for index in used)
            _require_free(name, targets[to], found)
            found[name] = targets[to], f"rename table: {patterns}"
    taken = {to for to, _ in found.values()}
    own_names = [(name, name) for name in sorted(reference)]
    aliases = [(name, alias) for name in sorted(reference) for alias in sorted(reference[name].aliases)]
    for name, own in own_names + aliases:
        if name not in found and own in targets and targets[own] not in taken:
            found[name] = targets[own], "exact name" if own == targets[own] == name else f"shared module, named {own}"
            taken.add(targets[own])
    return found


def _with_aliases(nodes: Mapping[str, Node]) -> dict[str, str]:
    aliases = {alias: name for name, node in nodes.items() for alias in node.aliases}
    return aliases | {name: name for name in nodes}


def _rename(name: str, table: Sequence[tuple[str, str]]) -> tuple[str, tuple[int, ...]]:
    used: list[int] = []
    for index, (pattern, replacement) in enumerate(table):
        try:
            name, count = re.subn(pattern, replacement, name)
        except re.error as error:
            raise PairingError(f"rename {pattern!r} -> {replacement!r} is no regular expression: {error}") from None
        if count:
            used.append(index)
    return name, tuple(used)


def _require_use(
    pattern: str, changed: Mapping[str, str], names: Mapping[str, Node], targets: Mapping[str, str]
) -> None:
    if not changed:
        some = ", ".join(list(names)[:8])
        raise PairingError(
            f"rename {pattern!r} matches none of the reference's {len(names)} modules ({some}, ...); correct or drop it"
        )
    if not any(to in targets for to in changed.values()):
        name, to = next(iter(changed.items()))
        near = ", ".join(difflib.get_close_matches(to, targets, n=3, cutoff=0.0))
        raise PairingError(
            f"rename {pattern!r} makes {name!r} {to!r}, and the port has no module of any name that it makes; "
            f"the nearest are {near}"
        )


def _require_free(name: str, to: str, found: Mapping[str, tuple[str, str]]) -> None:
    other = next((other for other, (taken, _) in found.items() if taken == to), None)
    if other is not None:
        raise PairingError(f"the renames make both {other!r} and {name!r} the port's {to!r}; make one of them narrower")
