"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final
from zlib import crc32

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
        if _is_stream(path):
            with path.open("ab") as stream:
                stream.write(data)
            return
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # a RuntimeError is a loop of links
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {str(path)!r}: {reason}; {remedy}") from None
    with staged_file(target, remedy, make_folder) as file:
        file.write(data)


def _is_stream(path: Path) -> bool:
    """Whether a path is no regular file, or a name of an open one, as `/dev/stdout`, which others go on writing to."""
    folder = path.parent.resolve()
    named = folder == Path("/dev") or folder.is_relative_to("/proc")
    return path.exists() and (named or not path.is_file())


@contextmanager
def staged_file(path: Path, remedy: str, make_folder: bool = False) -> Iterator[IO[bytes]]:
    """Give a file to write to, which stands at `path` once the block has ended, and not at all if it raises.

    Where the system has files without a name (Linux), the file has none until it is whole: even a killed process leaves
    nothing.

    Args:
        path: The file.
        remedy: What to do if it cannot be written.
        make_folder: Whether to make the folder where there is none.

    Raises:
        OutputError: It cannot be written.
    """
    staged = path.parent / f".parity-{os.getpid()}-{crc32(os.fsencode(path.name)):08x}-staged"
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        staged.unlink(missing_ok=True)
        nameless = _nameless(path.parent)
        try:
            with nameless or staged.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if nameless:
                    # With a folder named, Python follows the link to the file itself; for a whole path none is used.
                    os.link(f"/proc/self/fd/{file.fileno()}", staged, src_dir_fd=file.fileno())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}; {remedy}") from None


def _nameless(folder: Path) -> IO[bytes] | None:
    """Return a file of `folder` without a name, or None where the system or the file system has none."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.fdopen(os.open(folder, flag | os.O_RDWR | os.O_CLOEXEC, 0o666), "w+b")
    except OSError:
        return None
