"""The project's commands: `nox -l` lists them. The main job is `nox -s parity`."""

from __future__ import annotations

import os
import shutil
import sys

import nox

nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
SOURCES = ["reference_torch", "mlx_impl", "parity", "tests", "examples", "benchmarks", "conftest.py", "noxfile.py"]
CHROMIUMS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
CHROME_OF_MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
PRECISION = {
    "profiles": ["--by", "profile", "--base", "canonical"],
    "rungs": ["--by", "rung", "--base", "f32", "--rung", "f32,bf16,f16"],
}
FALSE_ALARMS = ["--runs", "1000", "--jobs", "2", "--log", "reports/false_alarms.jsonl"]


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """Install dependency groups, and the project itself, at the pinned versions."""
    wanted = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install("-c", "constraints.txt", *wanted, *(["-e", "."] if project else []))


@nox.session
def tests(session: nox.Session) -> None:
    """Test the harness: every check is shown failing once, on all processors. Arguments go to pytest."""
    install(session, "test")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare the port with the reference: all components, profiles and rungs. Arguments go to `parity run`."""
    install(session)
    session.run("parity", "run", "--profile", "all", *session.posargs)


@nox.session
def precision(session: nox.Session) -> None:
    """Compare the profiles, and the rungs, of the last run with each other: writes reports/precision_*.md and .html."""
    install(session)
    for name, arguments in PRECISION.items():
        files = [
            f"--{form}=reports/precision_{name}.{ending}" for form, ending in (("markdown", "md"), ("html", "html"))
        ]
        session.run("parity", "compare", "reports/latest", *arguments, *files, *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Hold the last run against the accepted baseline: docs/gate.md. Arguments go to `parity gate`."""
    install(session)
    session.run("parity", "gate", "reports/latest", "--html", "reports/latest/gate.html", *session.posargs)


@nox.session
def drift(session: nox.Session) -> None:
    """Count right runs that the gate stops, and planted drifts that it sees. Arguments go to the benchmark."""
    install(session)
    session.run("python", "benchmarks/drift.py", *session.posargs)


@nox.session
def golden(session: nox.Session) -> None:
    """Check reference and port against the original code's vectors. Arguments replace the folder."""
    install(session)
    session.run("parity", "golden", *(session.posargs or ["tests/data/goldens"]))


@nox.session
def zoo(session: nox.Session) -> None:
    """Compare architectures of transformers with their ports in mlx-lm: every row as it is known to be, or explained.

    Arguments replace those of `parity zoo`.
    """
    install(session, "zoo", "test")
    session.run("parity", "zoo", *(session.posargs or ["--jobs", "2"]))
    session.run("pytest", "-n", "auto", "tests/zoo")


@nox.session
def mutants(session: nox.Session) -> None:
    """Put known mistakes into the port, one at a time: each must be caught. Arguments replace the defaults."""
    install(session)
    session.run("parity", "mutants", *(session.posargs or ["--jobs", "2"]))


@nox.session
def false_alarms(session: nox.Session) -> None:
    """Count the false alarms of 1,000 runs of a right port: some hours. Arguments replace those of `parity calibrate`.

    Interrupted, it goes on where it was, as long as the code is the same.
    """
    install(session)
    session.run("parity", "calibrate", *(session.posargs or FALSE_ALARMS))


@nox.session
def kernels(session: nox.Session) -> None:
    """Measure every kernel of a knob, accuracy and price: writes reports/kernels.md and reports/extended_precision.md.

    It fails where a bound is exceeded.
    """
    install(session, "test")
    session.run("python", "benchmarks/extended_precision.py", env={"MLX_ENABLE_TF32": "0"})
    session.run("python", "benchmarks/kernels_table.py", *session.posargs, env={"MLX_ENABLE_TF32": "0"})


@nox.session
def bench(session: nox.Session) -> None:
    """Time models, harness and metrics beside others: writes reports/bench.json and .md; about 40 minutes.

    Arguments go to `parity bench`; docs/bench.md.
    """
    session.install("-c", "constraints.txt", "-e", ".[bench]")
    files = ["--json", "reports/bench.json", "--markdown", "reports/bench.md"]
    session.run("parity", "bench", *files, *session.posargs, env={"MLX_ENABLE_TF32": "0"})


@nox.session
def capture(session: nox.Session) -> None:
    """Measure what capture adds to two bare passes, in time and memory. Arguments go to the benchmark."""
    install(session)
    session.run("python", "benchmarks/capture.py", *session.posargs)


@nox.session
def checkpoints(session: nox.Session) -> None:
    """Convert generated files of the seven public checkpoints at full size there and back: needs 5 GB, and deletes it.

    Arguments go to the benchmark: names, --form, --dtype, --folder.
    """
    install(session)
    session.run("python", "benchmarks/checkpoints.py", *session.posargs)


@nox.session
def verification(session: nox.Session) -> None:
    """Verify generated files of public checkpoints at full size, to 32,768 positions: needs 4 GB, and deletes it.

    Arguments go to the benchmark: runs such as 80m@128, --folder, --csv, --mlx-blas.
    """
    install(session)
    session.run("python", "benchmarks/verification.py", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Open the pages in headless Chromium: console, network, filters, sorting, axe-core. Arguments go to pytest.

    With --benchmark ROWS, measure how long a page takes to open; with --screenshots RUN_DIR, take those of docs/.
    """
    install(session, "browser")
    env = {"PARITY_CHROMIUM": chromium(session)}
    if {"--benchmark", "--screenshots"} & set(session.posargs):
        session.run("python", "benchmarks/page.py", *session.posargs, env=env)
    else:
        session.run("pytest", "tests/pages/test_browser.py", *session.posargs, env=env)


def chromium(session: nox.Session) -> str:
    """Return the path of Chromium or Chrome, installed by apt where there is none and this is root; else an error."""
    named = os.environ.get("PARITY_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "chromium", external=True)
        found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None and sys.platform == "darwin" and os.access(CHROME_OF_MACOS, os.X_OK):
        found = CHROME_OF_MACOS
    if found is None:
        session.error("no Chromium: install one (as root: apt-get install chromium), or name it in PARITY_CHROMIUM")
    return found


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports."""
    install(session, "lint", project=False)  # all of it reads the source: no framework is needed
    session.run("ruff", "check", *SOURCES)
    session.run("ruff", "format", "--check", *SOURCES)
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy in strict mode."""
    install(session, "types")
    session.run("mypy")
    session.run("mypy", "noxfile.py", "conftest.py")
