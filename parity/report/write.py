"""Writing a report so that it is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from parity.errors import OutputError
from parity.pages import DETAILS, LAYERS, PAGE, SUMMARY
from parity.replay.files import remove_bundles, write_bundle

REPORT_FILES: Final = (LAYERS, DETAILS, "report.md", PAGE, SUMMARY)
"""In the order in which they are put in place: a folder holds a report if and only if it has the last one."""


def make_folder(folder: Path) -> None:
    """Make `folder`, and prove that it can be written to.

    Raises:
        OutputError: It cannot; nothing was run yet.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".parity-"):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def prepare_folder(folder: Path) -> None:
    """Make `folder`, and take an older report's summary and bundles away.

    A run that is killed then leaves no report, rather than one that somebody could take for its own.

    Raises:
        OutputError: It cannot; nothing was run yet.
    """
    make_folder(folder)
    try:
        (folder / SUMMARY).unlink(missing_ok=True)
        remove_bundles(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"output folder {str(folder)!r} cannot be written: {reason}; choose another with --out")


def write_report(folder: Path, texts: Mapping[str, str], bundles: Mapping[str, bytes] | None = None) -> None:
    """Put the files of a report into `folder`.

    All are written beside their places first. Then the old summary and bundles go, the bundles come, the others are
    replaced, and the new summary comes last: killed at any moment, the folder has no summary or a complete report.

    Args:
        folder: Made by `prepare_folder`.
        texts: The files of the report, by name.
        bundles: Those of its failures, by path relative to `folder`.

    Raises:
        OutputError: A file cannot be written.
        ValueError: `texts` is not exactly the files of a report.
    """
    if set(texts) != set(REPORT_FILES):
        raise ValueError(f"a report is {', '.join(REPORT_FILES)}; got {', '.join(texts)}")
    staged = {name: folder / f".parity-{os.getpid()}-{name}" for name in REPORT_FILES}
    try:
        for name, path in staged.items():
            _write(path, texts[name])
        (folder / SUMMARY).unlink(missing_ok=True)
        remove_bundles(folder)
        for place, data in (bundles or {}).items():
            write_bundle((folder / place).parent, Path(place).name, data)
        for name, path in staged.items():
            path.replace(folder / name)
    except OSError as error:
        raise OutputError(f"report in {str(folder)!r} cannot be written: {error.strerror or error}") from None
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)
        if not (folder / SUMMARY).exists():
            remove_bundles(folder)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
