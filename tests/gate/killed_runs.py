"""Runs that are killed: forks of one process that has everything imported, so that each takes a second.

    python killed_runs.py FOLDER KILLS SEED

Runs once undisturbed into FOLDER/whole and times it. Then runs into FOLDER/killed with SIGKILL at a random moment,
KILLS times; each run goes on with what the one before left, if it left a journal. At last it lets one finish. Writes
to standard output, as JSON, what lay in the folder after every kill.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import parity.cli
import parity.run
import parity.suites.m2_bert_alternatives
from parity.files import JOURNAL

ARGUMENTS = ["run", "blockdiag_linear", "monarch_multiply", "--profile", "canonical", "--rung", "f64,f32"]


def start(folder: Path, resume: bool) -> int:
    """Fork a process that runs into `folder`, and return its number."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder.parent)
    arguments = [*ARGUMENTS, "--budget", "quick", "--seed", "3", "--out", "run"]
    sys.argv = ["parity", *arguments]
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        parity.cli.app([*arguments, *(["--resume"] if resume else [])])
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    os._exit(1)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("[!.]*")) if path.is_file()}


def parts(folder: Path) -> list[list[str]]:
    """Names of the finished parts in the journal, half a line at the end left out."""
    path = folder / JOURNAL
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line)[:2] for line in lines]


def main(folder: Path, kills: int, seed: int) -> None:
    whole, killed = folder / "whole" / "run", folder / "killed" / "run"
    for place in (whole, killed):
        place.parent.mkdir(parents=True)
    begun = time.monotonic()
    _, status = os.waitpid(start(whole, False), 0)
    duration = time.monotonic() - begun
    assert status == 0, status
    rng, states = random.Random(seed), []
    for _ in range(kills):
        resume = (killed / JOURNAL).exists()
        child = start(killed, resume)
        time.sleep(rng.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        states.append({"resume": resume, "parts": parts(killed), "files": contents(killed) if killed.exists() else {}})
        if "summary.json" in states[-1]["files"]:
            shutil.rmtree(killed)
    _, status = os.waitpid(start(killed, True), 0)
    found = {"status": status, "states": states, "whole": contents(whole), "killed": contents(killed)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
