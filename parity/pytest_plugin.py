"""Pairs in anybody's own test suite: a fixture, a mark, a list of pairs in a test module, and `--parity-*` options.

pytest loads this module in every run where mlx-parity is installed: nothing of torch, MLX or the harness is imported
before the first pair is checked.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

if TYPE_CHECKING:
    from parity.pairs import Pair
    from parity.results import Results

BUDGETS: Final = ("quick", "standard", "thorough")
RUNGS: Final = ("f64", "f32", "bf16", "f16")
PORT_DEVICES: Final = ("cpu", "gpu")
REFERENCE_DEVICES: Final = ("cpu", "cuda", "mps")
PROPERTY: Final = "parity"
"""Under this name a test's report carries its lines of the summary, from a worker of xdist too."""

LISTED: Final = "parity_pairs"
"""A list of pairs of this name in a test module is a test for each of them."""


@dataclass(frozen=True)
class Options:
    """How pairs are checked: the `--parity-*` options, and what a test says instead.

    Attributes:
        budget: How many cases are drawn, and how hard a failing one is shrunk.
        rungs: The rungs, joined by commas; all of them if empty.
        profile: Name or path of the profile of pairs that read one.
        seed: Seed of everything drawn.
        out: Folder of the reports, one folder a pair; None writes none.
        port_device, reference_device: Where either side runs.
    """

    budget: str = "quick"
    rungs: str = ""
    profile: str = "canonical"
    seed: int = 0
    out: Path | None = None
    port_device: str = "cpu"
    reference_device: str = "cpu"

    def words(self) -> list[str]:
        """Return the options that choose the same cases again."""
        rung = ["--parity-rung", self.rungs] if self.rungs else []
        return [
            "--parity-budget",
            self.budget,
            *rung,
            "--parity-profile",
            self.profile,
            "--parity-seed",
            str(self.seed),
            *(f"--parity-{word.removeprefix('--')}" if word.startswith("--") else word for word in self._places()),
        ]

    def _places(self) -> list[str]:
        from parity.spec.devices import devices_called

        return devices_called(self.port_device, self.reference_device).words


class Check(Protocol):
    """What the fixture `parity_check` is."""

    def __call__(self, pair: Any, **options: Any) -> Results:
        """Compare a pair's port with its reference; fail the test if they differ, or if nothing was compared.

        Args:
            pair: A `parity.Pair`.
            options: `budget`, `rungs`, `profile`, `seed`, `out` or the devices in place of the command line's.
        """


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the `--parity-*` options."""
    group = parser.getgroup("parity", "PyTorch to MLX ports against their references")
    group.addoption("--parity-budget", choices=BUDGETS, default="quick", help="How many cases are drawn for a pair.")
    group.addoption(
        "--parity-rung",
        action="append",
        metavar="RUNG",
        help=f"Only these rungs of {', '.join(RUNGS)}; repeat it or join them by commas. All by default.",
    )
    group.addoption("--parity-profile", default="canonical", metavar="NAME", help="Profile of pairs that read one.")
    group.addoption("--parity-seed", type=int, default=0, metavar="N", help="Seed of everything drawn; 0 by default.")
    group.addoption(
        "--parity-port-device", choices=PORT_DEVICES, default="cpu", help="Where ports run at every rung but f64."
    )
    group.addoption(
        "--parity-reference-device",
        choices=REFERENCE_DEVICES,
        default="cpu",
        help="Where references run at a rung; truth is the CPU's.",
    )
    group.addoption("--parity-out", type=Path, default=None, metavar="DIR", help="Write a report for each pair here.")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, describe the mark, and set the switch that MLX reads when it is imported.

    Raises:
        pytest.UsageError: A rung is unknown or the seed negative.
    """
    config.addinivalue_line("markers", "parity(pair, ..., **options): check these pairs before the test's body runs.")
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    unknown = [rung for rung in _rungs(config) if rung not in RUNGS]
    if unknown:
        raise pytest.UsageError(f"--parity-rung: unknown rung {unknown[0]!r}; allowed: {', '.join(RUNGS)}")
    if not 0 <= config.getoption("--parity-seed") < 2**32:
        raise pytest.UsageError(f"--parity-seed is from 0 to 2**32 - 1; got {config.getoption('--parity-seed')}")


def _rungs(config: pytest.Config) -> list[str]:
    return [rung.strip() for choice in config.getoption("--parity-rung") or [] for rung in choice.split(",")]


def _options(config: pytest.Config, **changes: Any) -> Options:
    given = {
        "budget": config.getoption("--parity-budget"),
        "rungs": ",".join(_rungs(config)),
        "profile": config.getoption("--parity-profile"),
        "seed": config.getoption("--parity-seed"),
        "out": config.getoption("--parity-out"),
        "port_device": config.getoption("--parity-port-device"),
        "reference_device": config.getoption("--parity-reference-device"),
    }
    unknown = sorted(changes.keys() - given.keys())
    if unknown:
        pytest.fail(f"unknown option {unknown[0]!r} of a parity check; allowed: {', '.join(given)}", pytrace=False)
    if not isinstance(changes.get("rungs", ""), str):
        changes["rungs"] = ",".join(changes["rungs"])
    return Options(**{**given, **changes})


# --- the fixture, the mark and the list -----------------------------------------------------------------------------


@pytest.fixture
def parity_check(request: pytest.FixtureRequest) -> Check:
    """Check a `parity.Pair`: `parity_check(PAIR)` fails the test where port and reference differ."""

    def check(pair: Any, **options: Any) -> Results:
        __tracebackhide__ = True
        return _check(request.node, pair, _options(request.config, **options))

    return check


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Check the pairs of a test's mark before its body runs."""
    __tracebackhide__ = True
    for mark in item.iter_markers("parity"):
        if not mark.args:
            raise pytest.UsageError(
                f"{item.nodeid}: the mark parity names at least one pair: @pytest.mark.parity(PAIR)"
            )
        for pair in mark.args:
            _check(item, pair, _options(item.config, **mark.kwargs))


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> list[pytest.Item] | None:
    """Make a test of every pair in a test module's `parity_pairs`."""
    if name != LISTED or not isinstance(collector, pytest.Module) or not isinstance(obj, list | tuple):
        return None
    return [
        _PairItem.from_parent(collector, name=f"{LISTED}[{getattr(pair, 'name', place)}]", pair=pair)
        for place, pair in enumerate(obj)
    ]


class _PairItem(pytest.Item):
    """The check of one pair of a module's list."""

    def __init__(self, *, pair: Any, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.pair = pair

    def runtest(self) -> None:
        _check(self, self.pair, _options(self.config))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


# --- checking -------------------------------------------------------------------------------------------------------


def _check(item: pytest.Item, given: Any, options: Options) -> Results:
    """Run a pair; whatever is wrong fails the test, in the words of the command line."""
    __tracebackhide__ = True
    from parity.errors import ParityError

    problem = ""
    try:
        pair = _completed(item, given)
        results = _results(pair, options)
    except ParityError as error:
        problem = f"parity: {error}"
    if problem:
        pytest.fail(problem, pytrace=False)
    folder = None if options.out is None else options.out / pair.name
    item.user_properties.append((PROPERTY, _summary(pair, results, folder)))
    if results.exit_code:
        pytest.fail("\n".join(_failure(item, pair, results, options, folder)), pytrace=False)
    return results


def _completed(item: pytest.Item, given: Any) -> Pair:
    from dataclasses import replace

    from parity import api, pairs
    from parity.errors import TargetError

    if isinstance(given, api.Pair):
        return api.complete(given, _target(item, given))
    if isinstance(given, pairs.Pair):
        return replace(given, target=given.target or _target(item, given))
    raise TargetError(f"{item.nodeid} checks a {type(given).__name__}; it must be a parity.Pair")


def _target(item: pytest.Item, given: Any) -> str:
    """What `parity run` calls the pair, where the test's module holds it at its top; empty elsewhere."""
    from parity.targets import pairs_in

    module = getattr(item, "module", None) or getattr(item.getparent(pytest.Module), "obj", None)
    held = [pair for value in vars(module).values() for pair in pairs_in(value)] if module is not None else []
    if not any(pair is given for pair in held):
        return ""
    path = item.path
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown.as_posix()}::{given.name}"


def _results(given: Pair, options: Options) -> Results:
    import torch

    from parity.device_options import place_of
    from parity.environment import collect, product_findings, warm_up
    from parity.results import Results
    from parity.run import Plan, execute, require_weights
    from parity.spec.profile import load_profile

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (pair,) = place_of(options.port_device, options.reference_device).put([given])
        warm_up()
        profile = load_profile(options.profile)
        rungs: Sequence[Any] = options.rungs.split(",") if options.rungs else RUNGS
        require_weights(pair, options.seed)
        plan = Plan([pair], [profile], rungs, options.budget, options.seed, spelling={profile.name: options.profile})
        meta = {
            "budget": options.budget,
            "seed": options.seed,
            "command": ["pytest", *options.words()],
            "environment": {name: str(value) for name, value in collect(pair.devices).to_dict().items()},
            "fingerprint": collect(pair.devices).key(),
        }
        findings = product_findings(pair.devices, [profile])
        meta |= {"findings": findings} if findings else {}
        results = execute(plan, Results(meta))
    finally:
        torch.set_num_threads(threads)
    if options.out is not None:
        _write(options.out / pair.name, results)
    return results


def _write(folder: Path, results: Results) -> None:
    from parity.report import prepare_folder, report_texts, write_report

    prepare_folder(folder)
    write_report(folder, report_texts(results), results.bundles)


def _failure(item: pytest.Item, pair: Pair, results: Results, options: Options, folder: Path | None) -> Iterator[str]:
    """The failures in the words of the command line, and the command that runs this test again."""
    from dataclasses import replace

    from parity.report import failure_lines, unpaired_lines

    again = shlex.join(["pytest", item.nodeid, *options.words()])
    for failure in results.failures:
        shown = failure if pair.target else replace(failure, rerun=f"{again}\n  case: {failure.case}")
        yield from failure_lines(shown, folder, detailed=True)
    yield from unpaired_lines(results)
    for reason in dict.fromkeys(skip.reason for skip in results.skips if not results.failures):
        yield f"skipped: {reason}"
    yield _summary(pair, results, folder)
    if pair.target:
        yield f"this test again: {again}"


def _summary(pair: Pair, results: Results, folder: Path | None) -> str:
    where = "" if folder is None else f"; report in {folder}"
    return (
        f"{results.verdict.upper()} {pair.name}: {len(results.rows)} tensors, {results.compared} elements compared, "
        f"{len(results.failures)} failures, seed {results.meta['seed']}{where}"
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one line for each pair that was checked, in whichever process."""
    lines = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY
    ]
    if lines:
        terminalreporter.section("parity")
        for line in sorted(lines, key=_name_first):
            terminalreporter.line(line)


def _name_first(line: str) -> str:
    return line.partition(" ")[2]
