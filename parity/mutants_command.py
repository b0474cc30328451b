"""`parity mutants`: mistakes put into the port one at a time, and how many of them the harness catches.

Frameworks are imported inside the command, after `MLX_ENABLE_TF32` is set. Patches do not travel between processes:
a worker imports the catalogue and enters a patch by its name.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.errors import ConfigError, TargetError
from parity.plain import json_text
from parity.scheduling import schedule_as_batch
from parity.spec.precision import RUNGS, RungName, rung_called
from parity.terminal import progress_bar

if TYPE_CHECKING:
    from parity.mutants import Mutant
    from parity.mutants.drawn import RandomMutant, Sensitivity
    from parity.mutants.kept import KeptBenches
    from parity.mutants.score import Score
    from parity.mutants.trial import Outcome
    from parity.pairs import Pair
    from parity.run import Explain
    from parity.spec.profile import HyperProfile

CATALOGUE: Final = "parity.suites.m2_bert_mutants:MUTANTS"
DEFAULT_OUT: Final = Path("reports/mutants")
UNCHANGED: Final = "unchanged:"
"""Before a component's name: the port as it stands, which must pass, else no kill in it means anything."""

_WIDTH: Final = 200
_CHUNK: Final = 10
"""Random mutants of one task: they share a truth, and no process is left with the last long one."""

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command `mutants` to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def mutants(
        names: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[NAME]...",
                help="Mutants by name or glob, for example `'gelu-*'`; with --random, targets as `parity run` takes "
                "them. Default: all.",
            ),
        ] = None,
        only_list: Annotated[bool, typer.Option("--list", help="Print the mutants' names, and run none.")] = False,
        component: Annotated[list[str] | None, typer.Option(help="Only mutants of this component. Repeat it.")] = None,
        rung: Annotated[
            list[str] | None, typer.Option(help="f64 or f32: only this rung's score. Repeat it. Default: both, apart.")
        ] = None,
        random: Annotated[
            int | None,
            typer.Option(
                "--random", min=1, metavar="N", help="Draw N random mutants instead of taking the listed ones."
            ),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 0,
        jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
        out: Annotated[
            Path | None,
            typer.Option(
                metavar="DIR",
                help="Folder of mutants.csv, mutants.md and mutants.json. Default: reports/mutants where every mutant "
                "is run at both rungs; none for a part of them, or random ones.",
            ),
        ] = None,
        catalogue: Annotated[
            str, typer.Option(metavar="FILE.py|MODULE:ATTR", help="A list of mutants of your own: docs/mutants.md.")
        ] = CATALOGUE,
        as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
    ) -> None:
        """Put known mistakes into the port, one at a time, and say which of them the ordinary suite catches.

        Printed are the share killed at f64 and at f32 alone, by what margin, whether the right module was blamed, what
        survived, and what was killed though it computes the same.

        Examples:

        * `parity mutants --jobs 2` the whole catalogue
        * `parity mutants 'gelu-*' --rung f64` a few, at one rung
        * `parity mutants --catalogue my_mutants.py` mistakes in a port of your own
        * `parity mutants --random 500 --jobs 2` small random edits of every component
        * `parity mutants --random 50 my_pairs.py::gated_mlp` the same of a model of your own

        Exit status 0 if every mutant is killed as it must be, 1 if not, 2 if a name is unknown, 3 if none was tried.
        """
        choice = _Choice(
            tuple(names or ()), tuple(component or ()), tuple(rung or ()), seed, jobs, out, catalogue, as_json
        )

        def run() -> int:
            if only_list:
                return _list(choice)
            return _mutants(choice) if random is None else _random(choice, random)

        raise typer.Exit(guarded(run, "no score was printed, no file was written"))


@dataclass(frozen=True)
class _Choice:
    names: tuple[str, ...]
    components: tuple[str, ...]
    rung_names: tuple[str, ...]
    seed: int
    jobs: int
    out: Path | None
    catalogue: str
    as_json: bool

    @property
    def rungs(self) -> tuple[RungName, ...]:
        """The rungs of the score that are run.

        Raises:
            ConfigError: One has no score.
        """
        from parity.mutants.trial import SCORED

        asked = [rung_called(name).name for name in self.rung_names] or SCORED
        for name in asked:
            if name not in SCORED:
                raise ConfigError(f"no score is kept at rung {name!r}; allowed: {', '.join(SCORED)}")
        return tuple(rung for rung in SCORED if rung in asked)


# --- the catalogue ----------------------------------------------------------------------------------------


def load_catalogue(place: str) -> tuple[Mutant, ...]:
    """Return the mutants of `FILE.py`, `FILE.py::NAME` or `MODULE:ATTR`.

    Raises:
        TargetError: There is no such list, it holds something else, or two of it have one name.
    """
    from parity.mutants import Mutant
    from parity.targets import load_value

    try:
        found = tuple(load_value(place, "MUTANTS"))
    except (TargetError, TypeError) as error:
        forms = "FILE.py, FILE.py::NAME or MODULE:ATTR, a list of mutants"
        raise TargetError(f"catalogue {place!r} cannot be read: {error}; write {forms}") from None
    names = [mutant.name if isinstance(mutant, Mutant) else None for mutant in found]
    wrong = [name for name in names if name is None or names.count(name) > 1]
    if wrong:
        raise TargetError(f"catalogue {place!r} holds {wrong[0] or 'something that is no mutant'!r} twice or wrongly")
    return found


def _chosen(choice: _Choice) -> tuple[list[Mutant], bool]:
    """Return the mutants that the choice means, in the catalogue's order, and whether these are all.

    Raises:
        TargetError: A name, glob or component means none.
    """
    catalogue = load_catalogue(choice.catalogue)
    known, components = [mutant.name for mutant in catalogue], {mutant.component for mutant in catalogue}
    for name in choice.names:
        if not any(fnmatchcase(each, name) for each in known):
            near = (
                ", ".join(difflib.get_close_matches(name, known, cutoff=0.4)) or "`parity mutants --list` has them all"
            )
            raise TargetError(f"no mutant is called {name!r}; nearest: {near}")
    for component in choice.components:
        if component not in components:
            raise TargetError(f"no mutant of component {component!r}; allowed: {', '.join(sorted(components))}")
    chosen = [
        mutant
        for mutant in catalogue
        if (not choice.names or any(fnmatchcase(mutant.name, name) for name in choice.names))
        and (not choice.components or mutant.component in choice.components)
    ]
    return chosen, len(chosen) == len(catalogue)


def _list(choice: _Choice) -> int:
    mutants, _ = _chosen(choice)
    for mutant in mutants:
        same = "  (computes the same)" if mutant.equivalent else ""
        typer.echo(f"{mutant.name}  {mutant.component}  {mutant.kind}  {mutant.says}{same}")
    return 0 if mutants else 3


def _mutants(choice: _Choice) -> int:
    from parity.mutants.score import Score
    from parity.mutants.table import document, files, prepare_files, summary_lines, write_files
    from parity.mutants.trial import SCORED
    from parity.suites import select

    mutants, everything = _chosen(choice)
    rungs = choice.rungs
    for mutant in mutants:
        select([mutant.component])
    whole = everything and rungs == SCORED
    folder = choice.out or (DEFAULT_OUT if whole else None)
    if folder is not None:
        prepare_files(folder)
    # What is unchanged comes last: a patch that outlives its trial would make it fail.
    components = list(dict.fromkeys(it.component for it in mutants))
    names = [*(it.name for it in mutants), *(UNCHANGED + it for it in components)]
    # Component by component, since its mutants share truths; models, which stand last and take longest, first.
    turn = sorted(mutants, key=lambda it: -components.index(it.component))
    tasks = [*(it.name for it in turn), *reversed(names[len(mutants) :])]
    one = partial(_one, choice.catalogue, rungs, choice.seed)
    found = {outcome.name: outcome for outcome in _worked(one, tasks, choice.jobs, "mutants", _words)}
    score = Score([found[name] for name in names], whole)
    meta = {"seed": choice.seed, "budget": "standard", "whole": whole, "catalogue": choice.catalogue}
    if folder is not None:
        write_files(folder, files(score, meta, shlex.join(["parity", *sys.argv[1:]])))
    if choice.as_json:
        sys.stdout.write(json_text(document(score, meta)))
    else:
        _print(score, summary_lines(score), folder)
    return score.exit_status


def _words(outcome: Outcome) -> str:
    return f"{outcome.name} {'ERROR' if outcome.error else 'killed' if outcome.killed else 'passes'}"


def _one(catalogue: str, rungs: tuple[RungName, ...], seed: int, name: str) -> Outcome:
    """Put one mutant on trial, in a process that may be new."""
    _prepare()
    from parity.mutants import Mutant
    from parity.mutants.trial import Court, put_on_trial
    from parity.suites import select

    if name.startswith(UNCHANGED):
        component = name.removeprefix(UNCHANGED)
        mutant = Mutant(
            name, "the port as it stands", "", component, (), "arithmetic", nullcontext, "nothing is changed"
        )
    else:
        mutant = next(mutant for mutant in load_catalogue(catalogue) if mutant.name == name)
    (pair,) = select([mutant.component])
    court = Court(
        seed=seed,
        rungs=rungs,
        explain=None if pair.target else _explanations(),
        special=partial(_special_of, pair, mutant.profile, seed) if pair.target else _special,
        bench=_benches(),
    )
    return put_on_trial(mutant, pair, court)


@cache
def _benches() -> KeptBenches:
    """The truths of this process: mutants of one component meet the same cases."""
    from parity.mutants.kept import KeptBenches

    return KeptBenches()


@cache
def _explanations() -> Explain:
    from parity.suites.m2_bert_alternatives import KeptExplanations

    return KeptExplanations()


def _special(rung: RungName) -> list[tuple[str, str]]:
    """Ask the questions of `parity extremes` at a rung; return what is news."""
    from parity.suites.m2_bert_extremes import EXTREME_RUNGS, QUESTIONS, ask

    answers = [ask(question, rung) for question in QUESTIONS if rung in EXTREME_RUNGS]
    return [
        (it.question.primitive, f"{it.question.primitive} of {it.question.what} at {rung}: {' '.join(it.classes[1])}")
        for it in answers
        if it.status == "new"
    ]


def _special_of(pair: Pair, profile: HyperProfile, seed: int, rung: RungName) -> list[tuple[str, str]]:
    """Plant NaN and infinities in a pair's inputs; return the outputs in which they come out elsewhere."""
    from parity.special_values import ask_pair

    answers = (answer for answer in ask_pair(pair, profile, RUNGS[rung], seed) if answer.differs)
    return [(next(iter(answer.differs)), answer.line) for answer in answers]


def _prepare() -> None:
    """Switches and warm-up, before a framework computes anything."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    schedule_as_batch()
    import torch

    from parity.environment import warm_up

    torch.set_num_threads(1)
    warm_up()


# --- processes --------------------------------------------------------------------------------------------


def _worked(
    one: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    jobs: int,
    title: str,
    words: Callable[[_Result], str],
) -> list[_Result]:
    """Return what `one` makes of every task, in the order in which they are finished, a bar meanwhile."""
    from parity.workers import work_here_or_in

    results: list[_Result] = []
    with progress_bar() as progress, closing(work_here_or_in(one, tasks, jobs)) as found:
        task = progress.add_task(title, total=len(tasks))
        for result in found:
            results.append(result)
            progress.update(task, advance=1, description=words(result))
    return results


# --- what is printed --------------------------------------------------------------------------------------


def _print(score: Score, lines: Sequence[str], folder: Path | None) -> None:
    columns = ("mutant", "component", "f64", "margin", "blamed first", "rank", "s", "f32", "margin")
    table = Table(box=box.MARKDOWN)
    for heading in columns:
        table.add_column(heading)
    for outcome in score.outcomes:
        table.add_row(*map(Text, _cells(outcome)))
    out = Console(highlight=False, width=_WIDTH)
    out.print(table)
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
    if folder is not None:
        out.print(f"report in {folder}", markup=False, soft_wrap=True)


def _cells(outcome: Outcome) -> Iterator[str]:
    blamed, fine, coarse = outcome.fine, outcome.at("f64"), outcome.at("f32")
    passes = "passes" if outcome.equivalent else "SURVIVES"
    missing = "ERROR" if outcome.error else "-"
    yield from (outcome.name, outcome.component)
    yield from (missing, "") if fine is None else (fine.killed or passes, f"{fine.margin:.2g}")
    yield from ("", "") if blamed is None else (blamed.place, str(blamed.rank or "-"))
    yield "-" if blamed is None or blamed.seconds is None else f"{blamed.seconds:.1f}"
    yield from ("-", "") if coarse is None else (coarse.killed or passes, f"{coarse.margin:.2g}")


# --- random mutants ---------------------------------------------------------------------------------------

_RandomTask = tuple[str, int, tuple[int, ...]]
"""A target, which of its structures, and the numbers of the mutants; none of these asks for the sensitivities."""


def _random(choice: _Choice, count: int) -> int:
    from parity.mutants.drawn import STRUCTURES_TRIED, Rate, editable
    from parity.suites import select

    given = [("--component", choice.components), ("--rung", choice.rung_names), ("--out", choice.out)]
    for option, value in given:
        if value:
            raise ConfigError(f"{option} means nothing with --random; targets are named, and no report is written")
    pairs = select(list(choice.names))
    spellings = [pair.spelling for pair in pairs if choice.names or editable(pair)]
    dealt: dict[tuple[str, int], list[int]] = {}
    for number in range(count):
        turn, place = divmod(number, len(spellings))
        dealt.setdefault((spellings[place], turn % STRUCTURES_TRIED), []).append(number)
    tasks: list[_RandomTask] = [(spelling, 0, ()) for spelling in spellings]
    for (spelling, structure), numbers in dealt.items():
        tasks += [(spelling, structure, tuple(numbers[i : i + _CHUNK])) for i in range(0, len(numbers), _CHUNK)]
    mutants: list[RandomMutant] = []
    found: dict[_RandomTask, list[Sensitivity]] = {}
    for task, drawn, searched in _worked(partial(_one_random, choice.seed), tasks, choice.jobs, "random", _counted):
        mutants += drawn
        found[task] = searched
    mutants.sort(key=lambda mutant: mutant.number)
    sensitive = [it for task in tasks for it in found[task]]
    rates = {rung: Rate(sum(rung in mutant.seen for mutant in mutants), len(mutants)) for rung in ("f64", "f32")}
    if choice.as_json:
        sys.stdout.write(json_text(_random_document(choice, mutants, sensitive, rates)))
    else:
        _print_random(choice, mutants, sensitive, rates)
    return 0 if rates["f64"].seen >= LEAST_RANDOM_SHARE * len(mutants) else 1


LEAST_RANDOM_SHARE: Final = 0.99
"""Share of random mutants that f64 must kill."""


def _counted(result: tuple[_RandomTask, list[RandomMutant], list[Sensitivity]]) -> str:
    task, drawn, _ = result
    return f"{task[0]} {len(drawn)} mutants" if drawn else f"{task[0]} smallest factors"


def _one_random(seed: int, task: _RandomTask) -> tuple[_RandomTask, list[RandomMutant], list[Sensitivity]]:
    """Do one task, in a process that may be new."""
    _prepare()
    from parity.mutants.drawn import Range, random_mutants, sensitivities
    from parity.spec.profile import CANONICAL
    from parity.suites import select

    spelling, structure, numbers = task
    (pair,) = select([spelling])
    place = Range(pair, structure, CANONICAL, seed)
    return task, random_mutants(place, structure, numbers, seed), [] if numbers else sensitivities(place)


def _random_document(
    choice: _Choice, mutants: Sequence[RandomMutant], sensitive: Sequence[Sensitivity], rates: dict[str, Any]
) -> dict[str, Any]:
    return {
        "seed": choice.seed,
        "redrawn": [edits for mutant in mutants for edits in mutant.redrawn],
        "rates": {rung: {**asdict(rate), "at_least": rate.bound} for rung, rate in rates.items()},
        "mutants": [asdict(mutant) for mutant in mutants],
        "smallest_factors": [{**asdict(it), "k": dict(it.k)} for it in sensitive],
    }


def _print_random(
    choice: _Choice, mutants: Sequence[RandomMutant], sensitive: Sequence[Sensitivity], rates: dict[str, Any]
) -> None:
    out = Console(highlight=False, width=_WIDTH)
    kinds: dict[str, list[Sensitivity]] = {}
    for it in sensitive:
        kinds.setdefault(it.kind, []).append(it)
    table = Table(box=box.MARKDOWN)
    for heading in ("module", "components", "k at f64", "k at f32"):
        table.add_column(heading)
    for kind, found in sorted(kinds.items()):
        components = ", ".join(dict.fromkeys(it.component for it in found))
        table.add_row(*map(Text, (kind, components, _range(found, "f64"), _range(found, "f32"))))
    out.print("smallest factor 1 + 2^-k that is still seen: the largest k, from the worst component to the best")
    out.print(table)
    for mutant in mutants:
        if "f64" not in mutant.seen:
            words = f"SURVIVES {mutant.number} {mutant.component}, structure {mutant.structure}: "
            out.print(
                f"{words}{'; '.join(mutant.edits)} ({mutant.margin:.2g} of allowed)", markup=False, soft_wrap=True
            )
    equivalent = sum(len(mutant.redrawn) for mutant in mutants)
    out.print(
        f"{len(mutants)} random mutants, seed {choice.seed}, one or two edits each, two cases of one structure;"
        f" {equivalent} changed no bit of any output or gradient and were drawn again"
    )
    for mutant in (mutant for mutant in mutants if mutant.redrawn):
        out.print(f"equivalent: {mutant.component}: {' | '.join(mutant.redrawn)}", markup=False, soft_wrap=True)
    for rung, rate in rates.items():
        out.print(f"{rung}: seen {rate}", markup=False, soft_wrap=True)


def _range(found: Sequence[Sensitivity], rung: str) -> str:
    values = [dict(it.k).get(rung, None) for it in found]  # type: ignore[call-overload]
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    text = str(min(known)) if min(known) == max(known) else f"{min(known)} to {max(known)}"
    return text if len(known) == len(values) else f"{text}, {len(values) - len(known)} none"
