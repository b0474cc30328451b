"""Constants of a backend: by how much a device errs more than the table of tolerances says, kept in a file.

The table (`parity.tolerance`) holds for CPUs. What the error of an operation is on another device, `parity calibrate
--write` measures there, and writes beside the environment in which it was measured. Where a device errs less, the table
stands: a calibration never tightens it. Where it errs more, the model is loosened by the factor, but by no more than
`MOST_LOOSENED` unless the entry gives a reason, which a person has to write.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from parity.errors import DeviceError
from parity.files import write_whole
from parity.plain import json_text
from parity.spec.devices import Devices
from parity.tolerance import CALIBRATED, NO_FACTORS, Factors

FORMAT: Final = 1
MOST_LOOSENED: Final = 2.0
"""Factor beyond which an entry needs a reason: one bit, the standard margin of the accuracy test."""

_LARGEST_FILE: Final = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One measured error model.

    Args:
        name: Its name in `parity.tolerance.CALIBRATED`.
        measured: Error on the device over what the table predicts, or, of a bound, over what it allows: the largest.
        where: The problem in which that was seen.
        factor: What the table's number is multiplied by, at least 1.
        reason: Why a factor beyond `MOST_LOOSENED` is right.
        seen: Of a bound C u g S, the C that was needed; None elsewhere.
    """

    name: str
    measured: float
    where: str
    factor: float
    reason: str = ""
    seen: float | None = None


def write_constants(path: Path, backend: str, environment: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Write what was measured on `backend`, with the environment.

    Raises:
        OutputError: It cannot be written.
    """
    document = {
        "format": FORMAT,
        "backend": backend,
        "most_loosened": MOST_LOOSENED,
        "environment": environment,
        "constants": {entry.name: {k: v for k, v in asdict(entry).items() if k != "name"} for entry in entries},
    }
    write_whole(path, json_text(document), "choose another place by --write")


def constants_of(backend: str, devices: Devices, path: Path | None = None) -> Factors:
    """Return the factors that hold on a backend: those of a file, else those that come with the package, else none.

    Args:
        backend: `cpu`, `cuda` or `metal`.
        devices: Where both sides run, for the message.
        path: The file.

    Raises:
        DeviceError: The file is no such file, of another backend, or loosens without a reason.
    """
    if path is not None:
        return _factors(_read(path), str(path), backend, devices)
    packaged = resources.files("parity.spec") / "constants" / f"{backend}.json"
    if not packaged.is_file():
        return NO_FACTORS
    return _factors(_document(packaged.read_bytes(), packaged.name), "", backend, devices)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise DeviceError(f"--constants {str(path)!r} cannot be read: {error.strerror or error}") from None
    return _document(content, str(path))


def _document(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content) if len(content) <= _LARGEST_FILE else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("constants"), dict):
        raise DeviceError(
            f"--constants {name!r} is no file of constants (format {FORMAT}); write one by `parity calibrate --write`"
        )
    return found


def _factors(document: Mapping[str, Any], source: str, backend: str, devices: Devices) -> Factors:
    name = source or f"{backend}.json"
    if document.get("backend") != backend:
        raise DeviceError(
            f"--constants {name!r} was measured on {document.get('backend')!r}, the port runs on {backend!r} "
            f"(--port-device {devices.port}): calibrate there, `parity calibrate --port-device {devices.port} --write "
            "FILE`"
        )
    values = [(entry, _factor(name, entry, given)) for entry, given in document["constants"].items()]
    return Factors(tuple((entry, factor) for entry, factor in values if factor > 1), source)


def _factor(name: str, entry: str, given: Any) -> float:
    if entry not in CALIBRATED:
        raise DeviceError(f"--constants {name!r}: unknown constant {entry!r}; allowed: {', '.join(CALIBRATED)}")
    factor = given.get("factor") if isinstance(given, Mapping) else None
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor < math.inf:
        raise DeviceError(f"--constants {name!r}: the factor of {entry} is a number of at least 1; got {factor!r}")
    if factor > MOST_LOOSENED and not str(given.get("reason") or "").strip():
        raise DeviceError(
            f"--constants {name!r}: {entry} is loosened {factor:.3g} times, by more than {MOST_LOOSENED:g}, and gives "
            'no reason; find out why the device errs so, and write it into its "reason"'
        )
    return float(factor)
