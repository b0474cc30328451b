"""A journal: a line of JSON that says what a long piece of work is, and one for every finished part of it.

A part counts as finished once its line ends; half a line, which a killed process leaves, is dropped. Parts of other
code, packages, switches or questions are never put together: a journal whose first line is another is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, Literal, TypeVar

from parity.code import code_hash
from parity.environment import collect
from parity.errors import JournalError, OutputError
from parity.own_code import own_code
from parity.pairs import Pair
from parity.plain import plain
from parity.spec.devices import ON_CPU
from parity.spec.profile import HyperProfile
from parity.tolerance import NO_FACTORS

_SHOWN: Final = 60
_TRIES: Final = 100
"""Times that a journal is opened: whoever removes it has finished, so more than a few take somebody who means it."""
_LONGEST_HEADER: Final = 1_000_000
"""Bytes: a file that is no journal may have no line at all."""

Part = TypeVar("Part")


def common_header(pairs: Sequence[Pair], profiles: Sequence[HyperProfile]) -> dict[str, Any]:
    """Return what all parts of one journal have in common: code, components, profiles, packages, switches, devices."""
    devices, factors = next(((pair.devices, pair.factors) for pair in pairs), (ON_CPU, NO_FACTORS))
    environment = collect()
    return {
        "code": code_hash(),
        "components": [pair.name for pair in pairs],
        "own": own_code([pair.target for pair in pairs if pair.target]),
        "profiles": [profile.model_dump() for profile in profiles],
        "versions": dict(environment.versions),
        "switches": dict(environment.switches),
        "device": environment.mlx_device,
        "port_device": devices.port,
        "reference_device": devices.reference,
        "constants": dict(factors.values),
    }


@dataclass(frozen=True)
class JournalKind(Generic[Part]):
    """What a kind of journal is called, and how its parts are written and read.

    Args:
        name: The file's noun in messages.
        command: The command whose journal it is, the value of the header's first key.
        work: What a journal of other code is said to belong to.
        remedy: What to do about one that cannot be used.
        error: What is raised about one.
        goes_on: What to do when a part cannot be added, the others being kept.
        write: Returns a part as JSON knows it.
        read: Its inverse; a ValueError, TypeError or KeyError says that the line is no part.
    """

    name: str
    command: str
    work: str
    remedy: str
    error: type[JournalError]
    write: Callable[[Part], Any]
    read: Callable[[Any], Part]
    goes_on: str
    part: str = "part"


class Journal(Generic[Part]):
    """An open journal: the parts that it had, and a place for more."""

    def __init__(self, kind: JournalKind[Part], path: Path, file: BinaryIO, parts: Sequence[Part]) -> None:
        self.kind, self.path, self.parts, self._file = kind, path, parts, file

    def append(self, part: Part) -> None:
        """Add a finished part.

        Raises:
            OutputError: It cannot be written.
        """
        with _output(self.kind, self.path, self.kind.goes_on):
            _write(self._file, _line(self.kind.write(part)))


@contextlib.contextmanager
def open_journal(
    kind: JournalKind[Part], path: Path, header: Mapping[str, Any], anew: bool = False
) -> Iterator[Journal[Part]]:
    """Open the journal at `path`, or begin one, whatever is there if `anew`; no other process has it meanwhile.

    Raises:
        JournalError: The kind's own: it is no journal, one of other work, damaged, or in use.
        OutputError: It cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        with _output(kind, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _opened(kind, path, "a+b", stack)
            if anew:
                file.truncate(0)
            parts = _read(kind, path, file, _line(dict(header)))
        yield Journal(kind, path, file, parts)


@contextlib.contextmanager
def hold_journal(kind: JournalKind[Any], path: Path) -> Iterator[None]:
    """Keep a journal, if there is one, from other processes, and leave it as it is.

    Raises:
        JournalError: The kind's own: it is in use.
        OutputError: It cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        with _output(kind, path), contextlib.suppress(FileNotFoundError):
            _opened(kind, path, "rb", stack)
        yield


def header_of(path: Path) -> dict[str, Any] | None:
    """Return the first line of a journal, None where there is no file or no whole first line."""
    try:
        with path.open("rb") as file:
            first = file.readline(_LONGEST_HEADER)
        header = json.loads(first)
    except (OSError, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) and first.endswith(b"\n") else None


@contextlib.contextmanager
def _output(kind: JournalKind[Any], path: Path, remedy: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"{kind.name} {str(path)!r} cannot be written: {reason}; {remedy or kind.remedy}") from None


def _opened(kind: JournalKind[Any], path: Path, mode: Literal["a+b", "rb"], stack: contextlib.ExitStack) -> BinaryIO:
    """Open the journal and lock it, and again where its owner has removed it in between: that file is nobody's.

    Raises:
        FileNotFoundError: There is none, and `mode` begins none.
        OutputError: Somebody removes it each time.
    """
    for _ in range(_TRIES):
        with contextlib.ExitStack() as trial:
            file: BinaryIO = trial.enter_context(path.open(mode))
            _lock(kind, path, file)
            if _leads_to(path, file):
                stack.enter_context(trial.pop_all())
                return file
    raise OutputError(f"{kind.name} {str(path)!r} is removed whenever it is opened; choose another place")


def _leads_to(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(kind: JournalKind[Any], path: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise kind.error(f"{kind.name} {str(path)!r} is in use by another process; wait, or choose another") from None


def _read(kind: JournalKind[Part], path: Path, file: BinaryIO, header: bytes) -> list[Part]:
    """Read the parts and cut half a line off the end; write the header where there is none."""
    file.seek(0)
    first = file.readline(_LONGEST_HEADER)
    if not first.endswith(b"\n") and header.startswith(first):
        file.truncate(0)
        _write(file, header)
        return []
    _require_same(kind, path, first, header)
    parts: list[Part] = []
    end = len(first)
    for number, line in enumerate(file, 2):
        if not line.endswith(b"\n"):
            file.truncate(end)
            break
        end += len(line)
        parts.append(_part_of(kind, path, number, line))
    return parts


def _part_of(kind: JournalKind[Part], path: Path, number: int, line: bytes) -> Part:
    try:
        return kind.read(json.loads(line))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise kind.error(
            f"{kind.name} {str(path)!r} is damaged: line {number} is no {kind.part}; {kind.remedy}, or delete it"
        ) from None


def _require_same(kind: JournalKind[Any], path: Path, first: bytes, header: bytes) -> None:
    try:
        stored, now = json.loads(first), json.loads(header)
    except (ValueError, RecursionError):
        stored, now = None, {}
    if not isinstance(stored, dict) or stored.get("log") != now.get("log"):
        raise kind.error(f"{str(path)!r} is no {kind.name} of `{kind.command}`; {kind.remedy}")
    if stored != now:
        differences = "; ".join(_differences("", stored, now))
        raise kind.error(
            f"{kind.name} {str(path)!r} belongs to another {kind.work}: {differences}. {kind.remedy.capitalize()}, or "
            "delete it"
        )


def _differences(name: str, stored: Any, now: Any) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*stored, *now]):
            yield from _differences(f"{name} {key}".strip(), stored.get(key), now.get(key))
    elif _named(stored) and _named(stored) == _named(now):
        for before, after in zip(stored, now, strict=True):
            yield from _differences(f"{name} {before.get('name')}", before, after)
    elif stored != now:
        yield f"{name} was {_shown(stored)}, is {_shown(now)}"


def _named(values: Any) -> list[Any]:
    """Return the names in a list of dictionaries; nothing of anything else."""
    is_named = isinstance(values, list) and all(isinstance(value, dict) for value in values)
    return [value.get("name") for value in values] if is_named else []


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(str(item.get("name")) if isinstance(item, dict) else str(item) for item in value)
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _line(data: Any) -> bytes:
    return (json.dumps(plain(data), separators=(",", ":"), allow_nan=False) + "\n").encode()


def _write(file: BinaryIO, line: bytes) -> None:
    """Write past the buffer: what a full disk did not take would stay there, and fail again when the file is closed."""
    while line:
        line = line[os.write(file.fileno(), line) :]
