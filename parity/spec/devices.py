"""Devices: where the port runs, and where the reference does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from parity.errors import DeviceError
from parity.spec.precision import Rung

PortDevice = Literal["cpu", "gpu"]
ReferenceDevice = Literal["cpu", "cuda", "mps"]
PORT_DEVICES: Final[tuple[str, ...]] = get_args(PortDevice)
REFERENCE_DEVICES: Final[tuple[str, ...]] = get_args(ReferenceDevice)


@dataclass(frozen=True)
class Devices:
    """Where either side runs, at every rung but f64, which no GPU backend of MLX has: that one is the CPU's.

    Truth, predicted noise and conditioning are float64 too, and the CPU's.

    Args:
        port: `cpu`, or `gpu`: whichever MLX was built for, CUDA or Metal.
        reference: `cpu`, `cuda` or `mps`, as torch calls them.
    """

    port: PortDevice = "cpu"
    reference: ReferenceDevice = "cpu"

    @property
    def words(self) -> list[str]:
        """The options of a command line that choose them; nothing for what is the default."""
        port = ["--port-device", self.port] if self.port != "cpu" else []
        return [*port, *(["--reference-device", self.reference] if self.reference != "cpu" else [])]

    def port_at(self, rung: Rung) -> PortDevice:
        """Return where the port runs at `rung`."""
        return "cpu" if rung.name == "f64" else self.port

    def reference_at(self, rung: Rung) -> ReferenceDevice:
        """Return where the reference runs at `rung`."""
        return "cpu" if rung.name == "f64" else self.reference


ON_CPU: Final = Devices()
"""Both sides on the CPU."""


def devices_called(port: str, reference: str) -> Devices:
    """Return the devices of these names.

    Raises:
        DeviceError: A name is unknown.
    """
    for option, name, allowed in (
        ("--port-device", port, PORT_DEVICES),
        ("--reference-device", reference, REFERENCE_DEVICES),
    ):
        if name not in allowed:
            raise DeviceError(f"{option}: unknown device {name!r}; allowed: {', '.join(allowed)}")
    return Devices(cast(PortDevice, port), cast(ReferenceDevice, reference))


def devices_in(environment: Mapping[str, Any]) -> Devices:
    """Return the devices that a stored environment names; one without them is of the CPU.

    Raises:
        DeviceError: A name is unknown.
    """
    return devices_called(str(environment.get("port_device", "cpu")), str(environment.get("reference_device", "cpu")))
