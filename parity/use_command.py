"""`parity embed`, `parity fill-mask`: the MLX model at work; `parity checkpoint extend`: a model of more positions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from parity.blas import choose_blas
from parity.checkpoint_options import (
    ConfigOption,
    FileArgument,
    JsonOption,
    SetOption,
    or_empty,
    published_of,
    settings_of,
)
from parity.plain import json_text, one_line
from parity.terminal import tensor_progress
from parity.token_options import (
    USUAL_BUDGET,
    BlasOption,
    BudgetOption,
    IdsOption,
    LengthOption,
    MaskOption,
    ProfileOption,
    TextOption,
    TokenizerOption,
    profile_of,
)

if TYPE_CHECKING:
    from parity.port_model import PortModel
    from parity.tokens import Tokens

Loaded = Callable[["PortModel", "tuple[Tokens, ...]"], int]


def register(app: typer.Typer, commands: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add `embed` and `fill-mask` to `app`, `extend` to the commands about checkpoints."""

    @app.command()
    def embed(
        file: FileArgument,
        text: TextOption = None,
        tokenizer: TokenizerOption = None,
        ids: IdsOption = None,
        length: LengthOption = None,
        profile: ProfileOption = None,
        settings: SetOption = None,
        config: ConfigOption = None,
        budget_bytes: BudgetOption = USUAL_BUDGET,
        mlx_blas: BlasOption = "auto",
        as_json: JsonOption = False,
    ) -> None:
        """Turn a text, or ids, into a vector with the MLX model of a checkpoint; one for each sequence of ids.

        Of a retrieval model that is its own embedding; of a masked-language model the mean of the hidden states.

        Examples:

        * `parity embed m2-bert-80m-2k-retrieval.bin --text "A sentence." --tokenizer bert-base-uncased`
        * `parity embed m2.safetensors --ids ids.json --json > vector.json`
        """
        raise typer.Exit(
            guarded(
                lambda: or_empty(
                    lambda: _with_model(
                        (file, settings, config), (text, tokenizer, ids, length, None), profile, budget_bytes, mlx_blas,
                        lambda model, tokens: _embed(model, tokens, as_json),
                    )
                ),
                "nothing was computed",
            )
        )  # fmt: skip

    @app.command("fill-mask")
    def fill_mask(
        file: FileArgument,
        text: TextOption = None,
        tokenizer: TokenizerOption = None,
        ids: IdsOption = None,
        length: LengthOption = None,
        mask_id: MaskOption = None,
        top: Annotated[int, typer.Option(min=1, max=1000, help="How many words at each [MASK].")] = 5,
        profile: ProfileOption = None,
        settings: SetOption = None,
        config: ConfigOption = None,
        budget_bytes: BudgetOption = USUAL_BUDGET,
        mlx_blas: BlasOption = "auto",
        as_json: JsonOption = False,
    ) -> None:
        """Say which words are likely where a text has [MASK], by the MLX model of a checkpoint.

        Example:

        * `parity fill-mask epoch-70.pt --text "Paris is the [MASK] of France." --tokenizer bert-base-uncased`
        """
        raise typer.Exit(
            guarded(
                lambda: or_empty(
                    lambda: _with_model(
                        (file, settings, config), (text, tokenizer, ids, length, mask_id), profile, budget_bytes,
                        mlx_blas, lambda model, tokens: _fill(model, tokens, top, as_json),
                    )
                ),
                "nothing was computed",
            )
        )  # fmt: skip

    @commands.command()
    def extend(
        file: FileArgument,
        out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to; the side (torch, MLX) is FILE's.")],
        length: Annotated[int, typer.Option("--length", min=2, metavar="L", help="Positions of the new model.")],
        settings: SetOption = None,
        config: ConfigOption = None,
        force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Make a model of more positions: the tables of positions are repeated, everything else stays bit for bit.

        So long-context checkpoints were begun. The new model wants training; `parity checkpoint verify` takes it as it
        is.

        Example:

        * `parity checkpoint extend epoch-70.pt long.pt --length 32768`

        Exit status 2 if the file is refused, is no whole model or has as many positions, or OUT is there already.
        """
        raise typer.Exit(
            guarded(
                lambda: or_empty(lambda: _extend(file, out, length, settings or [], config, force, as_json)),
                "nothing was written",
            )
        )


def _with_model(
    named: tuple[Path, list[str] | None, Path | None],
    given: tuple[str | None, Path | None, Path | None, int | None, int | None],
    profile: str | None,
    budget_bytes: int,
    blas: str,
    then: Loaded,
) -> int:
    """Open a checkpoint, make its tokens, load its model, and go on with both."""
    meaning = profile_of(profile)
    choose_blas(blas)
    from parity.checkpoint import open_checkpoint
    from parity.port_model import freed_memory_kept, hold_filters, load_port
    from parity.tokens import sequences_of

    (path, settings, config), (text, tokenizer, ids, length, mask_id) = named, given
    with open_checkpoint(path, settings_of(settings or []), published_of(config)) as checkpoint:
        sequences = sequences_of(
            checkpoint.config, text=text, tokenizer=tokenizer, ids=ids, length=length, mask_id=mask_id
        )
        model = load_port(checkpoint, meaning, budget_bytes)
    if len(sequences) > 1:
        hold_filters(model, len(sequences[0].ids))
    with freed_memory_kept():
        return then(model, sequences)


def _embed(model: PortModel, sequences: tuple[Tokens, ...], as_json: bool) -> int:
    from parity.port_model import embedding

    vectors = [embedding(model, tokens) for tokens in sequences]
    if as_json:
        several = {"embeddings": [vector.tolist() for vector in vectors]}
        one = {"embedding": vectors[0].tolist()}
        sys.stdout.write(json_text({"ids": sequences[0].source, **(one if len(vectors) == 1 else several)}))
        return 0
    _say(sequences)
    for vector in vectors:
        typer.echo(" ".join(f"{value:.6g}" for value in vector))
    return 0


def _say(sequences: tuple[Tokens, ...]) -> None:
    """Say on standard error what the model was run on."""
    times = f"{len(sequences)} times " if len(sequences) > 1 else ""
    sys.stderr.write(f"parity: {times}{len(sequences[0].ids)} ids {sequences[0].source}\n")


def _fill(model: PortModel, sequences: tuple[Tokens, ...], top: int, as_json: bool) -> int:
    from parity.port_model import fillings

    found = [(tokens, row) for tokens in sequences for row in fillings(model, tokens, top)]
    numbers = {id(tokens): number for number, tokens in enumerate(sequences)}
    if as_json:
        rows = [
            {
                **({"sequence": numbers[id(tokens)]} if len(sequences) > 1 else {}),
                "position": it.position,
                "id": it.token,
                "word": tokens.word(it.token),
                "probability": it.probability,
            }
            for tokens, row in found
            for it in row
        ]
        sys.stdout.write(json_text({"ids": sequences[0].source, "fillings": rows}))
        return 0
    _say(sequences)
    out = Console(highlight=False, soft_wrap=True)
    for tokens, row in found:
        words = ", ".join(f"{tokens.word(it.token)} {it.probability:.2%}" for it in row)
        which = f"sequence {numbers[id(tokens)]}, " if len(sequences) > 1 else ""
        out.print(one_line(f"{which}position {row[0].position}: {words}"), markup=False)
    return 0


def _extend(
    path: Path, out: Path, length: int, settings: list[str], config: Path | None, force: bool, as_json: bool
) -> int:
    from parity.checkpoint import extend

    published = published_of(config)
    with tensor_progress("extending") as on_tensor:
        done = extend(
            path, out, length, overrides=settings_of(settings), published=published, force=force, on_tensor=on_tensor
        )
    facts = {"out": str(done.out), "record": str(done.record), "length": length, "tensors": done.written}
    if as_json:
        sys.stdout.write(json_text({**facts, "bytes": done.nbytes, "layout": done.layout}))
        return 0
    lines = Console(highlight=False, soft_wrap=True)
    for text in (
        f"{done.out}: {done.written} tensors for {done.layout}, {length} positions, {done.nbytes} bytes of numbers",
        f"{done.record}: the configuration",
    ):
        lines.print(one_line(text), markup=False)
    return 0
