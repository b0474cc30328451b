"""Options that say where either side runs, and by which constants it is judged there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.spec.devices import ON_CPU, Devices, devices_called

if TYPE_CHECKING:
    from parity.pairs import Pair

PortDeviceOption = Annotated[
    str,
    typer.Option(
        "--port-device",
        metavar="cpu|gpu",
        help="Where the port runs, at every rung but f64: no GPU backend of MLX has float64, which stays on the CPU.",
    ),
]
ReferenceDeviceOption = Annotated[
    str,
    typer.Option(
        "--reference-device",
        metavar="cpu|cuda|mps",
        help="Where the reference runs at a rung, TF32 off. Truth and predicted error are float64 on the CPU.",
    ),
]
ConstantsOption = Annotated[
    Path | None,
    typer.Option(
        "--constants",
        metavar="FILE",
        help="Constants of the port's device, as `parity calibrate --write` measured them there.",
    ),
]


@dataclass(frozen=True)
class Place:
    """Where both sides run, and the file of the constants of the port's device."""

    devices: Devices = ON_CPU
    constants: Path | None = None

    def put(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return the pairs on their devices, judged by what is known of the port's.

        Raises:
            DeviceError: A device is not there, or the constants are not those of the port's.
        """
        from parity.device_constants import constants_of
        from parity.environment import require_devices
        from parity.environment.devices import backend_of

        require_devices(self.devices)
        factors = constants_of(backend_of(self.devices.port), self.devices, self.constants)
        return [replace(pair, devices=self.devices, factors=factors) for pair in pairs]


def place_of(port: str, reference: str, constants: Path | None = None) -> Place:
    """Return where both sides run, as a command line says it.

    Raises:
        DeviceError: A device's name is unknown.
    """
    return Place(devices_called(port, reference), constants)
