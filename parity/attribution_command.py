"""`parity attribute`: which meaning a port computes, by its outputs alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from parity.errors import ConfigError
from parity.plain import json_text
from parity.spec.precision import rung_called


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command `attribute` to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def attribute(
        target: Annotated[str, typer.Argument(metavar="TARGET", help="One component, for example `layer`.")],
        profile: Annotated[
            str | None,
            typer.Option(
                help="A profile's name, or the path of a JSON file. Default: $MLX_M2_PROFILE, else mlx_stable."
            ),
        ] = None,
        rung: Annotated[str, typer.Option(help="Where the port runs: f64, f32, bf16 or f16.")] = "f32",
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
    ) -> None:
        """Say which known meaning the port computes, from its outputs alone.

        Every alternative meaning of the library has a beta: 0 if the port does not mean it, 1 if it does.

        Exit status 0 if the port shows its own meaning and nothing else, 1 if it does not.
        """
        raise typer.Exit(guarded(lambda: _attribute(target, profile, rung, seed, as_json), "no meaning was found"))


def _attribute(target: str, profile_choice: str | None, rung_name: str, seed: int, as_json: bool) -> int:
    from parity.spec.profile import load_profile, require_built

    profile, rung = load_profile(profile_choice), rung_called(rung_name)
    require_built(profile)
    import torch

    from parity.attribution import attribute, profile_sentence, sentence, table_lines
    from parity.cases import FINE_LADDER, FULL_LADDER
    from parity.environment import warm_up
    from parity.suites import select_components
    from parity.suites.m2_bert_alternatives import ALTERNATIVES, probes

    torch.set_num_threads(1)
    warm_up()
    (pair,) = select_components([target], "parity attribute")
    if rung.name not in pair.only_rungs:
        raise ConfigError(f"{pair.name} has no rung {rung.name}: {pair.only_rungs_reason}")
    cases = probes(pair, seed, FULL_LADDER if rung.is_half else FINE_LADDER)
    answer = attribute(pair, cases, profile, rung, ALTERNATIVES)
    if as_json:
        data = {"sentence": sentence(answer), "seed": seed, **dataclasses.asdict(answer)}
        sys.stdout.write(json_text(data))
    else:
        head = f"{pair.name} under {profile.name} at {rung.name}, {answer.elements} outputs of {len(cases)} cases"
        lines = [*(table_lines(answer) if answer.findings else []), f"{head}: {sentence(answer)}"]
        out = Console(highlight=False, soft_wrap=True)
        for line in (*lines, profile_sentence(answer, profile)):
            out.print(line, markup=False)
    return 0 if answer.passed else 1
