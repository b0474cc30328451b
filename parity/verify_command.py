"""`parity checkpoint verify`: does the port compute what the reference does, on this very file?"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
from parity.errors import ConfigError
from parity.plain import json_text, one_line
from parity.spec.precision import rung_called
from parity.token_options import (
    USUAL_BUDGET,
    BlasOption,
    BudgetOption,
    IdsOption,
    LengthOption,
    MaskOption,
    ProfileOption,
    SeedOption,
    TextOption,
    TokenizerOption,
    profile_of,
)

if TYPE_CHECKING:
    from parity.checkpoint import Checkpoint
    from parity.tokens import Tokens
    from parity.verify import RungResult, Verification

SHORT: Final = 2048
"""Positions up to which a layer is run in float64 where nobody says how many."""


@dataclasses.dataclass(frozen=True)
class _Choice:
    file: Path
    text: str | None
    tokenizer: Path | None
    ids: Path | None
    length: int | None
    mask_id: int | None
    rungs: list[str] | None
    f64_layers: int | None
    profile: str | None
    settings: list[str]
    config: Path | None
    seed: int
    depth: int
    budget_bytes: int
    blas: str
    as_json: bool
    golden: Path | None


def register(commands: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command `verify` to those about checkpoints; `guarded` turns a user's mistake into one line."""

    @commands.command()
    def verify(
        file: FileArgument,
        text: TextOption = None,
        tokenizer: TokenizerOption = None,
        ids: IdsOption = None,
        length: LengthOption = None,
        mask_id: MaskOption = None,
        rung: Annotated[
            list[str] | None,
            typer.Option(help="Where both models run: f32, bf16, f16. Repeat it or join by commas. Default: f32."),
        ] = None,
        f64_layers: Annotated[
            int | None,
            typer.Option(
                "--f64-layers",
                min=0,
                metavar="N",
                help="Layers run in float64 besides, from the first. Default: 1, beyond 2,048 positions none.",
            ),
        ] = None,
        profile: ProfileOption = None,
        settings: SetOption = None,
        config: ConfigOption = None,
        seed: SeedOption = 0,
        depth: Annotated[
            int, typer.Option(min=0, help="Print modules down to this depth inside of a layer; what errs always.")
        ] = 0,
        budget_bytes: BudgetOption = USUAL_BUDGET,
        mlx_blas: BlasOption = "auto",
        as_json: JsonOption = False,
        golden: Annotated[
            Path | None,
            typer.Option(
                "--golden",
                metavar="FILE",
                help="npz, safetensors or JSON with ids and the logits that a model made of them, the original code's "
                "for one: reference and port are held against them.",
            ),
        ] = None,
    ) -> None:
        """Run the PyTorch reference and the MLX port from one file, and judge every module of the port.

        Both models run whole, in step, with one layer's weights in memory at a time. Each module of the port runs on
        what the reference's was given; its own error is measured against the reference's module in float64.

        Examples:

        * `parity checkpoint verify epoch-70.pt` random ids, said so
        * `parity checkpoint verify model.bin --text "Paris is the [MASK] of France." --tokenizer bert-base-uncased`
        * `parity checkpoint verify long.pt --ids ids.json --length 32768 --mlx-blas torch`
        * `parity checkpoint verify tiny.pt --golden logits.npz` with arrays ids and logits, float64

        Exit status 0 if every module keeps within its allowance, 1 if one does not, 2 if the file is refused or an
        option is wrong, 3 if it holds no tensor.
        """
        choice = _Choice(
            file, text, tokenizer, ids, length, mask_id, rung, f64_layers, profile, settings or [], config, seed, depth,
            budget_bytes, mlx_blas, as_json, golden,
        )  # fmt: skip
        raise typer.Exit(guarded(lambda: or_empty(lambda: _verify(choice)), "nothing was judged"))


def _rungs(named: list[str] | None) -> tuple[Any, ...]:
    words = [word.strip() for joined in named or ["f32"] for word in joined.split(",")]
    found = tuple(dict.fromkeys(rung_called(word).name for word in words))
    if "f64" in found:
        raise ConfigError("--rung takes f32, bf16 and f16; --f64-layers N says how many layers run in float64")
    return found


def _verify(choice: _Choice) -> int:
    rungs, profile = _rungs(choice.rungs), profile_of(choice.profile)
    if choice.golden is not None and (choice.text is not None or choice.ids is not None or choice.length is not None):
        raise ConfigError("--golden brings its own ids: leave --text, --ids and --length out")
    choose_blas(choice.blas)
    from parity.checkpoint import open_checkpoint
    from parity.checkpoint.layout import MASKED_LM
    from parity.environment import warm_up
    from parity.environment.product import blas_in_effect
    from parity.tokens import sequences_of
    from parity.verify import read_stored, verify

    warm_up()
    with open_checkpoint(choice.file, settings_of(choice.settings), published_of(choice.config)) as checkpoint:
        stored = None
        if choice.golden is not None:
            stored = read_stored(choice.golden, checkpoint, choice.mask_id)
            sequences = stored.sequences
        else:
            sequences = sequences_of(
                checkpoint.config,
                text=choice.text,
                tokenizer=choice.tokenizer,
                ids=choice.ids,
                length=choice.length,
                seed=choice.seed,
                mask_id=choice.mask_id,
                drawn_types=checkpoint.head == MASKED_LM,
            )
        layers = choice.f64_layers
        if layers is None:
            layers = 1 if len(sequences[0].ids) <= SHORT else 0
        with _counted() as on_row:
            found = verify(
                checkpoint, sequences, profile, rungs, layers, choice.budget_bytes, choice.seed,
                lambda _, row: on_row(row), None if stored is None else stored.answers,
            )  # fmt: skip
        blas = blas_in_effect()
        if choice.as_json:
            sys.stdout.write(json_text(_facts(checkpoint, found, profile.name, blas)))
        else:
            _print(checkpoint, found, profile.name, blas, choice.depth)
    return 0 if found.passed else 1


@contextmanager
def _counted() -> Iterator[Callable[[Any], None]]:
    """Show on a terminal which module was judged last; elsewhere nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _row: None
        return
    with console.status("judging") as status:
        yield lambda row: status.update(f"judged {row.module}")


def _facts(checkpoint: Checkpoint, found: Verification, profile: str, blas: str) -> dict[str, Any]:
    from parity.environment import collect

    environment = collect()
    return {
        "file": str(checkpoint.file.path),
        "head": checkpoint.head,
        "config": checkpoint.config.model_dump(mode="json"),
        "assumed": {assumed.key: assumed.value for assumed in checkpoint.inferred.assumed},
        "profile": profile,
        "ids": {
            "source": found.sequences[0].source,
            "sequences": len(found.sequences),
            "length": len(found.sequences[0].ids),
            "masks": [list(one.masks) for one in found.sequences],
        },
        "mlx_blas": blas,
        "environment": {**environment.to_dict(), "key": environment.key()},
        "passed": found.passed,
        "rungs": [_rung_facts(result) for result in found.rungs],
    }


def _rung_facts(result: RungResult) -> dict[str, Any]:
    answers = result.answers
    return {
        "rung": result.table.rung,
        "layers": result.layers,
        "passed": result.passed,
        "sentence": result.sentence(),
        "answers": None if answers is None else dataclasses.asdict(answers),
        "rows": [
            {
                **{key: value for key, value in dataclasses.asdict(row).items() if key not in _UNUSED},
                "reference": result.own.get(row.module),
                "verdict": result.table.verdict(row),
            }
            for row in result.table.rows
        ],
        "unpaired_reference": result.table.unpaired_reference,
        "unpaired_port": result.table.unpaired_port,
    }


_UNUSED: Final = frozenset({"gain", "missing", "doubts", "signature"})
"""Fields of a row that verification does not fill."""


# --- for people -------------------------------------------------------------------------------------------


def _print(checkpoint: Checkpoint, found: Verification, profile: str, blas: str, depth: int) -> None:
    out = Console(highlight=False, soft_wrap=True)

    def line(text: str) -> None:
        out.print(one_line(text), markup=False)

    config = checkpoint.config
    line(
        f"{checkpoint.file.path}: {checkpoint.head}, {config.num_hidden_layers} layers of {config.hidden_size} "
        f"channels, profile {profile}"
    )
    for assumed in checkpoint.inferred.assumed:
        if assumed.origin != "given" and assumed.key in ("hyena_w_mod", "layer_norm_eps"):
            noted = " and a file notes" if assumed.origin == "noted" else ""
            line(f"taken as {assumed.key} = {assumed.value:g}, which no tensor says{noted}; --set changes it")
    several = f"{len(found.sequences)} times " if len(found.sequences) > 1 else ""
    line(f"{several}{len(found.sequences[0].ids)} ids {found.sequences[0].source}")
    line(f"MLX multiplies by {blas}")
    for result in found.rungs:
        _print_rung(line, result, found.sequences, depth)
    line(f"{'PASS' if found.passed else 'FAIL'}: {_sentence(found)}")


def _print_rung(line: Callable[[str], None], result: RungResult, sequences: tuple[Tokens, ...], depth: int) -> None:
    table = result.table
    where = "" if result.answers is not None else f", up to layer {result.layers - 1}"
    verdicts = [(row, table.verdict(row)) for row in table.rows]
    shown = [it for it in verdicts if _inside(it[0].module) <= depth or it[1] in ("culprit", "wiring")]
    width = max((len(row.module) for row, _ in shown), default=0)
    line(f"{table.rung}{where}:")
    line(f"  {'':{width}}  own error  reference's  of allowed  inherited  given out")
    for row, verdict in shown:
        own = result.own.get(row.module)
        base = "-" if own is None else f"{own:.1e}"
        mark = f"  <-- {verdict}" if verdict in ("culprit", "wiring") else ""
        line(
            f"  {row.module:{width}}  {row.own:9.1e}  {base:>11}  {row.ratio:10.2g}  {row.inherited:9.1e}  "
            f"{row.total:9.1e}{mark}"
        )
        for note in row.notes:
            line(f"    {note}")
    for side, names in (("reference", table.unpaired_reference), ("port", table.unpaired_port)):
        if names:
            line(f"  compared with nothing, {side}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    _print_answers(line, result, sequences)


def _inside(module: str) -> int:
    """How deep a module is inside of an embedding, a layer or a head."""
    name = module.partition("#")[0]
    tops = ("bert.embeddings", "bert.pooler", "cls", "classifier")
    top = next((top for top in tops if name == top or name.startswith(f"{top}.")), None)
    return name.count(".") - (3 if top is None else top.count("."))


def _print_answers(line: Callable[[str], None], result: RungResult, sequences: tuple[Tokens, ...]) -> None:
    answers = result.answers
    if answers is None:
        return
    given = "" if result.table.rung == "f64" else f", the reference's {answers.reference:.1e}, {answers.ratio:.2g} of "
    given += "allowed" if given else ""
    line(f"  answers: the port's error {answers.port:.1e}{given}; embedding 1 - cos {_small(answers.cosine)}")
    same = sum(top.same for top in answers.top)
    if answers.top:
        what = "masks" if any(one.masks for one in sequences) else "positions"
        line(f"  likeliest tokens: the same in the same order at {same} of {len(answers.top)} {what}")
    for top in answers.top[:3]:
        word = sequences[top.row].word
        which = f"sequence {top.row}, " if len(sequences) > 1 else ""
        line(
            f"    {which}position {top.position}: {' '.join(map(word, top.port))}"
            + ("" if top.same else f"; in float64 {' '.join(map(word, top.truth))}")
        )
    for it in answers.stored:
        line(
            f"  stored {it.answer}, {it.dtype}: the reference in float64 is off by {it.reference:.1e}, {it.ratio:.2g} "
            f"of what rounding explains, the port by {it.port:.1e}, {it.port_ratio:.2g} of allowed"
        )


def _small(value: float) -> str:
    return "unknown: a vector of zeros" if math.isnan(value) else f"{value:.1e}"


def _sentence(found: Verification) -> str:
    calls = sum(len(result.table.rows) for result in found.rungs)
    failed = [result for result in found.rungs if not result.passed]
    if not failed:
        return f"{calls} calls judged, no module errs beyond its allowance"
    return "; ".join(f"at {result.table.rung} {result.sentence()}" for result in failed)
