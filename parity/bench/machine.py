"""The machine that a report is of, as pyperf describes it, and the versions on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any, Final

from parity.bench.cells import only
from parity.errors import ConfigError, ReportError

NEEDED: Final = ("pyperf", "psutil")
PACKAGES: Final = ("mlx", "torch", "numpy", "scipy", "numba", "polygraphy", "pyperf")
"""What a figure may depend on; one that is not installed is left out of the versions."""

_KEYS: Final = frozenset({"cpu", "cores", "memory_mib", "platform", "python", "versions"})


@dataclass(frozen=True)
class Machine:
    """Processor, cores, memory and software; two reports are comparable where the first three are the same."""

    cpu: str
    cores: int
    memory_mib: int
    platform: str
    python: str
    versions: tuple[tuple[str, str], ...]

    @property
    def hardware(self) -> tuple[str, int, int]:
        """What seconds depend on whatever is installed; memory in GiB, as a kernel's own share varies."""
        return self.cpu, self.cores, round(self.memory_mib / 1024)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_mib": self.memory_mib,
            "platform": self.platform,
            "python": self.python,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Machine:
        """Read what `to_dict` wrote.

        Raises:
            ReportError: A key is missing or unknown.
        """
        only(data, set(_KEYS), set(), "the machine")
        if not isinstance(data["versions"], dict) or not isinstance(data["cores"], int):
            raise ReportError("the machine of a benchmark's report has versions by package and a number of cores")
        return cls(
            str(data["cpu"]), data["cores"], int(data["memory_mib"]), str(data["platform"]), str(data["python"]),
            tuple(data["versions"].items()),
        )  # fmt: skip


def require_tools() -> None:
    """Require what a benchmark needs beside the harness.

    Raises:
        ConfigError: It is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"parity bench needs {' and '.join(missing)}, not installed: pip install 'mlx-parity[bench]', or run "
            "nox -s bench"
        )


def describe_machine() -> Machine:
    """Describe this machine."""
    import psutil

    found = _metadata()
    memory = psutil.virtual_memory().total // 2**20
    versions = tuple((name, version) for name in PACKAGES if (version := _version(name)))
    return Machine(
        str(found.get("cpu_model_name", "unknown")), int(found.get("cpu_count", 1)), memory, str(found["platform"]),
        str(found["python_version"]), versions,
    )  # fmt: skip


def load_now() -> float:
    """Return the load average of the last minute, -1 where the system has none."""
    return float(_metadata().get("load_avg_1min", -1.0))


def _metadata() -> dict[str, Any]:
    import pyperf

    # A run holds values; of this one, only what it says about the machine is looked at.
    found: dict[str, Any] = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
