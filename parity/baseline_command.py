"""`parity baseline`: accept runs, show what was accepted, allow and tighten."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from parity.errors import GateError, NothingToJudgeError
from parity.plain import json_text, one_line

BASELINE: Final = Path("reports/baseline.json")
LEDGER: Final = Path("reports/ledger.json")
HISTORY: Final = Path("reports/history.sqlite")
VALID_DAYS: Final = 365
"""How long an entry holds where nobody says otherwise."""


class AllowanceKind(StrEnum):
    """Entries of the ledger that are written by hand."""

    margin = "margin"
    drift = "drift"


Reason = Annotated[str, typer.Option(help="Why; kept in the ledger.")]
Author = Annotated[str | None, typer.Option(help="Who answers for it. Default: Git's user.name.")]
Link = Annotated[str | None, typer.Option(help="Where more is said. Default: the commit.")]
Expires = Annotated[
    str | None, typer.Option(metavar="YYYY-MM-DD", help=f"Last day. Default: {VALID_DAYS} days from now.")
]
BaselinePath = Annotated[Path, typer.Option("--baseline", help="The baseline.")]
LedgerPath = Annotated[Path, typer.Option("--ledger", help="The ledger.")]


@dataclass(frozen=True)
class _Signature:
    """What every entry of the ledger carries."""

    reason: str
    author: str | None
    link: str | None
    expires: str | None

    def fields(self) -> dict[str, Any]:
        """Return the fields of an entry.

        Raises:
            GateError: The author or the link is not said and Git does not know it, or the date is none.
        """
        from parity.gate.provenance import author, revision

        date = datetime.date.today()
        name, commit = self.author or author(), revision()
        link = self.link or (f"commit {commit}" if commit else "")
        if not self.reason.strip():
            raise GateError("--reason is empty: say why")
        if not name:
            raise GateError("Git knows no user.name: say who answers for it with --author")
        if not link:
            raise GateError("this is no Git repository: say where more is said with --link")
        try:
            last = datetime.date.fromisoformat(self.expires) if self.expires else date + _days(VALID_DAYS)
        except ValueError:
            raise GateError(f"--expires is a date as 2027-01-31; got {self.expires!r}") from None
        if last <= date:
            raise GateError(f"--expires is a day after today, {date}; got {last}")
        return {"reason": self.reason, "author": name, "link": link, "date": date, "expires": last}


def _days(count: int) -> datetime.timedelta:
    return datetime.timedelta(days=count)


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the commands `baseline ...` to `app`; `guarded` turns a user's mistake into one line."""
    commands = typer.Typer(no_args_is_help=True, help="What `parity gate` holds runs against: docs/gate.md.")
    app.add_typer(commands, name="baseline")

    @commands.command()
    def accept(
        runs: Annotated[
            list[Path],
            typer.Argument(metavar="RUN...", help="Output folders of `parity run`, each with a seed of its own."),
        ],
        reason: Reason,
        author: Author = None,
        link: Link = None,
        expires: Expires = None,
        fallback: Annotated[
            bool, typer.Option("--fallback", help="Let it judge environments that are not in the baseline, too.")
        ] = False,
        smaller: Annotated[
            bool,
            typer.Option("--smaller", help="Accept fewer runs than before, or lose components, profiles or rungs."),
        ] = False,
        baseline: BaselinePath = BASELINE,
        ledger: LedgerPath = LEDGER,
        history: Annotated[Path, typer.Option(help="Every accepted run is appended to it.")] = HISTORY,
    ) -> None:
        """Accept what these runs found as the baseline of their environment and budget, in the place of what was there.

        Their bits are kept; the accuracy of all is pooled. Four runs or more resolve a drift of a few per
        cent where one resolves thirty: `parity baseline show` says which. A run that failed is not accepted.
        """
        signature = _Signature(reason, author, link, expires)
        raise typer.Exit(
            guarded(
                lambda: _accept(runs, signature, _How(fallback, smaller), _Files(baseline, ledger, history)),
                "nothing was accepted",
            )
        )

    @commands.command()
    def show(
        baseline: BaselinePath = BASELINE,
        ledger: LedgerPath = LEDGER,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Show what was accepted, which drift it can resolve, and the ledger."""
        raise typer.Exit(guarded(lambda: _show(baseline, ledger, as_json), "nothing was shown"))

    @commands.command()
    def allow(
        kind: Annotated[
            AllowanceKind,
            typer.Argument(help="`margin`: of strata against the reference. `drift`: of groups against the baseline."),
        ],
        bits: Annotated[float, typer.Option(help="The allowance, above zero.")],
        reason: Reason,
        component: Annotated[str, typer.Option(help="A component, * for all.")] = "*",
        profile: Annotated[str, typer.Option(help="A profile, * for all.")] = "*",
        rung: Annotated[str, typer.Option(help="A rung, * for all.")] = "*",
        length_class: Annotated[str, typer.Option(help="A length class, * for all.")] = "*",
        family: Annotated[str, typer.Option(help="An input family, * for all.")] = "*",
        author: Author = None,
        link: Link = None,
        expires: Expires = None,
        ledger: LedgerPath = LEDGER,
    ) -> None:
        """Write an allowance into the ledger. It cannot loosen the absolute allowances of a run."""
        where = {
            "component": component,
            "profile": profile,
            "rung": rung,
            "length_class": length_class,
            "family": family,
        }
        signature = _Signature(reason, author, link, expires)
        raise typer.Exit(guarded(lambda: _allow(kind.value, where, bits, signature, ledger), "nothing was allowed"))

    @commands.command()
    def tighten(
        run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of `parity run`.")],
        baseline: BaselinePath = BASELINE,
        ledger: LedgerPath = LEDGER,
    ) -> None:
        """Apply what `parity gate` proposes: allowances far above what is needed become smaller, or go."""
        raise typer.Exit(guarded(lambda: _tighten(run, baseline, ledger), "nothing was tightened"))


@dataclass(frozen=True)
class _How:
    """How runs are accepted."""

    fallback: bool
    smaller: bool


@dataclass(frozen=True)
class _Files:
    """Where what is accepted is kept."""

    baseline: Path
    ledger: Path
    history: Path


def _accept(folders: list[Path], signature: _Signature, how: _How, files: _Files) -> int:
    from parity.code import code_hash
    from parity.gate.baseline import (
        BASELINE_SCHEMA,
        Baseline,
        record_of,
        require_no_smaller,
        with_environment,
        write_baseline,
    )
    from parity.gate.ledger import Entry, write_ledger
    from parity.gate.provenance import revision
    from parity.gate.runs import read_run
    from parity.history import append_runs

    fields = signature.fields()
    runs = [read_run(folder) for folder in folders]
    stale = next((run for run in runs if run.code != code_hash()), None)
    if stale is not None:
        raise GateError(f"run {str(stale.folder)!r} is stale: it is of other code; run it again")
    known = _baseline(files.baseline)
    key, record = runs[0].key, record_of(runs, how.fallback)
    if known is not None and key in known.environments and not how.smaller:
        require_no_smaller(key, known.environments[key], record)
    changed = with_environment(known or Baseline(schema=BASELINE_SCHEMA), key, record)
    entry = Entry(kind="baseline", environment=key, content=record.content, **fields)
    entries = [*_entries(files.ledger), entry, *_no_longer_fallback(known, changed, key, fields)]
    # The ledger comes last: an acceptance that was cut short has nobody who answers for it, and the gate says so. To
    # repeat it does no harm: in the history, the rows of a run replace those of the same run.
    append_runs(files.history, runs, revision(), fields["date"], fields["reason"])
    write_baseline(files.baseline, changed)
    write_ledger(files.ledger, entries)
    sys.stdout.write(f"accepted {one_line(key)}: {len(runs)} runs, {len(record.groups)} groups, in {files.baseline}\n")
    return 0


def _no_longer_fallback(known: Any, changed: Any, key: str, fields: dict[str, Any]) -> list[Any]:
    """Return entries for environments that ceased to be the fallback, since their baseline is another by that."""
    from parity.gate.ledger import Entry

    before = known.environments if known is not None else {}
    others = ((name, record) for name, record in changed.environments.items() if name != key)
    return [
        Entry(
            kind="baseline",
            environment=name,
            content=record.content,
            **{**fields, "reason": f"{key} is the fallback now: {fields['reason']}"},
        )
        for name, record in others
        if record.content != before[name].content
    ]


def _show(baseline: Path, ledger: Path, as_json: bool) -> int:
    from parity.gate.baseline import read_baseline
    from parity.gate.ledger import read_ledger
    from parity.gate.render import baseline_lines, ledger_table

    accepted, entries = read_baseline(baseline), read_ledger(ledger)
    if as_json:
        document = {
            "baseline": accepted.model_dump(mode="json", by_alias=True),
            "ledger": entries.model_dump(mode="json", by_alias=True),
        }
        sys.stdout.write(json_text(document))
        return 0
    out = Console(highlight=False, soft_wrap=True)
    for line in [*baseline_lines(accepted), *ledger_table(entries.entries, datetime.date.today())]:
        out.print(line, markup=False)
    return 0


def _allow(kind: str, where: dict[str, str], bits: float, signature: _Signature, ledger: Path) -> int:
    from pydantic import ValidationError

    from parity.gate.ledger import Entry, write_ledger

    if not 0 < bits < math.inf:
        raise GateError(f"--bits is a finite number greater than zero; got {bits:g}")
    try:
        entry = Entry(kind=kind, bits=bits, **where, **signature.fields())  # type: ignore[arg-type]
    except ValidationError as error:
        raise GateError(f"the entry is none: {error.errors()[0]['msg']}") from None
    write_ledger(ledger, [*_entries(ledger), entry])
    sys.stdout.write(f"allowed {one_line(entry.title)} until {entry.expires}, in {ledger}\n")
    return 0


def _tighten(folder: Path, baseline: Path, ledger: Path) -> int:
    from parity.code import code_hash
    from parity.gate.baseline import read_baseline
    from parity.gate.decide import Today, decide
    from parity.gate.ledger import read_ledger, tightened, write_ledger
    from parity.gate.runs import read_run

    run, today, known = read_run(folder), datetime.date.today(), read_ledger(ledger)
    decision = decide(run, read_baseline(baseline), known, Today(today, code_hash(), run.own))
    if decision.exit_code:
        raise GateError(f"run {str(folder)!r} does not pass the gate: nothing is read off it; see `parity gate`")
    for proposal in decision.proposals:
        sys.stdout.write(f"{one_line(proposal.sentence)}\n")
    if decision.proposals:
        write_ledger(ledger, tightened(known, decision.proposals, today))
    else:
        sys.stdout.write("nothing to tighten: no allowance is far above what is needed\n")
    return 0


def _baseline(path: Path) -> Any:
    """Return the baseline that is there, None where there is no file; a broken one is never written over."""
    from parity.gate.baseline import read_baseline

    try:
        return read_baseline(path) if path.exists() else None
    except NothingToJudgeError:
        return None


def _entries(path: Path) -> list[Any]:
    from parity.gate.ledger import read_ledger

    return list(read_ledger(path).entries) if path.exists() else []
