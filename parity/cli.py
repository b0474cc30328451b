"""The command line: parsing, and nothing else.

Exit status: 0 all pass; 1 something fails; 2 bad usage or input; 3 nothing was compared; 130 interrupted.

What work needs is imported inside the functions that do it: `--help` stays fast, and `MLX_ENABLE_TF32` is set before
MLX reads it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from parity import (
    attribution_command,
    baseline_command,
    bench_command,
    checkpoint_command,
    extremes_command,
    gate_command,
    history_command,
    laws_command,
    mutants_command,
    oracle_command,
    pages_command,
    replay_command,
    trace_command,
    use_command,
    verify_command,
    zoo_command,
)
from parity.blas import choose_blas
from parity.device_options import ConstantsOption, Place, PortDeviceOption, ReferenceDeviceOption, place_of
from parity.errors import CaseError, DeviceError, ParityError
from parity.plain import json_text, one_line
from parity.scheduling import schedule_as_batch
from parity.spec.precision import RUNGS, RungName, rung_called
from parity.terminal import progress_bar
from parity.token_options import BlasOption

if TYPE_CHECKING:
    from parity.predictions import PredictionFile
    from parity.spec.profile import HyperProfile

app = typer.Typer(
    name="parity",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Proves, or disproves and says where, that an MLX port computes what its PyTorch original does.\n\n"
    "Start with `parity run --profile all`. Exit status: 0 all pass, 1 something fails, 2 bad usage or input, "
    "3 nothing was compared.",
)

DEFAULT_OUT = Path("reports/latest")
_TABLE_WIDTH = 140


class BudgetChoice(StrEnum):
    """Budgets as the command line spells them."""

    quick = "quick"
    standard = "standard"
    thorough = "thorough"


@app.command()
def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET",
            help="Components, for example `layer`; your own pairs as FILE.py, FILE.py::NAME or MODULE:ATTR. All "
            "components if none is named.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="A profile's name, the path of a JSON file, `all` five, or `variants`: the canonical one with every "
            "other kernel. Default: $MLX_M2_PROFILE, else mlx_stable."
        ),
    ] = None,
    rung: Annotated[
        list[str] | None,
        typer.Option(
            help="f64 asks: does it mean the same? f32, bf16, f16: is it as accurate? Repeat it or join by commas."
        ),
    ] = None,
    budget: Annotated[
        BudgetChoice, typer.Option(help="How many cases are drawn for each component.")
    ] = BudgetChoice.standard,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Seed of everything drawn. Default: 0 in CI, else random and recorded.",
        ),
    ] = None,
    case: Annotated[
        str | None, typer.Option(help="Run this one case of one TARGET, as a report or a failure prints it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report. Default: reports/latest; with --case, no report is written."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the unfinished run in the output folder; its seed is the default."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="PARITY_JOBS",
            help="Processes; the report's bytes do not depend on it. Default: as many as processors, memory (1.5 GiB "
            "each) and work allow.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps what is predicted of the reference, for the next run with the same reference: it is "
            "not computed again. The report's bytes do not depend on it.",
        ),
    ] = None,
    mlx_blas: BlasOption = "bundled",
    port_device: PortDeviceOption = "cpu",
    reference_device: ReferenceDeviceOption = "cpu",
    constants: ConstantsOption = None,
) -> None:
    """Compare the port with the reference and with float64 truth, and write a report.

    Examples:

    * `parity run` everything under the default profile
    * `parity run --profile all --seed 0` everything, every profile, reproducibly
    * `parity run layer mlp --profile torch_like --rung f64` two components, meaning only
    * `parity run my_pairs.py::gated_mlp` a model of your own: docs/pairs.md
    * `parity run --port-device gpu --reference-device cuda` on a GPU: docs/devices.md

    Writes report.html, report.md, layers.csv, details.json and summary.json into the output folder, and a bundle of
    every failure. A run that was interrupted or killed leaves no report; the same command with --resume goes on with it
    and gives the same files.
    """
    raise typer.Exit(
        _guarded(
            lambda: _run(
                *(targets or [], profile, rung, budget, seed, case, out, resume, jobs, predictions, mlx_blas),
                place_of(port_device, reference_device, constants),
            ),
            "no report was written" if case else "no report was written; --resume goes on with what is finished",
        )
    )


@app.command()
def golden(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with golden .safetensors files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every tensor's figures as JSON.")] = False,
) -> None:
    """Check reference and port against vectors of the original code: forward and gradients, float64 and float32.

    One line a file: rel L2 at f64, and at f32 the error in multiples of the noise floor that the file itself shows.
    Exit status 1 if any file misses, 2 if any cannot be judged, 3 if there is none.
    """
    raise typer.Exit(_guarded(lambda: _golden(folder, as_json), "no file was judged"))


@app.command()
def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    survey: Annotated[
        bool,
        typer.Option(
            "--survey",
            help="Measure instead which of MLX's operations and gradients keep float64, bf16 and f16; takes a minute.",
        ),
    ] = False,
    mlx_blas: BlasOption = "bundled",
    port_device: PortDeviceOption = "cpu",
    reference_device: ReferenceDeviceOption = "cpu",
) -> None:
    """Show versions, processor, BLAS and switches, and measure how many mantissa bits each operation really has.

    A float64 that is really float32, or a float32 that is really TF32, is seen here and not guessed.
    """

    def measure() -> int:
        choose_blas(mlx_blas)
        place = place_of(port_device, reference_device)
        return _survey(as_json) if survey else _env(as_json, place)

    raise typer.Exit(_guarded(measure, "nothing was measured"))


@app.command("float64")
def float64_modules(
    as_json: Annotated[bool, typer.Option("--json", help="Print every layer's figures as JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of shapes, weights and inputs.")] = 0,
) -> None:
    """Compare layers of mlx.nn, as installed, with torch.nn in float64: as MLX computes it, and inside the context.

    Exit status 1 if any layer misses 1e-12 inside the context, forward or gradients, or any precision leak is met.
    """
    raise typer.Exit(_guarded(lambda: _float64(as_json, seed), "no layer was judged"))


@app.command()
def calibrate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TARGET]...", help="Components, or pairs of your own; all components by default."),
    ] = None,
    profile: Annotated[list[str] | None, typer.Option(help="Profiles by name; canonical by default.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="How many runs, each with a seed of its own.")] = 20,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="The first seed.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep every finished run in FILE, and run none again that FILE has."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every stratum as JSON.")] = False,
    port_device: PortDeviceOption = "cpu",
    reference_device: ReferenceDeviceOption = "cpu",
    constants: ConstantsOption = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure the constants of the port's device instead, and write them with the environment to FILE.",
        ),
    ] = None,
) -> None:
    """Count how often the port as it stands is accused: every failure of a right port is a false alarm.

    Each run tests the strata of the accuracy test, and puts one drawn case to the absolute gates, of one component
    after the other.
    1,000 runs of everything take some hours of one core: with --log they can be interrupted and gone on with, and what
    is printed is of all runs in the log.

    Exit status 1 if there was a false alarm, 3 if no stratum was tested.

    * `parity calibrate --port-device gpu --write cuda.json` how much that device errs in each operation, in units of
      what the table of tolerances says: `parity run --constants cuda.json` judges by it (docs/devices.md)
    """
    chosen = profile or ["canonical"]

    def calibrated() -> int:
        place = place_of(port_device, reference_device, constants)
        if write is not None:
            return _write_constants(write, place, as_json)
        return _calibrate(targets or [], chosen, runs, seed, jobs, log, as_json, place)

    raise typer.Exit(_guarded(calibrated, "no run was finished" if write is None else "no file was written"))


def main() -> None:
    """Entry point of the `parity` command; what a terminal cannot show is replaced, not a reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def _guarded(command: Callable[[], int], interrupted: str) -> int:
    """Run a command; a user's mistake becomes one line and status 2, an interruption one line and status 130.

    `interrupted` says what an interruption leaves undone, unless the interruption itself says so.
    Hypothesis is given a folder of its own, since it would leave one where the command runs.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with tempfile.TemporaryDirectory(prefix="parity-") as folder:
            os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", folder)
            return command()
    except ParityError as error:
        sys.stderr.write(f"parity: {one_line(error)}\n")
        return 2
    except KeyboardInterrupt as interruption:
        sys.stderr.write(f"parity: interrupted; {str(interruption) or interrupted}\n")
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(_number: int, _frame: object) -> None:
    """End as a terminated process does, temporary folders removed."""
    raise SystemExit(143)


class _Interruption:
    """Ctrl-C, noted by the handler and raised at the next safe point; a second one is raised at once.

    Raised wherever it arrives, it can fall into a garbage-collection callback, where Python prints and drops it.
    """

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGINT, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise what was noted."""
        if self.asked:
            raise KeyboardInterrupt


def _run(
    targets: list[str],
    profile: str | None,
    rungs: list[str] | None,
    budget: BudgetChoice,
    seed: int | None,
    case_json: str | None,
    out: Path | None,
    resume: bool,
    jobs: int | None,
    predictions: Path | None,
    mlx_blas: str,
    place: Place,
) -> int:
    interruption = _Interruption()
    schedule_as_batch()
    choose_blas(mlx_blas)
    profiles = _profiles(profile)
    chosen = seed is not None or case_json is not None
    folder = out if out is not None or case_json is not None else DEFAULT_OUT
    if resume:
        from parity.resume import require_resumable, seed_to_resume

        found = seed_to_resume(require_resumable(None if case_json is not None else folder))
        seed = found if seed is None else seed
    seed = _seed(seed)
    import torch

    from parity.blame.failures import blame_failures
    from parity.cases import Case
    from parity.environment import collect, measure_bits, product_findings, require_devices, warm_up
    from parity.environment.product import blas_in_effect
    from parity.examine import bench_maker
    from parity.heap import keep_freed_memory
    from parity.journal import common_header
    from parity.report import make_folder, prepare_folder, report_texts, write_report
    from parity.results import Results
    from parity.resume import progress_of
    from parity.run import Plan, plan_cases, require_buildable, require_weights
    from parity.run_jobs import Asked, execute_in, without_aids
    from parity.sources import pair_sources
    from parity.suites import select
    from parity.suites.m2_bert_alternatives import explain

    torch.set_num_threads(1)
    require_devices(place.devices)
    warm_up()
    keep_freed_memory()
    pairs = place.put(select(targets))
    # Before a builder is called, which may change where Python finds modules.
    header = common_header(pairs, list(profiles.values()))
    if case_json is not None and (len(targets) != 1 or len(pairs) != 1):
        got = len(targets) if len(targets) != 1 else f"{len(pairs)} pairs: {', '.join(map(_spelt, pairs))}"
        raise CaseError(f"--case needs exactly one TARGET, the component it belongs to; got {got}")
    cases = [Case.from_json(pairs[0].name, case_json)] if case_json is not None else []
    for given in cases:
        require_buildable(pairs[0], given)
    for pair in (pair for pair in pairs if pair.target):
        require_weights(pair, seed, cases)
    if folder is not None:
        make_folder(folder)
    environment = collect(place.devices)
    file = None if predictions is None else _opened(predictions, environment.key(), header["own"])
    plan = Plan(
        pairs,
        list(profiles.values()),
        _rungs(rungs),
        budget.value,
        seed,
        cases,
        spelling=_spelling(profiles),
        explain=lambda pair, *question: [] if pair.target else explain(pair, *question),
        bench=bench_maker(file),
    )
    findings = product_findings(place.devices, plan.profiles)
    meta = {
        "budget": budget.value,
        "seed": seed,
        "command": [word for word in without_aids(sys.argv[1:]) if word != "--resume"],
        "environment": {**_flat(environment.to_dict()), "mlx_blas_in_effect": blas_in_effect()},
        "fingerprint": environment.key(),
        "code": header["code"],
        "own": header["own"],
        "spelling": {
            "components": {pair.name: pair.target for pair in pairs if pair.target},
            "profiles": {name: spelt for name, spelt in plan.spelling.items() if name != spelt},
        },
    }
    meta |= _said(findings)
    header |= {
        "fingerprint": meta["fingerprint"],
        "seed": seed,
        "budget": budget.value,
        "rungs": list(plan.rungs),
        "targets": [pair.spelling for pair in pairs],
        "spelling": dict(plan.spelling),
    }
    if not chosen:
        sys.stderr.write(f"parity: seed {seed}\n")
    with progress_of(folder, None if cases else header, resume) as finished:
        if folder is not None:
            # The folder is this process's own now: no other run's report is taken away.
            prepare_folder(folder)
        with progress_bar() as progress:
            total = sum(len(plan_cases(plan, pair)) for pair in pairs)
            task = progress.add_task("starting", total=total)

            def on_case(name: str) -> None:
                progress.update(task, advance=1, description=name)

            asked = Asked.of(plan, targets, place, mlx_blas, file)
            results = execute_in(asked, jobs, plan, Results(meta), finished, on_case, interruption.check)
            interruption.check()
        if folder is not None:
            results.bits, results.sources = (
                [row.to_dict() for row in measure_bits(devices=place.devices)],
                pair_sources(pairs),
            )
            results.blames = list(blame_failures(pairs, plan.profiles, results, interruption.check))
            with finished.remaining():
                write_report(folder, report_texts(results), results.bundles)
        finished.discard()
    _print_results(results, folder, detailed=bool(cases))
    return results.exit_code


def _opened(predictions: Path, fingerprint: str, own: Mapping[str, str]) -> PredictionFile:
    """Open the file of predictions, and print how many it holds."""
    from parity.code import WITHOUT_PORT, code_hash
    from parity.predictions import PredictionFile, identity_of, packages_hash

    identity = identity_of(fingerprint, code_hash(WITHOUT_PORT), packages_hash())
    file = PredictionFile.opened(predictions, identity, own)
    sys.stderr.write(f"parity: {file.answers()} predictions of this code and machine are kept in {predictions}\n")
    return file


def _said(findings: list[str]) -> dict[str, list[str]]:
    """Print what was found about the devices, and return it as the report keeps it: nothing where there is nothing."""
    for finding in findings:
        sys.stderr.write(f"parity: {finding}\n")
    return {"findings": findings} if findings else {}


def _write_constants(file: Path, place: Place, as_json: bool) -> int:
    interruption = _Interruption()
    import torch

    from parity.backends.device_errors import measure_device
    from parity.device_constants import MOST_LOOSENED, write_constants
    from parity.environment import collect, product_findings, require_devices, warm_up
    from parity.environment.devices import backend_of
    from parity.spec.profile import CANONICAL

    torch.set_num_threads(1)
    require_devices(place.devices)
    warm_up()
    findings = product_findings(place.devices, [CANONICAL])
    if findings:
        raise DeviceError(f"{findings[0]}: constants measured so would allow it for ever")
    entries = measure_device(place.devices, interruption.check)
    environment = collect(place.devices)
    write_constants(file, backend_of(place.devices.port), {**environment.to_dict(), "key": environment.key()}, entries)
    if as_json:
        sys.stdout.write(file.read_text(encoding="utf-8"))
        return 0
    out = Console(highlight=False, soft_wrap=True)
    for entry in entries:
        note = f", beyond {MOST_LOOSENED:g}: FILE wants a reason before it is used" * (entry.factor > MOST_LOOSENED)
        out.print(f"{entry.name:12} {entry.measured:.3f} ({entry.where}), factor {entry.factor:g}{note}", markup=False)
    out.print(f"{len(entries)} constants of {backend_of(place.devices.port)} in {file}", markup=False)
    return 0


def _calibrate(
    targets: list[str],
    profiles: list[str],
    runs: int,
    seed: int,
    jobs: int,
    log: Path | None,
    as_json: bool,
    place: Place,
) -> int:
    interruption = _Interruption()
    import torch

    from parity.calibrate_command import CalibrationPlan, exit_status, print_calibration, run_calibration
    from parity.spec.profile import load_profile, require_built
    from parity.suites import select

    torch.set_num_threads(1)
    place.put(select(targets))
    for name in profiles:
        require_built(load_profile(name))
    plan = CalibrationPlan(targets, profiles, range(seed, seed + runs), jobs, log, place)
    with progress_bar() as progress:
        calibration = run_calibration(plan, progress, interruption.check)
    print_calibration(calibration, plan, as_json)
    return exit_status(calibration)


def _golden(folder: Path, as_json: bool) -> int:
    import torch

    from parity.golden import check_folder, golden_files

    torch.set_num_threads(1)
    files = golden_files(folder)
    with progress_bar() as progress:
        task = progress.add_task("golden", total=len(files))
        reports = check_folder(folder, lambda name: progress.update(task, advance=1, description=name))
    out = Console(highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json_text([report.to_dict() for report in reports]))
    else:
        for report in reports:
            out.print(_golden_line(report), markup=False)
        counts = {status: sum(report.status == status for report in reports) for status in ("ok", "MISS", "BAD")}
        out.print(
            f"{len(reports)} files: " + ", ".join(f"{count} {status}" for status, count in counts.items()),
            markup=False,
        )
    statuses = {report.status for report in reports}
    return 3 if not statuses else 2 if "BAD" in statuses else 1 if "MISS" in statuses else 0


def _env(as_json: bool, place: Place) -> int:
    from parity.environment import (
        collect,
        measure_bits,
        product_findings,
        require_devices,
        to_json,
        to_table,
        warm_up,
    )
    from parity.environment.product import blas_in_effect
    from parity.spec.profile import CANONICAL

    require_devices(place.devices)
    warm_up()
    environment, rows = collect(place.devices), measure_bits(devices=place.devices)
    blas = blas_in_effect()
    if as_json:
        sys.stdout.write(to_json(environment, rows, blas) + "\n")
    else:
        out = Console()
        out.print(to_table(environment, rows))
        out.print(f"MLX multiplies by {blas}, as the bits of a product show.", markup=False)
        out.print(
            "MLX's float64 is known to be float32 in part; the f64 rung replaces those functions by float64 ones.",
            markup=False,
        )
        for finding in product_findings(place.devices, [CANONICAL]):
            out.print(finding, markup=False)
    return 0


def _survey(as_json: bool) -> int:
    from parity.environment import collect, warm_up
    from parity.float64.survey import survey
    from parity.report.float64 import survey_table

    warm_up()
    rows = survey()
    if as_json:
        document = {"environment": collect().key(), "survey": [row.to_dict() for row in rows]}
        sys.stdout.write(json_text(document))
    else:
        Console(highlight=False, width=_TABLE_WIDTH).print(survey_table(rows))
    return 0


def _float64(as_json: bool, seed: int) -> int:
    import torch

    from parity.environment import collect, warm_up
    from parity.report.float64 import module_table
    from parity.suites.m2_bert_float64 import examine_layers
    from parity.suites.third_party import examine_modules

    torch.set_num_threads(1)
    warm_up()
    rows = [*examine_modules(seed), *examine_layers(seed)]
    passed = sum(row.passed for row in rows)
    if as_json:
        document = {"environment": collect().key(), "seed": seed, "modules": [row.to_dict() for row in rows]}
        sys.stdout.write(json_text(document))
    else:
        out = Console(highlight=False, width=_TABLE_WIDTH)
        out.print(module_table(rows))
        out.print(
            f"{'PASS' if passed == len(rows) else 'FAIL'}: {passed} of {len(rows)} layers, seed {seed}", markup=False
        )
    return 0 if passed == len(rows) else 1


def _rungs(choices: list[str] | None) -> list[RungName]:
    """Return the chosen rungs, finest first; all of them if none is named.

    Raises:
        ConfigError: A rung is unknown.
    """
    named = [rung_called(name).name for choice in choices or RUNGS for name in map(str.strip, choice.split(","))]
    return [rung for rung in RUNGS if rung in named]


def _profiles(choice: str | None) -> dict[str, HyperProfile]:
    """Return the chosen profiles by the spelling that chooses them again."""
    from parity.spec.profile import DEFAULT_PROFILE, ENVIRONMENT_VARIABLE, load_profile, profile_names, variant_names

    choice = choice or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_PROFILE
    groups = {"all": profile_names(), "variants": variant_names()}
    if choice in groups:
        return {name: load_profile(name) for name in groups[choice]}
    return {choice: load_profile(choice)}


def _spelt(pair: Any) -> str:
    return str(pair.spelling)


def _spelling(profiles: dict[str, HyperProfile]) -> dict[str, str]:
    return {profile.name: spelling for spelling, profile in profiles.items()}


def _seed(seed: int | None) -> int:
    if seed is not None:
        return seed
    import secrets

    return 0 if os.environ.get("CI") else secrets.randbelow(2**32)


def _print_results(results: Any, folder: Path | None, detailed: bool) -> None:
    from parity.gradients import KINK
    from parity.report import unpaired_lines

    out = Console(highlight=False, soft_wrap=True)
    if detailed:
        for row in results.rows:
            status = {"pass": "ok  ", "ill-conditioned": "ill "}.get(row.verdict, "FAIL")
            out.print(
                f"{status} {row.rung:4} {row.tensor:50} error/allowed {row.ratio:.3g} "
                f"port {_short(row.port_rel_l2)} reference {_short(row.reference_rel_l2)} {row.reason}",
                markup=False,
            )
    for failure in results.failures:
        _print_failure(out, failure, folder, detailed)
    for line in unpaired_lines(results):
        out.print(line, markup=False)
    for skips, what in (
        ([skip for skip in results.skips if skip.cases is None], "combinations of component, profile and rung"),
        ([skip for skip in results.skips if skip.cases and skip.reason != KINK], "runs of single cases"),
        ([skip for skip in results.skips if skip.reason == KINK], ""),
    ):
        if skips:
            rungs = ", ".join(dict.fromkeys(skip.rung for skip in skips))
            reasons = "; ".join(dict.fromkeys(skip.reason for skip in skips))
            count = sum(skip.cases or 1 for skip in skips)
            said = f"skipped {count} {what}" if what else f"{count} runs of single cases were judged, not skipped"
            out.print(f"{said} ({rungs}): {reasons}", markup=False)
    if results.assessments:
        out.print(_accuracy_line(results), markup=False)
    where = f"; report in {folder}" if folder is not None else ""
    mute = sum(row.verdict == "ill-conditioned" for row in results.rows)
    ill = f"{mute} tensors ill-conditioned, " if mute else ""
    out.print(
        f"{results.verdict.upper()}: {len(results.rows)} tensors, {results.compared} elements compared, "
        f"{len(results.failures)} failures, {ill}seed {results.meta['seed']}{where}",
        markup=False,
    )


def _print_failure(out: Console, failure: Any, folder: Path | None, detailed: bool) -> None:
    from parity.report import failure_lines

    for line in failure_lines(failure, folder, detailed):
        out.print(line, markup=False)


def _accuracy_line(results: Any) -> str:
    compared = [assessment for assessment in results.assessments if not assessment.skipped]
    inferior = sum(not assessment.passed for assessment in compared)
    cases = sum(assessment.cases for assessment in compared)
    line = f"accuracy: {len(compared)} strata, {cases} cases, {inferior} less accurate than the reference"
    left_out = [assessment for assessment in results.assessments if assessment.cases_skipped or assessment.skipped]
    if not left_out:
        return line
    reasons = "; ".join(dict.fromkeys(assessment.skipped for assessment in left_out if assessment.skipped))
    return (
        f"{line}; not compared: {sum(bool(assessment.skipped) for assessment in left_out)} strata, "
        f"{sum(assessment.cases_skipped for assessment in left_out)} cases" + (f" ({reasons})" if reasons else "")
    )


def _golden_line(report: Any) -> str:
    if report.problem:
        return f"BAD   {report.file}: {report.problem}"
    parts = []
    for side in ("reference", "port"):
        exact, single = report.worst(side, "f64"), report.worst(side, "f32")
        for rung, check in (("f64", exact), ("f32", single)):
            if check is not None:
                unit = "x" if rung == "f32" else ""
                figure = f"{check.error:.2f}x" if rung == "f32" else f"{check.error:.1e}"
                miss = "" if check.passed else f" > {check.allowed:g}{unit} at {check.tensor}"
                parts.append(f"{side} {rung} {figure}{miss}")
    notes = f"  ({'; '.join(report.notes)})" if report.notes else ""
    return f"{report.status:5} {report.file}  {len(report.checks)} checks  {', '.join(parts)}{notes}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return flat


replay_command.register(app, _guarded)
attribution_command.register(app, _guarded)
laws_command.register(app, _guarded)
oracle_command.register(app, _guarded)
extremes_command.register(app, _guarded)
trace_command.register(app, _guarded)
zoo_command.register(app, _guarded)
mutants_command.register(app, _guarded)
baseline_command.register(app, _guarded)
gate_command.register(app, _guarded)
bench_command.register(app, _guarded)
history_command.register(app, _guarded)
pages_command.register(app, _guarded)
checkpoints = checkpoint_command.register(app, _guarded)
verify_command.register(checkpoints, _guarded)
use_command.register(app, checkpoints, _guarded)

if __name__ == "__main__":
    main()
