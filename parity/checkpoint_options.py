"""Options that the commands about checkpoints share: a file, and what its names and shapes do not say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from parity.errors import ConfigError, NoTensorsError

FileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A .pt or .bin of torch.save, .safetensors, .npz, or the index.json of several files."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value that names and shapes do not say: `--set hyena_w_mod=14`. Repeat it.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="JSON",
        help="A published configuration, such as config.json: of it, only what names and shapes do not say is taken.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings_of(settings: list[str]) -> dict[str, Any]:
    """Return the values of `--set KEY=VALUE`, each as JSON reads it, else as a text.

    Raises:
        ConfigError: One has no `=`, or a key stands there twice.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key or key in found:
            raise ConfigError(f"--set takes KEY=VALUE, each key once; got {setting!r}")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def published_of(path: Path | None) -> dict[str, Any]:
    """Return the object in a published configuration; {} if none is named.

    Raises:
        CheckpointError: It cannot be read, or is no JSON object.
    """
    if path is None:
        return {}
    from parity.checkpoint.record import read_configuration

    return read_configuration(path)


def or_empty(command: Callable[[], int]) -> int:
    """Run a command; a checkpoint without a tensor becomes one line and status 3."""
    try:
        return command()
    except NoTensorsError as error:
        sys.stderr.write(f"parity: {error}\n")
        return 3
