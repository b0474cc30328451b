"""What an attribution rests on: residual, signatures and draws of rounding, whitened and stacked over the cases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from parity.attribution.alternative import Alternative, Probe
from parity.attribution.constants import DRAWS, LARGEST_PROBE, number
from parity.backends.noise import perturbed
from parity.backends.port import build_port, run_port
from parity.backends.reference import build_reference, fill_reference, fresh_parameters, run_reference
from parity.backends.shifts import F64_EPSILON
from parity.examine import LARGEST_VALUE, Bench
from parity.pairs import Pair
from parity.spec.arrays import Array
from parity.spec.precision import BY_DTYPE, RUNGS, Rung
from parity.spec.profile import HyperProfile
from parity.tolerance import Scale
from parity.trace import Trace

RunPort = Callable[[Bench, Rung], Trace]
"""Runs the port on the numbers of a bench, at a rung, under the bench's profile."""


class UnattributableError(Exception):
    """The port gave nothing that can be projected: it raised, or its outputs have another shape or are not finite."""


@dataclass(frozen=True)
class _Spot:
    """One case: its bench, the elements of its stacked outputs that are kept, and 1 / deviation of each of those."""

    bench: Bench
    kept: npt.NDArray[np.intp]
    weight: Array

    def whitened(self, columns: Array) -> Array:
        """Return the kept elements of columns (n, M), in units of the predicted rounding."""
        return np.asarray(columns[self.kept] * self.weight[:, None])


@dataclass(frozen=True)
class Ground:
    """What does not depend on the port: n elements of all outputs of all cases, in units of the predicted rounding.

    Args:
        rung: Where the port will run.
        spots: The cases.
        signatures: (n, M), T_m - T.
        profiles: (n, P), the same for whole profiles.
        noise: (n, DRAWS), what perturbed runs add to T.
    """

    rung: Rung
    spots: tuple[_Spot, ...]
    signatures: Array
    profiles: Array
    noise: Array

    def residual(self, port: RunPort) -> Array:
        """Run a port on every case and return y - T, (n,).

        Raises:
            UnattributableError: It raised, or gave outputs of another shape, or NaN or infinity.
        """
        return np.concatenate(
            [spot.whitened(_residual(spot.bench, self.rung, port)[:, None])[:, 0] for spot in self.spots]
        )


def run_the_port(bench: Bench, rung: Rung) -> Trace:
    """Build the port from the bench's parameters and run it on its inputs."""
    module = build_port(bench.pair, bench.case.options, bench.profile, rung, bench.state)
    return run_port(bench.pair, module, bench.inputs, rung)


def survey(
    pair: Pair,
    probes: Sequence[Probe],
    profile: HyperProfile,
    rung: Rung,
    alternatives: Sequence[Alternative],
    profiles: Sequence[HyperProfile],
) -> Ground:
    """Run truth, alternatives, profiles and perturbed truth on every probe within the rung's range.

    Raises:
        UnattributableError: There is none.
    """
    benches = [Bench(probe.pair(pair), probe.case, profile) for probe in probes]
    spots = tuple(_spot(bench, rung) for bench in benches if _in_range(bench, rung))
    if not spots:
        raise UnattributableError(f"every case passes through numbers that {rung.name} cannot hold")
    return Ground(
        rung,
        tuple(spot for spot, _ in spots),
        np.concatenate([spot.whitened(_signatures(spot.bench, alternatives)) for spot, _ in spots]),
        np.concatenate([spot.whitened(_profile_signatures(spot.bench, profiles)) for spot, _ in spots]),
        np.concatenate([spot.whitened(noise) for spot, noise in spots]),
    )


def _in_range(bench: Bench, rung: Rung) -> bool:
    largest = bench.largest_narrow if rung.name == "f16" else bench.largest
    return largest <= LARGEST_VALUE.get(rung.name, np.inf)


def _spot(bench: Bench, rung: Rung) -> tuple[_Spot, Array]:
    """Draw the rounding of a case, (n, DRAWS), and choose the elements: at most `LARGEST_PROBE` of each output."""
    noise, kept, deviations, start = _noise(bench, rung), [], [], 0
    scales = bench.scales(bench.profile) if bench.pair.fresh else {}
    rng = np.random.Generator(np.random.Philox(bench.case.seed))
    for name in bench.truth.outputs:
        values, held = bench.truth[name].values, BY_DTYPE[bench.reference(rung)[name].dtype]
        here = np.arange(start, start + values.size)
        explicit = _explicit(scales.get(name), rung, values.shape)
        deviations.append(np.hypot(_deviation(noise[here], values.ravel(), held), explicit))
        kept.append(here if values.size <= LARGEST_PROBE else np.sort(rng.choice(here, LARGEST_PROBE, replace=False)))
        start += values.size
    chosen = np.concatenate(kept)
    return _Spot(bench, chosen, 1 / np.concatenate(deviations)[chosen]), noise


def _noise(bench: Bench, rung: Rung) -> Array:
    generator = torch.Generator().manual_seed(bench.case.seed)
    scale = rung.u / F64_EPSILON if rung.name == "f64" else 1.0
    draws = [_difference(_perturbed(bench, rung, generator), bench) for _ in range(DRAWS)]
    return scale * np.stack(draws, axis=-1)


def _explicit(scale: Scale | None, rung: Rung, shape: tuple[int, ...]) -> Array:
    """An explicit error model in units of the tensor, one number for each element.

    Freshly built buffers go through no operation that could be perturbed: it is all there is to say of their rounding.
    """
    return np.broadcast_to(rung.u * (np.zeros(()) if scale is None else scale.rms), shape).ravel()


def _deviation(noise: Array, truth: Array, held: Rung) -> Array:
    """Predicted standard deviation of every element: draws, shrunk to the tensor's mean, and its own rounding."""
    variance = np.mean(np.square(noise), axis=-1)
    pull = number("shrinkage")
    shrunk = (DRAWS * variance + pull * variance.mean()) / (DRAWS + pull)
    return np.asarray(
        np.sqrt(shrunk + np.square(held.u * truth) / 3 + max(held.quantum, np.sqrt(RUNGS["f64"].tiny)) ** 2)
    )


def _perturbed(bench: Bench, rung: Rung, generator: torch.Generator) -> Trace:
    with perturbed(bench.module, rung, generator, bench.pair.factors):
        return run_reference(bench.pair, bench.module, bench.inputs, RUNGS["f64"])


@contextmanager
def alternative_module(bench: Bench, alternative: Alternative) -> Iterator[torch.nn.Module]:
    """Yield the float64 reference as it computes under an alternative; the bench's module is left as it is."""
    module = bench.module
    if alternative.profile:
        module = _under(bench, bench.profile.replace(**alternative.profile))
    if alternative.edit is not None:
        module = copy.deepcopy(module)
        with torch.no_grad():
            alternative.edit(module, bench.case.options)
    with alternative.context():
        yield module


def alternative_trace(bench: Bench, alternative: Alternative) -> Trace:
    """Run the float64 reference under an alternative, on the bench's numbers; the bench's module is left as it is."""
    with alternative_module(bench, alternative) as module:
        return run_reference(bench.pair, module, bench.inputs, RUNGS["f64"])


def _signatures(bench: Bench, alternatives: Sequence[Alternative]) -> Array:
    """Return T_m - T, (n, M); one that is not finite everywhere explains nothing and becomes zeros."""
    columns = [_difference(alternative_trace(bench, each), bench) for each in alternatives]
    return _finite_columns(columns, _stacked(bench.truth, bench))


def _profile_signatures(bench: Bench, profiles: Sequence[HyperProfile]) -> Array:
    """The same for whole profiles, with one run for each meaning."""
    known = {bench.profile.semantics: bench.truth}
    for profile in profiles:
        if profile.semantics not in known:
            known[profile.semantics] = run_reference(bench.pair, _under(bench, profile), bench.inputs, RUNGS["f64"])
    columns = [_difference(known[profile.semantics], bench) for profile in profiles]
    return _finite_columns(columns, _stacked(bench.truth, bench))


def _under(bench: Bench, profile: HyperProfile) -> torch.nn.Module:
    """Build the reference under another profile and give it the bench's parameters."""
    module = build_reference(bench.pair, bench.case.options, profile)
    return fill_reference(module, fresh_parameters(bench.module))


def _stacked(trace: Trace, bench: Bench) -> Array:
    return np.concatenate([trace[name].values.ravel() for name in bench.truth.outputs])


def _difference(trace: Trace, bench: Bench) -> Array:
    return _stacked(trace, bench) - _stacked(bench.truth, bench)


def _finite_columns(columns: Sequence[Array], like: Array) -> Array:
    if not columns:
        return np.zeros((len(like), 0))
    stacked = np.stack(columns, axis=-1)
    return np.where(np.isfinite(stacked).all(axis=0), stacked, 0.0)


def _residual(bench: Bench, rung: Rung, port: RunPort) -> Array:
    try:
        actual = port(bench, rung)
    except Exception as error:
        raise UnattributableError(f"the port raised {type(error).__name__}: {error}") from error
    for name in bench.truth.outputs:
        if name not in actual:
            raise UnattributableError(f"the port has no output {name}; it has {', '.join(actual.outputs)}")
        values, expected = actual[name].values, bench.truth[name].values
        if values.shape != expected.shape:
            raise UnattributableError(f"the port's {name} has shape {values.shape}, the reference's {expected.shape}")
        if not (np.isfinite(values).all() and np.isfinite(expected).all()):
            raise UnattributableError(f"{name} holds NaN or infinity")
    return _difference(actual, bench)


def applicable(alternatives: Iterable[Alternative], pair: Pair, profile: HyperProfile) -> list[Alternative]:
    """Return the alternatives that concern `pair` and are not what `profile` says already."""
    return [each for each in alternatives if pair.name in each.components and not _is_already(each, profile)]


def _is_already(alternative: Alternative, profile: HyperProfile) -> bool:
    if not alternative.profile or alternative.edit is not None or alternative.patch is not None:
        return False
    return profile.replace(**alternative.profile).semantics == profile.semantics
