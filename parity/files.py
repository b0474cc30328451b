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

    Args:
        path: The file.
        content: Text, written as UTF-8 without change of its line ends, or bytes.
        remedy: What to do if it cannot be written.
        make_folder: Whether to make the folder where there is none.

    Raises:
        OutputError: It cannot.
    """
    staged = path.parent / f".parity-{os.getpid()}-staged"
    data = content.encode() if isinstance(content, str) else content
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with staged.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}; {remedy}") from None
