"""Every situation that the gate knows: what was done, the exit status, and the word that must appear."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from gate_pieces import (
    OTHER_FINGERPRINT,
    Place,
    emptied,
    failing,
    results,
    without,
    write,
    zeroed,
)

from parity.digests import GRADIENTS
from parity.files import JOURNAL


@dataclasses.dataclass(frozen=True)
class Situation:
    """What was done to a place whose baseline holds seeds 0 to 3, and what `parity gate` says."""

    name: str
    status: int
    word: str
    prepare: Callable[[Place], object]
    fallback: bool = False
    options: tuple[str, ...] = ()


def run(change: Callable[[Any], Any] = lambda found: found, **given: Any) -> Callable[[Place], object]:
    """Write a run whose results were changed."""
    return lambda place: write(place.run, change(results(**given)))


def run_and(prepare: Callable[[Place], object], **given: Any) -> Callable[[Place], object]:
    """Write a right run, then do something else."""

    def both(place: Place) -> None:
        write(place.run, results(**given))
        prepare(place)

    return both


def meta(**changes: Any) -> Callable[[Any], Any]:
    def change(found: Any) -> Any:
        found.meta |= changes
        return found

    return change


def summary(change: Callable[[Any], object], **given: Any) -> Callable[[Place], object]:
    return run_and(lambda place: place.edit(place.run / "summary.json", change), **given)


def baseline(change: Callable[[Any], object], **given: Any) -> Callable[[Place], object]:
    return run_and(lambda place: place.edit(place.baseline, change), **given)


def ledger(change: Callable[[Any], object], **given: Any) -> Callable[[Place], object]:
    return run_and(lambda place: place.edit(place.ledger, change), **given)


def text(name: str, content: str) -> Callable[[Place], object]:
    return run_and(lambda place: (place.root / name).write_text(content, encoding="utf-8"))


def gone(name: str) -> Callable[[Place], object]:
    return run_and(lambda place: (place.root / name).unlink())


def unfinished(place: Place) -> None:
    place.run.mkdir()
    (place.run / JOURNAL).write_text("{}\n", encoding="utf-8")


def expire(data: Any) -> None:
    for entry in data["entries"]:
        entry |= {"date": "2025-01-01", "expires": "2025-12-31"}


def soon(data: Any) -> None:
    data["entries"][0]["expires"] = (datetime.date.today() + datetime.timedelta(days=5)).isoformat()


def own_of(data: Any) -> Any:
    return next(iter(data["environments"].values()))


def changed_digit(place: Place) -> None:
    """Somebody makes an error of layers.csv smaller: as many rows and elements as before."""
    path = place.run / "layers.csv"
    written = path.read_bytes()
    column = written.splitlines()[0].split(b",").index(b"port_rel_l2")
    head, first, *rest = written.splitlines(keepends=True)
    cells = first.split(b",")
    cells[column] = b"1e-30"
    path.write_bytes(b"".join([head, b",".join(cells), *rest]))


def other_gradients(found: Any) -> Any:
    """The same values, another derivative."""
    first = found.digests[0]
    found.digests[0] = dataclasses.replace(first, tensors={**first.tensors, GRADIENTS: "moved"})
    return found


def worsened(found: Any) -> Any:
    """The port raises in one stratum: the run itself fails."""
    found.assessments[0] = dataclasses.replace(
        found.assessments[0], passed=False, reason="only 0 cases could be compared"
    )
    return found


def unhashed(found: Any) -> Any:
    found.digests = found.digests[1:]
    return found


def bare(place: Place, seed: int) -> Any:
    """A run without any accuracy, written where it is accepted, and where it is judged."""
    found = results(seed)
    found.assessments = []
    write(place.run, found)
    return write(place.root / f"bare{seed}", found)


def fewer(found: Any, gone: int, drawn: bool = True) -> Any:
    """So many cases of every stratum were not compared; or, if not `drawn`, are missing altogether."""
    for place, each in enumerate(found.assessments):
        kept = {name: getattr(each, name)[:-gone] + ((None,) * gone if drawn else ()) for name in ("bits", "port_bits")}
        found.assessments[place] = dataclasses.replace(each, cases=each.cases - gone, **kept)
    return found


def uncompared(found: Any) -> Any:
    found.assessments[1] = dataclasses.replace(
        found.assessments[1], skipped="out of range", cases=0, bits=(), port_bits=(), bound=0.0
    )
    return found


def more_tensors(found: Any) -> Any:
    first = found.digests[0]
    found.digests[0] = dataclasses.replace(first, tensors={**first.tensors, "z": "new"})
    return found


def inflated(data: Any) -> None:
    """A baseline that somebody loosened by hand: every mean and spread is enormous."""
    for profiles in own_of(data)["components"].values():
        for rungs in profiles.values():
            for record in rungs.values():
                for families in record["strata"].values():
                    for family, (cases, fewest, mean, _, port, _) in families.items():
                        families[family] = [cases, fewest, mean + 5, 5.0, port + 5, 5.0]


def renamed(found: Any) -> Any:
    """A component that the baseline does not know."""
    extra = results(found.meta["seed"])
    rows = [dataclasses.replace(row, component="new") for row in extra.rows if row.component == "norm"]
    found.rows += rows
    return found


def allowed(place: Place, kind: str, bits: float, *more: str) -> None:
    assert place.allow(kind, bits, *more).status == 0


F32 = ("--component", "conv", "--rung", "f32")
CONV = ("--component", "conv")
SITUATIONS = (
    # What passes.
    Situation("the accepted run again", 0, "same bits", run()),
    Situation("another seed of the same code", 0, "upper confidence bounds", run(seed=7)),
    Situation("an unknown machine, and a fallback", 0, "fallback", run(meta(fingerprint=OTHER_FINGERPRINT)), True),
    Situation(
        "an unknown machine whose reference errs a quarter less, and a fallback",
        0,
        "the port's own error",
        run(meta(fingerprint=OTHER_FINGERPRINT), seed=7, reference=0.4),
        True,
    ),
    Situation("an error smaller by half", 0, "improved", run(seed=7, drift=-1.0)),
    Situation(
        "a drift that the ledger allows",
        0,
        "allowed by the ledger",
        run_and(
            lambda place: allowed(place, "drift", 1.0, *F32), seed=7, drift=0.35, only=lambda s: s.component == "conv"
        ),
    ),
    Situation(
        "an allowance far above what is needed",
        0,
        "proposal",
        run_and(lambda place: allowed(place, "drift", 3.0, *F32), seed=7),
    ),
    Situation("an entry that expires soon", 0, "expires on", ledger(soon, seed=7)),
    Situation(
        "other cases under the same seed",
        0,
        "other cases",
        run(
            lambda found: dataclasses.replace(
                found, digests=[dataclasses.replace(each, cases="others") for each in found.digests]
            )
        ),
    ),
    Situation(
        "other bits within the margins, where they are allowed",
        0,
        "other bits",
        run(seed=0, drift=0.001),
        options=("--allow-other-bits",),
    ),
    # Drift.
    Situation("other bits in the same environment, of the same cases", 1, "other bits", run(seed=0, drift=0.001)),
    Situation("other gradients of the same values", 1, "the first is gradients", run(other_gradients)),
    Situation("a tensor more than accepted", 1, "accepted were 3", run(more_tensors)),
    Situation("an error larger by 40 % everywhere", 1, "error grew", run(seed=7, drift=0.5)),
    Situation(
        "an error larger in one stratum alone",
        1,
        "long, normal",
        run(seed=7, drift=0.6, only=lambda s: (s.length_class, s.family) == ("long", "normal")),
    ),
    Situation(
        "a drift on an unknown machine",
        1,
        "fallback environment",
        run(meta(fingerprint=OTHER_FINGERPRINT), seed=7, drift=0.5),
        True,
    ),
    Situation(
        "a drift beyond what the ledger allows",
        1,
        "error grew",
        run_and(lambda place: allowed(place, "drift", 0.6, *F32), seed=7, drift=0.7),
    ),
    Situation("a tensor beyond its absolute allowance", 1, "absolute allowance", run(failing)),
    Situation("a stratum less accurate than the reference", 1, "absolute allowance", run(worsened)),
    Situation(
        "a failure, and a baseline loosened by hand",
        1,
        "absolute allowance",
        run_and(lambda place: (write(place.run, failing(results())), place.edit(place.baseline, inflated))),
    ),
    Situation(
        "a reference that errs a quarter less where it is known",
        1,
        "error grew",
        run(seed=7, reference=0.4),
    ),
    Situation(
        "too few cases to exclude a drift",
        1,
        "cannot be excluded",
        run(lambda found: fewer(found, 4), seed=7, drift=0.2),
    ),
    Situation(
        "an entry for a length class that there is none of",
        1,
        "unmatched",
        run_and(lambda place: allowed(place, "drift", 1.0, *F32, "--length-class", "nowhere")),
    ),
    Situation(
        "an entry dated in the future",
        1,
        "in the future",
        ledger(lambda data: data["entries"][0].update(date="2998-01-01", expires="2998-02-01")),
    ),
    Situation("a component gone", 1, "gone", run(lambda found: without(found, component="norm"))),
    Situation("an entry that has expired", 1, "expired", ledger(expire)),
    Situation(
        "an entry that matches nothing",
        1,
        "unmatched",
        run_and(lambda place: allowed(place, "drift", 1.0, "--component", "gone")),
    ),
    Situation(
        "an entry for a margin that is standard again",
        1,
        "unmatched",
        run_and(lambda place: allowed(place, "margin", 1.5, "--component", "norm")),
    ),
    Situation("a margin that nobody answers for", 1, "no ledger entry", ledger(lambda data: data["entries"].pop())),
    Situation("a baseline that nobody answers for", 1, "nobody answers", ledger(lambda data: data["entries"].pop(0))),
    Situation("a baseline changed by hand", 1, "unmatched", baseline(inflated)),
    Situation(
        "an environment taken out of the baseline by hand",
        1,
        "no such environment",
        run_and(
            lambda place: place.edit(
                place.baseline,
                lambda data: data["environments"].update({"x/standard": data["environments"].popitem()[1]}),
            )
        ),
    ),
    Situation(
        "an entry that would loosen an absolute margin",
        1,
        "loosens",
        run_and(lambda place: allowed(place, "margin", 3.0, *F32, "--length-class", "long", "--family", "offset")),
    ),
    Situation(
        "a margin that was tightened, and is exceeded",
        1,
        "tightened",
        run_and(lambda place: allowed(place, "margin", 0.05, *CONV, "--family", "normal"), seed=7),
    ),
    # Nothing to judge.
    Situation("a run that was killed", 3, "unfinished", unfinished),
    Situation("a run with no row", 3, "is empty", run(emptied)),
    Situation("a run that compared zero elements", 3, "zero elements", run(zeroed)),
    Situation("a run of other code", 3, "stale", run(meta(code="0" * 16))),
    Situation("a run of one's own pair that is gone", 3, "stale", run(meta(own={"gone.py": "0" * 16}))),
    Situation("a run whose hashes are gone", 3, "has no hash", run(unhashed)),
    Situation("a run of single cases", 3, "single cases", run(meta(command=["run", "conv", "--case", "{}"]))),
    Situation(
        "accuracy nowhere, and a seed whose bits were not kept",
        3,
        "nothing was compared with what was accepted",
        lambda place: (place.accept(*(bare(place, seed) for seed in (0, 1)), more=("--smaller",)), bare(place, 9)),
    ),
    Situation("a rung missing", 3, "partial", run(lambda found: without(found, rung="bf16"))),
    Situation("a stratum that could not be compared", 3, "partial", run(uncompared, seed=7)),
    Situation("a component that is new", 3, "no baseline", run(renamed)),
    Situation(
        "another platform than the fallback's",
        3,
        "another platform",
        run(meta(fingerprint=OTHER_FINGERPRINT, environment={"system": "Darwin", "machine": "arm64"})),
        True,
    ),
    Situation(
        "an unknown machine, and no fallback", 3, "unknown fingerprint", run(meta(fingerprint=OTHER_FINGERPRINT))
    ),
    Situation("another budget", 3, "budget", run(meta(budget="quick"))),
    Situation(
        "a baseline with no environment", 3, "holds no environment", baseline(lambda data: data["environments"].clear())
    ),
    # Broken input.
    Situation("no such run", 2, "is no folder", lambda place: None),
    Situation("a summary that is not JSON", 2, "not JSON", text("run/summary.json", "{")),
    Situation("a summary that is an empty file", 2, "empty file", text("run/summary.json", "")),
    Situation("a summary that is a list", 2, "no JSON object", text("run/summary.json", "[]")),
    Situation("a summary of an older schema", 2, "older schema", summary(lambda data: data.update(schema=1))),
    Situation("a summary of a newer schema", 2, "newer schema", summary(lambda data: data.update(schema=99))),
    Situation("a summary without a schema", 2, "no schema", summary(lambda data: data.pop("schema"))),
    Situation(
        "a summary without its fingerprint", 2, "lacks 'fingerprint'", summary(lambda data: data.pop("fingerprint"))
    ),
    Situation(
        "a summary with a NaN", 2, "NaN", summary(lambda data: data["accuracy"][0]["bits"].__setitem__(0, "nan"))
    ),
    Situation(
        "a stratum with fewer ratios than cases", 2, "damaged", summary(lambda data: data["accuracy"][0]["bits"].pop())
    ),
    Situation(
        "fewer cases than any run draws",
        2,
        "no run draws fewer",
        run(lambda found: fewer(found, 4, drawn=False), seed=7),
    ),
    Situation(
        "a ratio of minus infinity",
        2,
        "-infinity",
        summary(lambda data: data["accuracy"][0]["bits"].__setitem__(0, "-infinity")),
    ),
    Situation(
        "a run that failed and holds no failure", 2, "it holds none", summary(lambda data: data.update(verdict="fail"))
    ),
    Situation(
        "a run that says that nothing was compared",
        3,
        "says itself",
        summary(lambda data: data.update(verdict="nothing compared")),
    ),
    Situation(
        "a summary that passed with failures",
        2,
        "contradicts itself",
        summary(lambda data: data["accuracy"][0].update(passed=False)),
    ),
    Situation(
        "a layers.csv of another run",
        2,
        "contradicts itself",
        summary(lambda data: data["counts"].update(elements_compared=1)),
    ),
    Situation("a digit of layers.csv changed by hand", 2, "was written with", run_and(changed_digit)),
    Situation("details.json of another run", 2, "details.json", text("run/details.json", "{}")),
    Situation("no details.json", 2, "details.json", gone("run/details.json")),
    Situation("no layers.csv", 2, "layers.csv", gone("run/layers.csv")),
    Situation(
        "half a layers.csv",
        2,
        "unreadable",
        run_and(lambda place: (place.run / "layers.csv").write_bytes((place.run / "layers.csv").read_bytes()[:-40])),
    ),
    Situation("no baseline", 2, "does not exist", gone("baseline.json")),
    Situation("a baseline that is not JSON", 2, "not JSON", text("baseline.json", "<<<<<<< HEAD")),
    Situation("a baseline of an older schema", 2, "older schema", baseline(lambda data: data.update(schema=0))),
    Situation("a baseline of a newer schema", 2, "newer schema", baseline(lambda data: data.update(schema=99))),
    Situation(
        "a summary in the place of the baseline",
        2,
        "no baseline",
        run_and(lambda place: place.baseline.write_bytes((place.run / "summary.json").read_bytes())),
    ),
    Situation("a baseline with an unknown field", 2, "damaged", baseline(lambda data: data.update(margin=9))),
    Situation("a baseline without seeds", 2, "seeds", baseline(lambda data: own_of(data).update(seeds=[]))),
    Situation("no ledger", 2, "does not exist", gone("ledger.json")),
    Situation("a ledger of an older schema", 2, "older schema", ledger(lambda data: data.update(schema=0))),
    Situation("an entry without a reason", 2, "reason", ledger(lambda data: data["entries"][0].pop("reason"))),
    Situation("an entry with an empty author", 2, "author", ledger(lambda data: data["entries"][0].update(author=" "))),
    Situation(
        "an entry that ends before it begins",
        2,
        "expires",
        ledger(lambda data: data["entries"][0].update(expires="2000-01-01")),
    ),
)
"""In the order of docs/gate.md, whose table is checked against it."""
