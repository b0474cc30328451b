"""The ledger: every departure from a standard tolerance, and every accepted baseline, with who, why and until when.

Three kinds of entries, in `reports/ledger.json`:

* `margin`: strata may lose more bits against the reference than the standard margin. The number in
  `parity/tolerance.py` rules; the entry answers for it, and can only be stricter.
* `drift`: groups may drift by more bits against the baseline than the runs can resolve.
* `baseline`: an environment of the baseline is what it is, named by the hash of its content.

The gate fails on an entry that has expired or that matches nothing, and on a departure without an entry.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from parity.accuracy import Stratum
from parity.errors import GateError
from parity.files import write_whole
from parity.gate.drift import Group
from parity.gate.records import Record, read_model, read_object, require_schema, reviewable_json

LEDGER_SCHEMA: Final = 1
REMEDY: Final = "`parity baseline accept` and `parity baseline allow` write one"
ANY: Final = "*"
LARGEST: Final = 4.0
"""Bits beyond which an allowance would be none: what errs sixteen times as much is to be accepted anew."""
LONGEST: Final = datetime.timedelta(days=400)
"""Whoever answers for an entry says so again once a year."""
STEP: Final = 0.05
"""Bits to which a tightened allowance is rounded up."""

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Entry(Record):
    """One entry.

    Args:
        kind: Of the three.
        component, profile, rung, length_class, family: What it covers, `*` for all.
        environment, content: Of a baseline: its key, and the hash of what was accepted.
        bits: The allowance; none for a baseline.
        reason, author, link: Why, who answers for it, and where more is said.
        date, expires: First and last day.
        changes: Earlier allowances, in words.
    """

    kind: Literal["margin", "drift", "baseline"]
    component: str = ANY
    profile: str = ANY
    rung: str = ANY
    length_class: str = ANY
    family: str = ANY
    environment: str = ""
    content: str = ""
    bits: float | None = Field(None, gt=0, le=LARGEST)
    reason: Words
    author: Words
    link: Words
    date: datetime.date
    expires: datetime.date
    changes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.expires <= self.date:
            raise ValueError(f"it expires on {self.expires}, no later than its date {self.date}")
        if self.kind == "baseline" and not (self.environment and self.content):
            raise ValueError("an entry of a baseline names its environment and content")
        if self.expires > self.date + LONGEST:
            raise ValueError(f"it expires on {self.expires}, more than {LONGEST.days} days after its date {self.date}")
        if self.kind != "baseline" and self.bits is None:
            raise ValueError(f"an entry of kind {self.kind} has bits")
        if self.kind != "baseline" and self.component == self.profile == self.rung == ANY:
            raise ValueError(f"an entry of kind {self.kind} names a component, a profile or a rung, and not everything")
        return self

    @property
    def title(self) -> str:
        """The entry in a few words."""
        if self.kind == "baseline":
            return f"baseline {self.environment}"
        names = (self.component, self.profile, self.rung, self.length_class, self.family)
        return f"{self.kind} {self.bits:g} bits of {' '.join(names)}"

    def covers_group(self, group: Group) -> bool:
        """Whether it is about this component, profile and rung."""
        return _covers((self.component, self.profile, self.rung), group)

    def covers_test(self, where: Group | Stratum) -> bool:
        """Whether it is about this stratum, or about the whole of this group."""
        if isinstance(where, Stratum):
            return self.covers(where)
        return self.length_class == self.family == ANY and self.covers_group(where)

    def covers(self, stratum: Stratum) -> bool:
        """Whether it is about this stratum."""
        return self.covers_group((stratum.component, stratum.profile, stratum.rung)) and _covers(
            (self.length_class, self.family), (stratum.length_class, stratum.family)
        )


def _covers(patterns: Iterable[str], names: Iterable[str]) -> bool:
    return all(pattern in (ANY, name) for pattern, name in zip(patterns, names, strict=True))


class Ledger(Record):
    """All entries, in the order of their dates."""

    kind: Literal["parity ledger"] = "parity ledger"
    schema_version: int = Field(LEDGER_SCHEMA, alias="schema")
    entries: tuple[Entry, ...] = ()

    def of(self, kind: str) -> list[Entry]:
        """Return the entries of one kind."""
        return [entry for entry in self.entries if entry.kind == kind]

    def ruling(self) -> list[Entry]:
        """Return the entries that rule: of the baselines of one environment, the last."""
        last = {entry.environment: entry for entry in self.of("baseline")}
        return [entry for entry in self.entries if entry.kind != "baseline" or last[entry.environment] is entry]


@dataclass(frozen=True)
class Proposal:
    """An allowance far above what is needed, and what it may become; None where the entry can go."""

    entry: Entry
    need: float
    bits: float | None

    @property
    def sentence(self) -> str:
        """The proposal in words."""
        new = "nothing: the standard is enough" if self.bits is None else f"{self.bits:g} bits"
        return f"tighten {self.entry.title}: needed are {self.need:.2f} bits; proposed is {new}"


def read_ledger(path: Path) -> Ledger:
    """Read a ledger.

    Raises:
        GateError: It does not exist, is unreadable, of another kind or schema, or an entry lacks what it must have.
    """
    data = read_object(path, "ledger", REMEDY)
    if data.get("kind") != "parity ledger":
        raise GateError(f"{str(path)!r} is no ledger: its kind is {data.get('kind')!r}; {REMEDY}")
    require_schema(data, LEDGER_SCHEMA, "ledger", path, REMEDY)
    return read_model(Ledger, data, "ledger", path, "mend the entry")


def write_ledger(path: Path, entries: Sequence[Entry]) -> None:
    """Write a ledger.

    Raises:
        OutputError: It cannot be written.
    """
    ledger = Ledger(schema=LEDGER_SCHEMA, entries=tuple(sorted(entries, key=lambda entry: entry.date)))
    document = ledger.model_dump(mode="json", by_alias=True)
    document["entries"] = [
        {name: value for name, value in entry.items() if value not in ("", None, ANY) and value != []}
        for entry in document["entries"]
    ]
    write_whole(path, reviewable_json(document), "choose another with --ledger", make_folder=True)


def tightened(ledger: Ledger, proposals: Sequence[Proposal], date: datetime.date) -> list[Entry]:
    """Return the entries with the proposals applied."""
    proposed: Mapping[int, Proposal] = {id(proposal.entry): proposal for proposal in proposals}
    entries = []
    for entry in ledger.entries:
        proposal = proposed.get(id(entry))
        if proposal is None:
            entries.append(entry)
        elif proposal.bits is not None:
            change = f"{date}: {entry.bits:g} bits tightened, needed were {proposal.need:.2f}"
            entries.append(entry.model_copy(update={"bits": proposal.bits, "changes": (*entry.changes, change)}))
    return entries
