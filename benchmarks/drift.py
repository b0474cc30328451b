"""How often the gate stops a right run with another seed, and whether it sees a planted drift of ten per cent.

    nox -s drift                                     # the FFT convolution: 200 right runs, 26 planted ones
    nox -s drift -- --components all                 # every component: an hour
    nox -s drift -- --csv tests/data/fftconv_ratios.csv

A run is the accuracy test of `parity run` at the standard budget under `canonical`: r of every case of every stratum.
The first K runs are accepted; every other one is judged by the gate's own tests against them, for each K. Planted
means: the port of the FFT convolution is right, and its residual against the float64 truth is stretched, and rounded
to its dtype, until its norm is 1.1 times what it was. (Stretched by 1.1 alone, rounding takes half of it back, since
most errors are a few units in the last place.)

The computed probabilities add up, over all tests, the normal tail beyond the margin at the mean and spread that the
runs showed. Exit status 1 if a right run is stopped, or a planted one passes with `--required` runs accepted.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from mlx import nn
from scipy import special, stats

from parity.accuracy import Stratum
from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.cases import STRATUM_FAMILIES
from parity.environment import warm_up
from parity.files import write_whole
from parity.gate.drift import Accepted, Drift, group_drift, group_margin, pool, stratum_drift
from parity.pairs import Pair
from parity.spec.precision import RUNGS
from parity.spec.profile import load_profile
from parity.strata import StrataPlan, assess_pair
from parity.suites import select
from parity.terminal import progress_bar
from parity.workers import work

FACTOR: Final = 1.1
PLANTED: Final = "fftconv"
ACCEPTED: Final = (1, 2, 4, 8)
BISECTIONS: Final = 25

Runs = dict[int, dict[Stratum, list[float | None]]]


@dataclass(frozen=True)
class Task:
    """One run: a seed, the components, and whether the convolution is planted."""

    seed: int
    components: tuple[str, ...]
    planted: bool


def main() -> int:
    """Run, judge and print."""
    choice = _arguments()
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    components = tuple(pair.name for pair in select([] if choice.components == "all" else choice.components.split(",")))
    most = max(ACCEPTED)
    right = [Task(seed, components, False) for seed in range(choice.runs + most)]
    planted = [Task(seed, (PLANTED,), True) for seed in range(most + choice.planted)]
    clean, stretched = _found([*right, *(planted if PLANTED in components else [])], choice.jobs)
    if choice.csv is not None:
        write_whole(choice.csv, _csv(clean, stretched), "name another file with --csv")
    return _report(clean, stretched, choice.required)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--components", default=PLANTED, help="names joined by commas, or all (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=200, help="right runs that are judged (default: %(default)s)")
    parser.add_argument("--planted", type=int, default=26, help="planted runs that are judged (default: %(default)s)")
    parser.add_argument("--required", type=int, default=4, help="accepted runs with which all are caught")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="write r of the convolution's strata at f32 into FILE", metavar="FILE")
    return parser.parse_args()


def _found(tasks: Sequence[Task], jobs: int) -> tuple[Runs, Runs]:
    found: tuple[Runs, Runs] = ({}, {})
    with progress_bar() as bar:
        shown = bar.add_task("runs", total=len(tasks))
        for task, sample in work(run, tasks, jobs):
            found[task.planted][task.seed] = sample
            bar.advance(shown)
    return found


def run(task: Task) -> tuple[Task, dict[Stratum, list[float | None]]]:
    """Return r of every stratum of one run."""
    _prepare()
    profile, families = load_profile("canonical"), tuple(STRATUM_FAMILIES)
    pairs = [_stretched(pair) if task.planted else pair for pair in select(list(task.components))]
    return task, {
        found.stratum: list(found.bits)
        for pair in pairs
        for found in assess_pair(StrataPlan(pair, [profile], list(RUNGS), families, task.seed))
        if not found.skipped
    }


@functools.cache
def _prepare() -> None:
    torch.set_num_threads(1)
    warm_up()


def _stretched(pair: Pair) -> Pair:
    """Return the pair with a port whose error is FACTOR times what it was."""

    def call(module: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = dict(pair.call(module, inputs))
        if isinstance(module, nn.Module) and outputs["y"].dtype != mx.float64:
            outputs["y"] = _stretch(outputs["y"], _truth(module, inputs["u"]))
        return outputs

    return replace(pair, call=call)


def _truth(module: Any, u: mx.array) -> np.ndarray:
    """Return what the convolution is, in float64: y = irfft(rfft(u) rfft(k2)) + u D, and the exact GELU of it."""
    x, k, D = (numpy_from_mlx(array)[0] for array in (u, module.k, module.D))
    l = x.shape[-1]
    kernel = np.pad(k, [(0, 0), (0, l)])
    if module.k_rev is not None:
        kernel += np.pad(numpy_from_mlx(module.k_rev)[0][:, ::-1], [(0, 0), (l, 0)])
    spectrum = np.fft.rfft(x, 2 * l) * np.fft.rfft(kernel)
    y = np.fft.irfft(spectrum, 2 * l)[..., :l] + x * D.reshape(1, -1, 1)
    return y if module.act is None else y * special.ndtr(y)


def _stretch(y: mx.array, truth: np.ndarray) -> mx.array:
    """Return y with its residual stretched and rounded until its norm is FACTOR times what it was."""
    values, dtype = numpy_from_mlx(y)
    kind = getattr(torch, dtype)

    def planted(factor: float) -> np.ndarray:
        rounded: np.ndarray = torch.from_numpy(truth + factor * (values - truth)).to(kind).double().numpy()
        return rounded

    goal = FACTOR * np.linalg.norm(values - truth)
    low, high = 1.0, 3.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(planted(middle) - truth) < goal else (low, middle)
    return mlx_from_numpy(planted(high), dtype)


def _csv(clean: Runs, stretched: Runs) -> str:
    """Return r of the convolution's strata at f32: by case where a run may be accepted, the mean alone elsewhere."""
    lines = ["factor,seed,length_class,family,cases,mean,bits"]
    for factor, runs in (("1", clean), (f"{FACTOR:g}", stretched)):
        for seed, sample in sorted(runs.items()):
            for stratum, bits in sample.items():
                if stratum.component == PLANTED and stratum.rung == "f32":
                    values = [value for value in bits if value is not None]
                    each = " ".join(f"{value:.4f}" for value in values) if seed < max(ACCEPTED) or factor != "1" else ""
                    mean = f"{float(np.mean(values)):.4f}"
                    lines.append(
                        ",".join(
                            (factor, str(seed), stratum.length_class, stratum.family, str(len(values)), mean, each)
                        )
                    )
    return "\n".join(lines) + "\n"


def _report(clean: Runs, stretched: Runs, required: int) -> int:
    """Print one line for every number of accepted runs; return the exit status."""
    bad = False
    for number in ACCEPTED:
        accepted = pool([clean[seed] for seed in range(number)])
        judged = {seed: _drifts(accepted, sample) for seed, sample in clean.items() if seed >= max(ACCEPTED)}
        stopped = [seed for seed, drifts in judged.items() if any(drift.grew for drift in drifts)]
        line = (
            f"{number} accepted: margin of {_margins(accepted)}; {len(stopped)} of {len(judged)} right runs stopped, "
            f"computed {_tail(judged.values()):.1e} a run"
        )
        bad |= bool(stopped)
        if stretched:
            seen = {seed: _drifts(accepted, sample) for seed, sample in stretched.items() if seed >= max(ACCEPTED)}
            caught = [seed for seed, drifts in seen.items() if any(drift.grew for drift in drifts)]
            line += f"; {len(caught)} of {len(seen)} planted caught"
            bad |= number >= required and len(caught) < len(seen)
        sys.stdout.write(line + "\n")
    sys.stdout.write("FAIL\n" if bad else "PASS\n")
    return int(bad)


def _drifts(accepted: Accepted, sample: Mapping[Stratum, Sequence[float | None]]) -> list[Drift]:
    """Return every test of the gate that the sample allows."""
    strata = [each for each in accepted.strata if each.stratum in sample]
    groups = [each for each in accepted.groups if all(s.stratum in sample for s in accepted.strata_of(each.group))]
    return [
        *(stratum_drift(accepted, each, sample[each.stratum]) for each in strata),
        *(group_drift(accepted, each, sample) for each in groups),
    ]


def _margins(accepted: Accepted) -> str:
    shown = [(group.group, group_margin(accepted, group)) for group in accepted.groups if group.group[2] == "f32"]
    return ", ".join(f"{where[0]} f32 {margin:.3f} bits ({100 * (2**margin - 1):.1f} %)" for where, margin in shown)


def _tail(runs: Iterable[Sequence[Drift]]) -> float:
    """Add up, over all tests, the probability that the upper bound lies above its margin."""
    values: dict[object, list[Drift]] = defaultdict(list)
    for drifts in runs:
        for drift in drifts:
            values[drift.where].append(drift)
    total = 0.0
    for drifts in values.values():
        upper = np.array([drift.upper for drift in drifts])
        if len(upper) > 1 and upper.std() > 0:
            total += float(stats.norm.sf((drifts[0].margin - upper.mean()) / upper.std(ddof=1)))
    return total


if __name__ == "__main__":
    sys.exit(main())
