"""Targets that are somebody's own: `FILE.py`, `FILE.py::NAME`, `MODULE:ATTR` and `MODULE:ATTR::NAME`.

A file is imported as Python runs a script: its folder comes first on `sys.path`, and stays there, since builders may
import late. A module is imported with the current folder on `sys.path`. `ATTR` is a pair or a list of them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from parity import api, pairs
from parity.errors import TargetError

_IMPORTED: Final = "__parity_imported__"
"""Attribute of a loaded module: the names of what was imported while it was."""


def is_own(target: str) -> bool:
    """Whether a target names a file or a module, and not a component."""
    return ":" in target or target.endswith(".py")


def source_file(target: str) -> Path:
    """Return the file of an own target; it has been loaded."""
    place = target.partition("::")[0]
    if place.endswith(".py"):
        return Path(place).resolve()
    file = sys.modules[place.partition(":")[0]].__file__
    if file is None:
        raise TargetError(f"the module of target {target!r} is no file: its source cannot be told from another")
    return Path(file).resolve()


def imported_by(target: str) -> tuple[str, ...]:
    """Return the names of the modules that were imported while an own target was loaded, itself among them."""
    place = target.partition("::")[0]
    if not place.endswith(".py"):
        module = place.partition(":")[0]
        return (module, *vars(sys.modules[module])[_IMPORTED])
    name = _module_name(Path(place).resolve())
    return (name, *vars(sys.modules[name])[_IMPORTED])


@dataclass(frozen=True)
class _Found:
    """A pair, and the target that names it alone."""

    pair: api.Pair | pairs.Pair
    target: str


def load_pairs(targets: Sequence[str], taken: Sequence[str] = ()) -> list[pairs.Pair]:
    """Return the pairs that `targets` name, each once, in their order.

    Args:
        targets: Targets of which `is_own` holds.
        taken: Names that they may not have.

    Raises:
        TargetError: A file or module is missing, cannot be imported or has no pair; a name is unknown, or is the name
            of two pairs or of a component.
    """
    found: dict[int, _Found] = {}
    for target in targets:
        for each in _pairs_of(target):
            found.setdefault(id(each.pair), each)
    by_name: dict[str, str] = {}
    for each in found.values():
        name = each.pair.name
        if name in taken:
            raise TargetError(f"{each.target}: {name!r} is the name of a component of parity; give the pair another")
        if name in by_name:
            raise TargetError(
                f"two pairs are called {name!r}: {by_name[name]} and {each.target}; give one of them another name"
            )
        by_name[name] = each.target
    return [_completed(each) for each in found.values()]


def _completed(found: _Found) -> pairs.Pair:
    if isinstance(found.pair, api.Pair):
        return api.complete(found.pair, found.target)
    return replace(found.pair, target=found.target)


def _pairs_of(target: str) -> list[_Found]:
    place, _, name = target.partition("::")
    if place.endswith(".py"):
        candidates = list(vars(_from_file(target, Path(place))).items())
        where, single = f"file {place!r}", False
    else:
        module, _, attribute = place.partition(":")
        value = _attribute(target, module, attribute)
        candidates, where = [(attribute, value)], f"{place!r}"
        single = isinstance(value, api.Pair | pairs.Pair)
    found = {id(pair): pair for _, value in candidates for pair in pairs_in(value)}
    if not found:
        raise TargetError(
            f"{where} has no pair: give it a module-level `parity.Pair`, or a list of them"
            + ("" if place.endswith(".py") else f"; {attribute} is a {type(candidates[0][1]).__name__}")
        )
    named = [_Found(pair, place if single else f"{place}::{pair.name}") for pair in found.values()]
    if not name:
        return named
    chosen = [each for each in named if each.pair.name == name]
    if not chosen:
        allowed = ", ".join(dict.fromkeys(each.pair.name for each in named))
        raise TargetError(f"{where} has no pair called {name!r}; allowed: {allowed}")
    return chosen


def pairs_in(value: Any) -> Iterator[api.Pair | pairs.Pair]:
    """Yield the pairs that a module-level value is: itself, or those of a list."""
    for entry in value if isinstance(value, list | tuple) else [value]:
        if isinstance(entry, api.Pair | pairs.Pair):
            yield entry


def load_value(target: str, name: str) -> Any:
    """Return what `FILE.py::NAME` or `MODULE:ATTR` stands for; of a file alone, its attribute `name`.

    Raises:
        TargetError: The file or module is missing, cannot be imported, or has no such attribute.
    """
    place, _, given = target.partition("::")
    if not place.endswith(".py"):
        return _attribute(target, *place.partition(":")[::2])
    loaded = _from_file(target, Path(place))
    if not hasattr(loaded, given or name):
        raise TargetError(f"file {place!r} has no attribute {given or name!r}")
    return getattr(loaded, given or name)


def _from_file(target: str, path: Path) -> ModuleType:
    """Import a file, once in a process, under a name of its own."""
    if not path.is_file():
        raise TargetError(f"file {str(path)!r} of target {target!r} is not there")
    resolved = path.resolve()
    name = _module_name(resolved)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise TargetError(f"file {str(path)!r} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    _first_on_path(resolved.parent)
    sys.modules[name] = module
    before = set(sys.modules)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise TargetError(f"file {str(path)!r} cannot be imported: {_last_line(error)}") from error
    vars(module)[_IMPORTED] = sorted(set(sys.modules) - before)
    return module


def _module_name(resolved: Path) -> str:
    return f"parity_target_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"


def _attribute(target: str, module: str, attribute: str) -> Any:
    if not module or not attribute:
        raise TargetError(f"target {target!r} is neither a component, FILE.py, FILE.py::NAME nor MODULE:ATTR")
    _first_on_path(Path.cwd())
    before = set(sys.modules)
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise TargetError(f"module {module!r} cannot be imported: {_last_line(error)}") from error
    vars(loaded).setdefault(_IMPORTED, sorted(set(sys.modules) - before))
    if not hasattr(loaded, attribute):
        public = ", ".join(_names_of_pairs(vars(loaded))) or "it has no pair"
        raise TargetError(f"module {module!r} has no attribute {attribute!r}; allowed: {public}")
    return getattr(loaded, attribute)


def _names_of_pairs(namespace: Mapping[str, Any]) -> list[str]:
    return [name for name, value in namespace.items() if any(True for _ in pairs_in(value))]


def _first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
