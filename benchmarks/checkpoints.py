"""The public checkpoints at full size: generated, inspected, converted to MLX and back, every bit compared.

    python benchmarks/checkpoints.py                          # all seven, each in the format of its turn
    python benchmarks/checkpoints.py m2-bert-80m --dtype BF16 # one, in another kind of numbers
    python benchmarks/checkpoints.py --folder /scratch        # where 5 GB are free; all of it is deleted again

Retrieval checkpoints carry the constants of a fused transform. A line each: tensors accounted for, bytes, seconds of
the processes (start included), peak resident size of the larger conversion, and whether all bits came back.

Exit status 1 if a tensor is not accounted for, the configuration is not the published one, or a bit differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.checkpoint import generate, public_called, public_checkpoints
from parity.checkpoint.generate import FORMS, Form
from parity.checkpoint.layout import MASKED_LM
from parity.checkpoint.opening import OpenFile, open_file

SUFFIXES: Final = {
    "composer": "pt",
    "plain": "pt",
    "legacy": "bin",
    "safetensors": "safetensors",
    "npz": "npz",
    "shards": "safetensors.index.json",
}

CHILD: Final = """
import resource, sys
from pathlib import Path
from parity.cli import app
try:
    app(sys.argv[1:])
finally:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    print(*peak or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss], file=sys.stderr)
"""
"""A command in a process of its own, which prints its peak resident size in bytes at the end."""


@dataclass(frozen=True)
class Outcome:
    """What a command printed, how long it took in seconds, and how much memory in bytes."""

    facts: dict[str, Any]
    seconds: float
    peak: int


def main() -> int:
    """Run the checkpoints that the arguments name."""
    arguments = _arguments()
    passed = True
    for number, name in enumerate(arguments.names or public_checkpoints()):
        form = arguments.form or FORMS[number % len(FORMS)]
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            line, good = round_trip(name, form, arguments.dtype, Path(folder))
        print(f"{'ok  ' if good else 'FAIL'} {line}", flush=True)  # noqa: T201
        passed &= good
    return 0 if passed else 1


def round_trip(name: str, form: Form, dtype: str, folder: Path) -> tuple[str, bool]:
    """Take one checkpoint there and back; returns its line, and whether all is right."""
    public = public_called(name)
    source, there, back = folder / f"full.{SUFFIXES[form]}", folder / "there.safetensors", folder / "back.pt"
    begun = time.perf_counter()
    count = generate(source, public.head, public.config, form, dtype=dtype, constants=public.head != MASKED_LM)
    written = time.perf_counter() - begun
    looked = _parity("inspect", source)
    forth = _parity("convert", source, there, "--keep-constants")
    again = _parity("convert", there, back)
    facts = looked.facts
    right = facts["config"] == public.config.model_dump(mode="json") and facts["nearest"]["differences"] == []
    whole = facts["accounted"] == facts["tensors"] == count and facts["nearest"]["name"] == name
    differing = _differing(source, back, facts["prefix"])
    line = (
        f"{name} {form} {dtype}: {facts['accounted']} of {count} tensors, {facts['bytes'] / 1e6:.0f} MB; generated in "
        f"{written:.1f} s, inspected in {looked.seconds:.1f} s, converted in {forth.seconds:.1f} s and back in "
        f"{again.seconds:.1f} s, peak {max(forth.peak, again.peak) / 2**20:.0f} MiB; {differing} tensors differ"
    )
    return line, right and whole and differing == 0


def _parity(command: str, *arguments: Path | str) -> Outcome:
    words = [sys.executable, "-c", CHILD, "checkpoint", command, *map(str, arguments), "--json"]
    begun = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(words[3:])} ended with status {done.returncode}: {done.stderr}{done.stdout}")
    return Outcome(json.loads(done.stdout), seconds, int(done.stderr.split()[-1]))


def _differing(source: Path, back: Path, prefix: str) -> int:
    """Return how many tensors of either file are not in the other, or differ there in a bit."""
    one, other = open_file(source), open_file(back)
    try:
        names = {name.removeprefix(prefix): name for name in one.tensors}
        unmatched = len(names.keys() ^ other.tensors.keys())
        return unmatched + sum(_differ(one, names[name], other, name) for name in names.keys() & other.tensors.keys())
    finally:
        one.close()
        other.close()


def _differ(one: OpenFile, name: str, other: OpenFile, there: str) -> bool:
    mine, theirs = one.tensors[name], other.tensors[there]
    if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
        return True
    return any(a != b for a, b in zip(mine.chunks(), theirs.chunks(), strict=True))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="public checkpoints; all by default")
    parser.add_argument("--form", choices=FORMS, help="one format for all")
    parser.add_argument("--dtype", default="F32", choices=["F32", "BF16", "F16", "F64"])
    parser.add_argument("--folder", type=Path, help="where the files are put; a temporary folder by default")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
