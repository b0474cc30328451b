"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from parity.errors import OutputError

JOURNAL: Final = ".parity-run.jsonl"
"""Name of the journal of an unfinished run, in the folder of its report."""


def write_whole(path: Path, content: str | bytes, remedy: str, make_folder: bool = False) -> None:
    """Write a file beside its place, then put it there: whoever is killed meanwhile leaves the old one, or the new.

    A link stays one: the file that it leads to is replaced. What is there and no regular file, a pipe or a terminal, is
    written to as it is.

    Args:
        path: The file.
        content: Text, written as UTF-8 without change of its line ends, or bytes.
        remedy: What to do if it cannot be written.
        make_folder: Whether to make the folder where there is none.

    Raises:
        OutputError: It cannot.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if _is_stream(path):
            with path.open("ab") as file:
                file.write(data)
        else:
            _replace(path.resolve(), data)
    except (OSError, RuntimeError) as error:  # a RuntimeError is a loop of links
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {str(path)!r}: {reason}; {remedy}") from None


def _is_stream(path: Path) -> bool:
    """Whether a path is no regular file, or a name of an open one, as `/dev/stdout`, which others go on writing to."""
    folder = path.parent.resolve()
    named = folder == Path("/dev") or folder.is_relative_to("/proc")
    return path.exists() and (named or not path.is_file())


def _replace(path: Path, data: bytes) -> None:
    staged = path.parent / f".parity-{os.getpid()}-staged"
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
