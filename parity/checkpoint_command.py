"""`parity checkpoint`: what a PyTorch or MLX checkpoint of M2-BERT is, its conversion, and files to try both with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from parity.checkpoint_options import (
    ConfigOption,
    FileArgument,
    JsonOption,
    SetOption,
    or_empty,
    published_of,
    settings_of,
)
from parity.errors import CheckpointError
from parity.plain import json_text, one_line
from parity.terminal import tensor_progress

if TYPE_CHECKING:
    from parity.checkpoint import Checkpoint, Conversion

_HELP = (
    "Checkpoints of M2-BERT: what a file is, and its conversion between PyTorch and MLX.\n\n"
    "No code of a file is ever run. Start with `parity checkpoint inspect FILE`; docs/checkpoints.md."
)


class LayoutChoice(StrEnum):
    """Layouts as the command line spells them."""

    mlx = "mlx"
    torch = "torch"


class FormChoice(StrEnum):
    """Formats of generated files as the command line spells them."""

    composer = "composer"
    plain = "plain"
    legacy = "legacy"
    safetensors = "safetensors"
    npz = "npz"
    shards = "shards"


class DtypeChoice(StrEnum):
    """Kinds of numbers of generated files."""

    F32 = "F32"
    BF16 = "BF16"
    F16 = "F16"
    F64 = "F64"


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> typer.Typer:
    """Add the commands `checkpoint ...` to `app` and return them; `guarded` turns a user's mistake into one line."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=_HELP)
    app.add_typer(commands, name="checkpoint")

    @commands.command()
    def inspect(
        file: FileArgument, settings: SetOption = None, config: ConfigOption = None, as_json: JsonOption = False
    ) -> None:
        """Say what a checkpoint is: format, head, configuration, and where each of its tensors goes.

        Everything is read off names and shapes; what they do not say is listed with the value it is taken as. The
        nearest of the seven public checkpoints is named, with every difference. Names of shared parameters must hold
        equal numbers.

        Examples:

        * `parity checkpoint inspect epoch-70.pt`
        * `parity checkpoint inspect model.safetensors.index.json --json`
        * `parity checkpoint inspect model.bin --set hyena_w_mod=14 --set layer_norm_eps=1e-5`

        Exit status 1 if a tensor is missing, left over, mis-shaped or contradicts another; 2 if the file is refused; 3
        if it holds no tensor.
        """
        raise typer.Exit(
            guarded(lambda: or_empty(lambda: _inspect(file, settings or [], config, as_json)), "nothing was judged")
        )

    @commands.command()
    def convert(
        file: FileArgument,
        out: Annotated[
            Path,
            typer.Argument(
                metavar="OUT", help="Where to; .safetensors or .npz for MLX, .safetensors or .pt for torch."
            ),
        ],
        to: Annotated[
            LayoutChoice | None, typer.Option(help="Whose names and axes. Default: the other side's than FILE's.")
        ] = None,
        settings: SetOption = None,
        config: ConfigOption = None,
        keep_constants: Annotated[
            bool,
            typer.Option(
                "--keep-constants", help="Keep what is set aside in a file beside OUT; converting back restores it."
            ),
        ] = False,
        force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Convert all of a checkpoint to the MLX port's names and axes, or back to PyTorch's, bit for bit.

        Every tensor is used once, set aside by name with a reason, or an error. The configuration is written beside
        OUT, ending in .json. Memory stays at a few MiB beyond the largest tensor whose axes move; OUT is there whole
        or not at all.

        Examples:

        * `parity checkpoint convert epoch-70.pt m2.safetensors` for MLX
        * `parity checkpoint convert m2.safetensors back.pt` for PyTorch again
        * `parity checkpoint convert epoch-70.pt plain.safetensors --to torch` another format, same names

        Exit status 2 if the file is refused, is no whole model or holds NaN, or OUT is there already; 3 if it holds no
        tensor.
        """
        layout = None if to is None else to.value
        raise typer.Exit(
            guarded(
                lambda: or_empty(
                    lambda: _convert(file, out, layout, settings or [], config, keep_constants, force, as_json)
                ),
                "nothing was written",
            )
        )

    @commands.command()
    def generate(
        name: Annotated[str, typer.Argument(metavar="NAME", help="A public checkpoint, for example `m2-bert-80m`.")],
        out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to; of --form shards the index.json.")],
        form: Annotated[FormChoice, typer.Option(help="The format.")] = FormChoice.composer,
        dtype: Annotated[DtypeChoice, typer.Option(help="Kind of numbers.")] = DtypeChoice.F32,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the numbers.")] = 0,
        constants: Annotated[
            bool, typer.Option("--constants", help="With tables of a fused transform, as retrieval checkpoints carry.")
        ] = False,
        force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    ) -> None:
        """Write a file with the names, shapes and format of a public checkpoint, and random numbers.

        To try the other commands at full size where the real file is not at hand: `parity checkpoint generate
        m2-bert-80m try.pt`, 0.4 GB.
        """
        raise typer.Exit(
            guarded(
                lambda: _generate(name, out, form.value, dtype.value, seed, constants, force), "nothing was written"
            )
        )

    return commands


def _inspect(path: Path, settings: list[str], config: Path | None, as_json: bool) -> int:
    from parity.checkpoint import read_checkpoint

    published = published_of(config)
    with read_checkpoint(path, settings_of(settings), published) as checkpoint:
        problems = [*checkpoint.problems, *checkpoint.disagreements()]
        if as_json:
            sys.stdout.write(json_text(_facts(checkpoint, problems, published)))
        else:
            _print(checkpoint, problems, published)
    return 1 if problems else 0


def _facts(checkpoint: Checkpoint, problems: list[str], published: Mapping[str, Any]) -> dict[str, Any]:
    from parity.checkpoint import nearest

    public, differences = nearest(checkpoint.inferred)
    inferred = checkpoint.inferred
    return {
        "file": str(checkpoint.file.path),
        "format": checkpoint.file.form,
        "bytes": checkpoint.file.size,
        "layout": checkpoint.layout,
        "prefix": checkpoint.prefix,
        "dtypes": checkpoint.dtypes,
        "head": checkpoint.head,
        "config": inferred.config.model_dump(mode="json"),
        "read": dict(inferred.read),
        "assumed": [vars(assumed) for assumed in inferred.assumed],
        "published_differs": _published_differences(checkpoint, published),
        "nearest": {"name": public.name, "differences": [vars(difference) for difference in differences]},
        "tensors": len(checkpoint.file.tensors),
        "accounted": checkpoint.accounted,
        "used": len(checkpoint.stored),
        "aliases": len(checkpoint.aliases),
        "filled": list(checkpoint.filled),
        "set_aside": [{"name": aside.name, "reason": aside.reason} for aside in checkpoint.set_aside],
        "problems": problems,
    }


def _published_differences(checkpoint: Checkpoint, published: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Keys that were read and that a published configuration says otherwise, with both values."""
    config = checkpoint.config
    return {
        key: [getattr(config, key), published[key]]
        for key in checkpoint.inferred.read
        if key in published and published[key] != getattr(config, key)
    }


def _print(checkpoint: Checkpoint, problems: list[str], published: Mapping[str, Any]) -> None:
    facts = _facts(checkpoint, problems, published)
    config = facts["config"]
    out = Console(highlight=False, soft_wrap=True)

    def line(text: str) -> None:
        out.print(one_line(text), markup=False)

    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["dtypes"].items())
    line(f"{facts['file']}: {facts['format']}, {facts['bytes']} bytes, {facts['tensors']} tensors ({kinds})")
    prefix = f"; before every name stands {facts['prefix']!r}" if facts["prefix"] else ""
    whose = "the MLX port's" if facts["layout"] == "mlx" else "PyTorch's"
    line(f"{facts['head']}, names and axes {whose}{prefix}")
    line("read off names and shapes:")
    for key in facts["read"]:
        line(f"  {key} = {_value(config[key])}")
    line("not stored, so taken as (--set KEY=VALUE changes it):")
    for assumed in facts["assumed"]:
        origin = {"default": "", "given": " (given)", "noted": " (noted in a file)"}[assumed["origin"]]
        line(f"  {assumed['key']} = {_value(assumed['value'])}{origin}: {assumed['reason']}")
    for key, (mine, theirs) in facts["published_differs"].items():
        line(f"  the configuration given says {key} = {_value(theirs)}; the checkpoint says {_value(mine)}")
    line(_nearest_line(facts["nearest"]))
    filled = f", {len(facts['filled'])} names missing that a shared parameter fills" if facts["filled"] else ""
    aside = len(facts["set_aside"])
    line(
        f"accounted for: {facts['accounted']} of {facts['tensors']} tensors: {facts['used']} used, "
        f"{facts['aliases']} other names of shared parameters, {aside} set aside{filled}"
    )
    reasons: dict[str, list[str]] = {}
    for entry in facts["set_aside"]:
        reasons.setdefault(entry["reason"], []).append(entry["name"])
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        line(f"  set aside {names[0]}{more}: {reason}")
    for problem in problems:
        line(f"  PROBLEM {problem}")
    line(f"FAIL: {len(problems)} problems; this is no whole model" if problems else "OK: a whole model")


def _value(value: Any) -> str:
    """Return a value as JSON spells it, a whole number without a fraction."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _nearest_line(nearest: Mapping[str, Any]) -> str:
    if not nearest["differences"]:
        return f"nearest public checkpoint: {nearest['name']}, the same in every name and shape"
    pairs = ", ".join(
        f"{entry['key']} {_value(entry['value'])} ({_value(entry['public'])})" for entry in nearest["differences"]
    )
    return f"nearest public checkpoint: {nearest['name']}, which has in brackets: {pairs}"


def _convert(
    path: Path,
    out: Path,
    to: Any,
    settings: list[str],
    config: Path | None,
    keep_constants: bool,
    force: bool,
    as_json: bool,
) -> int:
    from parity.checkpoint import convert

    published = published_of(config)
    with tensor_progress("converting") as on_tensor:
        done = convert(
            path,
            out,
            to=to,
            overrides=settings_of(settings),
            published=published,
            force=force,
            keep_constants=keep_constants,
            on_tensor=on_tensor,
        )
    if as_json:
        sys.stdout.write(json_text(_written(done)))
    else:
        _print_conversion(done)
    return 0


def _written(done: Conversion) -> dict[str, Any]:
    return {
        "out": str(done.out),
        "record": str(done.record),
        "constants": None if done.constants is None else str(done.constants),
        "layout": done.layout,
        "tensors": done.written,
        "restored": done.restored,
        "bytes": done.nbytes,
        "set_aside": [{"name": noted.name, "reason": noted.reason} for noted in done.set_aside],
    }


def _print_conversion(done: Conversion) -> None:
    out = Console(highlight=False, soft_wrap=True)

    def line(text: str) -> None:
        out.print(one_line(text), markup=False)

    restored = f", {done.restored} of them names restored" if done.restored else ""
    line(f"{done.out}: {done.written} tensors for {done.layout}{restored}, {done.nbytes} bytes of numbers")
    line(f"{done.record}: the configuration")
    if done.set_aside:
        names = done.set_aside[0].name + (f" and {len(done.set_aside) - 1} more" if len(done.set_aside) > 1 else "")
        where = f"kept in {done.constants}" if done.constants else "not carried over"
        line(f"set aside, {where}: {names}")


def _generate(name: str, out: Path, form: Any, dtype: str, seed: int, constants: bool, force: bool) -> int:
    from parity.checkpoint import generate, public_called
    from parity.checkpoint.tensors import quoted

    public = public_called(name)
    if out.exists() and not force:
        raise CheckpointError(f"{quoted(out)} is there already; choose another OUT, or --force replaces it")
    with tensor_progress("writing") as on_tensor:
        count = generate(
            out, public.head, public.config, form, seed=seed, dtype=dtype, constants=constants, on_tensor=on_tensor
        )
    typer.echo(f"{out}: {count} tensors of {name} with random numbers, seed {seed}")
    return 0
