"""Options that the commands which run a checkpoint share: what it is run on, what it means, and how MLX multiplies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from parity.spec.profile import HyperProfile

USUAL_PROFILE: Final = "canonical"
"""What a published checkpoint means, unless the environment names another."""

TextOption = Annotated[
    str | None, typer.Option("--text", help="A text; --tokenizer turns it into ids. Write [MASK] where a word is out.")
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="FOLDER", help="With tokenizer.json, or BERT's vocab.txt; or either file."),
]
IdsOption = Annotated[
    Path | None, typer.Option("--ids", metavar="FILE", help="Integers apart by blanks, or a JSON list of them.")
]
LengthOption = Annotated[
    int | None,
    typer.Option("--length", min=1, metavar="L", help="Positions: longer sequences are cut, shorter ones padded."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of what is drawn.")]
MaskOption = Annotated[
    int | None,
    typer.Option("--mask-id", min=0, metavar="ID", help="The id of [MASK]: the tokenizer's, else 103, BERT's."),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", help="A profile's name, or the path of a JSON file. Default: $MLX_M2_PROFILE, else canonical."
    ),
]
BudgetOption = Annotated[
    int,
    typer.Option(
        "--budget-bytes",
        min=1,
        metavar="N",
        help="What the transforms of a long convolution may hold at once; changes memory, and no bit of a result.",
    ),
]
BlasOption = Annotated[
    str,
    typer.Option(
        "--mlx-blas",
        metavar="auto|bundled|torch|PATH",
        help="Who multiplies MLX's matrices on Linux: what its wheel brings, which is slow, torch's library, or that "
        "at PATH. auto: torch's where it can be had.",
    ),
]
USUAL_BUDGET: Final = 2**28


def profile_of(choice: str | None) -> HyperProfile:
    """Return the profile that is chosen, by the command line or the environment; else the published meaning.

    Raises:
        ProfileError: It cannot be found, read or validated.
        NotImplementedYetError: It names a kernel that does not exist yet.
    """
    from parity.spec.profile import ENVIRONMENT_VARIABLE, load_profile, require_built

    profile = load_profile(choice or os.environ.get(ENVIRONMENT_VARIABLE) or USUAL_PROFILE)
    require_built(profile)
    return profile
